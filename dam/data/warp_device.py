"""A plan of ``geometry.py`` applied to a whole batch where the network is (``augment_on=device``)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from dam.data.geometry import Border, Plan

# cv2's borders: constant, replicate, reflect (abc|cba), reflect_101 (abc|ba); what comes in by grid_sample's names, and
# whether -1 and 1 are the centres of the outermost pixels (else their outer edges), where it mirrors.
_BORDERS = {0: ("zeros", True), 1: ("border", True), 2: ("reflection", False), 4: ("reflection", True)}
_MODES = {0: "nearest", 1: "bilinear"}


def can_apply(border: Border) -> bool:
    """False where cv2 knows a border or an interpolation that torch lacks."""
    return border.mode in _BORDERS and border.interpolation in _MODES


def apply(plan: Plan, images: Tensor) -> Tensor:
    """Images uint8 (n, S, S, C) after ``plan``, on their device.

    As ``warp.apply`` gives, but for the rounding of interpolated values: one level of 255 on smooth images.
    """
    warped = _warp(plan, images)
    if plan.levels is None:
        return warped
    levels = _there(plan.levels, images.device)
    return levels.gather(1, warped.flatten(1).long()).view(images.shape)


def _warp(plan: Plan, images: Tensor) -> Tensor:
    padding, centres = _BORDERS[plan.border.mode]
    fill = torch.zeros(())
    pixels = images.permute(0, 3, 1, 2).float()
    if padding == "zeros":
        channels = pixels.shape[1]
        fill = _there(np.array(plan.border.fill[:channels], np.float32), images.device).view(1, channels, 1, 1)
        pixels = pixels - fill
    grid = _grid(plan.maps, images.shape[1], centres, images.device)
    mode = _MODES[plan.border.interpolation]
    result = grid_sample(pixels, grid, mode=mode, padding_mode=padding, align_corners=centres)
    if padding == "zeros":
        result = result + fill
    return result.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _grid(maps: np.ndarray, size: int, centres: bool, device: torch.device) -> Tensor:
    """Where each output pixel comes from, (n, S, S, 2), x and y, -1 .. 1 over the image."""
    span = (size - 1) / 2 if centres else size / 2  # pixels from the middle to 1
    scaled = maps.copy()
    scaled[:, :, 2] = (maps[:, :, 2] - (size - 1) / 2) / span
    scaled[:, :, :2] /= span
    terms = _there(scaled.astype(np.float32), device)[:, None, None]  # (n, 1, 1, 2, 3)
    steps = torch.arange(size, dtype=torch.float32, device=device)
    return terms[..., 0] * steps.view(1, 1, size, 1) + terms[..., 1] * steps.view(1, size, 1, 1) + terms[..., 2]


def _there(values: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
