"""What a network is given: uint8 images to floats, by mean and standard deviation or by histogram equalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dam.config import ModelConfig
from dam.errors import UserError

HISTOGRAM = "histogram_255"
# Channel means and standard deviations of ImageNet, timm's usual input statistics.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LEVELS = 256


def input_statistics(cfg: ModelConfig, in_chans: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel, for pixels in [0, 1]: the config's, else the network's own.

    One channel takes the mean over the network's three, to go with first-layer weights summed over channels.
    """
    if cfg.mean is not None and cfg.std is not None:
        mean, std = list(cfg.mean), [float(s) for s in cfg.std]
        if len(mean) not in (1, in_chans) or len(std) != len(mean):
            raise UserError(
                f"model.mean and model.std need 1 or {in_chans} values each, not {len(mean)} and {len(std)}"
            )
        return (mean * in_chans)[:in_chans], (std * in_chans)[:in_chans]
    mean3, std3 = network_statistics(cfg.name)
    if in_chans == len(mean3):
        return mean3, std3
    return [sum(mean3) / len(mean3)] * in_chans, [sum(std3) / len(std3)] * in_chans


def network_statistics(name: str) -> tuple[list[float], list[float]]:
    """timm's channel means and standard deviations of a network, ImageNet's where it has none."""
    import timm

    pretrained_cfg = timm.get_pretrained_cfg(name)
    mean, std = (pretrained_cfg.mean, pretrained_cfg.std) if pretrained_cfg is not None else _IMAGENET
    return list(mean), list(std)


def input_normalization(cfg: ModelConfig, in_chans: int) -> nn.Module:
    """The module from uint8 images (N, H, W, C) to the network's input (N, C, H, W), by ``model.normalization``."""
    if cfg.normalization == HISTOGRAM:
        return HistogramNormalization()
    return InputNormalization(*input_statistics(cfg, in_chans))


def normalization_facts(cfg: ModelConfig, in_chans: int) -> dict[str, Any]:
    """The same in words and numbers, for the description of an exported file."""
    if cfg.normalization == HISTOGRAM:
        return {"where": "in the graph: 256-bin histogram equalization of each image, to 0..255"}
    mean, std = input_statistics(cfg, in_chans)
    return {"where": "in the graph: (x / 255 - mean) / std", "mean": mean, "std": std}


class InputNormalization(nn.Module):
    """uint8 images (N, H, W, C) to normalized float images (N, C, H, W); the view is channels_last already."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        # On uint8 values, so that one pass normalizes: (x / 255 - mean) / std.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # Whole rows at once and in place: torch's CPU kernels are slow along a last axis of 3, fresh memory costs, too.
        rows = images.flatten(2).to(torch.float32, copy=True)
        width = images.shape[2]
        rows.sub_(self.mean.flatten().repeat(width)).div_(self.std.flatten().repeat(width))
        return rows.view(images.shape).permute(0, 3, 1, 2)


class HistogramNormalization(nn.Module):
    """uint8 images (N, H, W, C) to float images (N, C, H, W) in 0..255, the histogram of each image equalized.

    As CovidPrognosis' ``HistogramNormalize``: 256 bins between the image's darkest and brightest level, their
    cumulative share times 255, linear between the left edges of the bins. Of 256 levels every one has a bin of its own,
    so the map is a table of 256 entries an image. Colour images have one histogram over their channels, which of gray
    copies is that of the gray image. A flat image becomes 255.
    """

    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.arange(_LEVELS), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.reshape(images.shape[0], -1).long()
        ones = torch.ones_like(flat, dtype=torch.float32)
        counts = torch.zeros(flat.shape[0], _LEVELS, device=flat.device).scatter_add(1, flat, ones)  # whole: exact
        equalized = self._table(counts, flat).gather(1, flat)
        return equalized.reshape(images.shape).permute(0, 3, 1, 2)

    def _table(self, counts: Tensor, flat: Tensor) -> Tensor:
        """(N, 256): what becomes of each gray level."""
        cumulative = counts.cumsum(1) * (255.0 / flat.shape[1])
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        span = (high - low).clamp(min=1)
        place = (self.levels - low) * _LEVELS  # in units of span: left edges are its multiples
        bins = torch.div(place, span, rounding_mode="floor")
        share = (place - bins * span).float() / span
        # The next level's bin follows directly, or there is an empty one between, where the sum does not rise.
        following = torch.cat([cumulative[:, 1:], cumulative[:, -1:]], dim=1)
        adjoins = torch.div(place + _LEVELS, span, rounding_mode="floor").clamp(max=_LEVELS - 1) == bins + 1
        return cumulative + share * adjoins * (following - cumulative)
