"""Where a network looked: Grad-CAM for networks with feature maps, attention rollout for plain vision transformers.

Grad-CAM (Selvaraju et al., ICCV 2017) is that of the package grad-cam (the extra ``explain``), on what the head reads:
the output of ``forward_features``. Networks with attention in windows or along channels (Swin, DaViT, MaxViT) have no
attention from every patch to every other, which rollout multiplies, but their last stage is a feature map: Grad-CAM.
Rollout (Abnar & Zuidema, ACL 2020, eq. 1) does not ask for which output: it is that of a network, whatever its labels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from dam.errors import UserError
from dam.training.module import Network

GRAD_CAM, ROLLOUT = "Grad-CAM", "attention rollout"
INSTALL = 'pip install "dam[explain]"'


def check_installed() -> None:
    """Raise ``UserError`` where the package grad-cam is not installed."""
    try:
        import pytorch_grad_cam  # noqa: F401
    except ImportError as error:
        raise UserError(f"--explain needs the package grad-cam: {INSTALL}") from error


class Maps:
    """The maps of one network. ``method`` is ``GRAD_CAM`` or ``ROLLOUT``; ``grid``: rows and columns of its places.

    Raises ``UserError`` for a network that has neither a feature map nor attention from all patches to all.
    """

    def __init__(self, network: Network, size: int, channels: int) -> None:
        self.network = network
        self.model = network.model
        blank = torch.zeros(1, size, size, channels, dtype=torch.uint8, device=network.device.device)
        with torch.inference_mode():
            features = self._features(network.normalization(blank))
        self.method = GRAD_CAM if features.ndim == 4 else ROLLOUT
        width = int(getattr(self.model, "num_features", 0))
        self._channels_last = features.ndim == 4 and features.shape[1] != width and features.shape[3] == width
        if self.method == GRAD_CAM:
            places = features.shape[1:3] if self._channels_last else features.shape[2:]
            self.grid = (int(places[0]), int(places[1]))
        else:
            if not _attentions(self.model):
                raise UserError(
                    f"{type(self.model).__name__} has neither a feature map for Grad-CAM nor attention from all "
                    "patches to all others for attention rollout: it cannot be explained"
                )
            self.grid = tuple(self.model.patch_embed.grid_size)  # type: ignore[union-attr, arg-type]

    def __call__(self, images: np.ndarray, output: int) -> np.ndarray:
        """uint8 (n, S, S, C) -> float32 (n, S, S) in [0, 1] for the logit number ``output``, each scaled to its own
        largest value; all 0 where nothing speaks for it."""
        pixels = self.network.normalization(torch.from_numpy(images).to(self.network.device.device))
        maps = self._grad_cam(pixels, output) if self.method == GRAD_CAM else self._rollout(pixels)
        return np.stack([_scaled(one, images.shape[1]) for one in maps])

    def _features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(pixels)  # type: ignore[operator]
        return features

    def _grad_cam(self, pixels: Tensor, output: int) -> np.ndarray:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        staged = _Staged(self.model)
        to_channels_first = (lambda features: features.permute(0, 3, 1, 2)) if self._channels_last else None
        with GradCAM(staged, [staged.features], reshape_transform=to_channels_first) as cam:
            maps: np.ndarray = cam(pixels, [ClassifierOutputTarget(output)] * len(pixels))
        self.model.zero_grad(set_to_none=True)
        return maps

    def _rollout(self, pixels: Tensor) -> np.ndarray:
        attentions = _attentions(self.model)
        before = [module.fused_attn for module in attentions]
        seen: list[Tensor] = []
        handles = [
            module.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().mean(1)))
            for module in attentions
        ]
        try:
            for module in attentions:
                module.fused_attn = False  # the fused kernel never holds the matrix
            with torch.inference_mode():
                self._features(pixels)
        finally:
            for module, fused, handle in zip(attentions, before, handles, strict=True):
                module.fused_attn = fused
                handle.remove()
        return rolled_out(seen, self.model)


def rolled_out(attentions: list[Tensor], model: Any) -> np.ndarray:
    """Attention rollout: layers' (n, T, T) mean over heads -> float32 (n, rows, columns) of the patches.

    Every layer counts half its attention and half the identity, for the residual connection. Read at the class token
    where the head reads that, else averaged over the patches.
    """
    tokens = attentions[0].shape[-1]
    if any(layer.shape[1:] != (tokens, tokens) for layer in attentions):
        raise UserError(
            f"{type(model).__name__} attends to other patches in other layers: rollout is not defined for it"
        )
    identity = torch.eye(tokens, device=attentions[0].device)
    whole = identity
    for layer in attentions:
        mixed = 0.5 * layer + 0.5 * identity
        whole = (mixed / mixed.sum(-1, keepdim=True)) @ whole
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    token = getattr(model, "global_pool", "") == "token" and prefix > 0
    read = whole[:, 0, prefix:] if token else whole[:, prefix:, prefix:].mean(1)
    rows, columns = model.patch_embed.grid_size
    result: np.ndarray = read.reshape(len(read), rows, columns).cpu().numpy()
    return result


class _Staged(nn.Module):
    """The network in two steps, of which the first is a module that can be hooked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.features = _Features(model)
        self._head = model.forward_head

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self._head(self.features(pixels))  # type: ignore[operator]
        return logits


class _Features(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(pixels)  # type: ignore[operator]
        return features


def _attentions(model: nn.Module) -> list[Any]:
    """Attention of all patches to all others, in order: of timm's vision transformers and their kin."""
    if not hasattr(model, "patch_embed") or not hasattr(model.patch_embed, "grid_size"):
        return []
    return [
        m for m in model.modules() if hasattr(m, "fused_attn") and isinstance(getattr(m, "attn_drop", None), nn.Module)
    ]


def _scaled(one: np.ndarray, size: int) -> np.ndarray:
    """A map at ``size`` pixels a side, from 0 to 1; one without a highest place is all 0."""
    one = np.asarray(one, np.float32)
    one = one - one.min()
    high = float(one.max())
    one = one / high if high > 1e-6 else np.zeros_like(one)
    return np.asarray(cv2.resize(one, (size, size), interpolation=cv2.INTER_LINEAR))
