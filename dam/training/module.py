"""One module (images, targets) -> loss: normalization, network, score and loss, as data parallelism wants it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dam.data.loader import Batches
from dam.objectives import apply_score
from dam.training.device import Device
from dam.training.inputs import in_order


class Network(nn.Module):
    """uint8 images (N, H, W, C), or features (N, F), -> float32 logits (N, K). ``normalization`` makes the model's
    input of them. Only the features run under autocast.

    The head stays in float32: logits rounded to bf16 would tie, and ties change the AUC.
    """

    def __init__(self, model: nn.Module, normalization: nn.Module, device: Device, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self.normalization = normalization
        self.device = device
        # None in a copy (the weights' average): a compiled function would go on using the first network's weights.
        self.compiled: Callable[[Tensor], Tensor] | None = None
        if compiled:
            self.compiled = torch.compile(model.forward_features)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        features_of = self.compiled or self.model.forward_features
        with self.device.autocast():
            features = features_of(self.normalization(images))  # type: ignore[operator]
        logits: Tensor = self.model.forward_head(features.float())  # type: ignore[operator]
        return logits


class TrainingModule(nn.Module):
    """(images, targets, counts) -> (loss, scores before the loss, detached)."""

    def __init__(self, network: Network, loss: nn.Module, score: str) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.score = score

    def forward(self, images: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        scores = apply_score(self.score, self.network(images), targets)
        return self.loss(scores, targets, counts), scores.detach()


def infer(network: Network, loader: Batches, count: int, batch_size: int, copy: int = 0) -> np.ndarray:
    """Logits of the loader's rows 0..count-1, float64 (count, K), in inference mode; the training mode is put back.

    ``copy``: which augmented copy of every image, where the loader augments.
    """
    training = network.training
    network.eval()
    device = network.device.device
    parts = []
    with torch.inference_mode():
        for batch in loader.batches(in_order(count, batch_size, copy)):
            parts.append(network(batch.images.to(device, non_blocking=True)).float())
    network.train(training)
    return torch.cat(parts).cpu().numpy().astype(np.float64)
