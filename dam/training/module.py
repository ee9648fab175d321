"""One module (images, targets) -> loss: normalization, network, score and loss, as data parallelism wants it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from dam.data.loader import Batches
from dam.objectives import apply_score
from dam.training import distributed
from dam.training.device import Device
from dam.training.inputs import in_order


class Network(nn.Module):
    """uint8 images (N, H, W, C), or features (N, F), -> float32 logits (N, K), on ``device``. ``normalization`` makes
    the model's input of them. Only the features run under autocast.

    The head stays in float32: logits rounded to bf16 would tie, and ties change the AUC.
    """

    def __init__(self, model: nn.Module, normalization: nn.Module, device: Device, compiled: bool) -> None:
        super().__init__()
        self.layout = device.layout(model)
        self.model = model.to(memory_format=self.layout)
        self.normalization = normalization
        self.device = device
        # None in a copy (the weights' average): a compiled function would go on using the first network's weights.
        self.compiled: Callable[[Tensor], Tensor] | None = None
        if compiled:
            self.compiled = torch.compile(model.forward_features)  # type: ignore[arg-type]
        self.to(device.device)

    def forward(self, images: Tensor) -> Tensor:
        features_of = self.compiled or self.model.forward_features
        with self.device.autocast():
            features = features_of(self.inputs(images))  # type: ignore[operator]
        logits: Tensor = self.model.forward_head(features.float())  # type: ignore[operator]
        return logits

    def inputs(self, images: Tensor) -> Tensor:
        """What the model takes: normalized, and laid out in memory as the model is."""
        inputs: Tensor = self.normalization(images)  # a view that lies channels_last
        # Not .contiguous(): with one channel both layouts are contiguous, and torch goes by the strides.
        return inputs if self.layout == torch.channels_last else inputs.clone(memory_format=self.layout)


class TrainingModule(nn.Module):
    """(images, targets, counts) -> (loss, scores before the loss, detached).

    ``images`` are those of this process; targets, scores and loss are those of all processes.
    """

    def __init__(self, network: Network, loss: nn.Module, score: str) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.score = score

    def forward(self, images: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        scores = apply_score(self.score, distributed.gathered_with_gradient(self.network(images)), targets)
        return self.loss(scores, targets, counts), scores.detach()


def average_of(network: Network, decay: float | None) -> ModelEmaV3 | None:
    """The running average of the weights, None without a ``decay``."""
    if decay is None:
        return None
    average = ModelEmaV3(network, decay=decay, use_warmup=True)
    average.module.compiled = None
    return average


def infer(network: Network, loader: Batches, count: int, batch_size: int, copy: int = 0) -> np.ndarray:
    """Logits of the loader's rows 0..count-1, float64 (count, K), in inference mode; each layer's mode is put back.

    Several processes take turns at batches of their share of ``batch_size``; all get all logits.
    ``copy``: which augmented copy of every image, where the loader augments.
    """
    rank, world = distributed.rank(), distributed.world()
    draws = in_order(count, -(-batch_size // world), copy)
    modes = [(layer, layer.training) for layer in network.modules()]  # frozen BatchNorm has another than the rest
    network.eval()
    device = network.device.device
    parts = []
    with torch.inference_mode():
        for batch in loader.batches(draws[rank::world]):
            parts.append(network(batch.images.to(device, non_blocking=True)).float())
    for layer, mode in modes:
        layer.training = mode
    mine = torch.cat(parts).cpu().numpy().astype(np.float64) if parts else np.zeros((0, 0))
    return distributed.in_turns(mine, [len(draw.rows) for draw in draws])
