"""What to watch while a stage trains, summed on the device without waiting for it: loss and the terms of eq. (6)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dam.objectives import StreamMonitor


class Monitor:
    """Sums since the last evaluation. ``margin`` None: a likelihood, which has no terms of eq. (6)."""

    def __init__(self, labels: int, margin: float | None, hinge: bool, device: torch.device) -> None:
        self._loss = torch.zeros((), device=device)
        self._stream = None if margin is None else StreamMonitor(labels, margin, hinge).to(device)
        self._batches = self._one_class = 0

    def add_loss(self, loss: Tensor) -> None:
        """The loss of a whole batch."""
        self._loss += loss.detach()
        self._batches += 1

    def add_counts(self, counts: Tensor) -> None:
        """``counts`` (2, K) of a whole batch, on the CPU: one in which a label lacks a class is counted."""
        self._one_class += int((counts == 0).any())

    def add_scores(self, scores: Tensor, targets: Tensor) -> None:
        """Scores (N, K) as the loss sees them; a part of a batch is welcome."""
        if self._stream is not None:
            self._stream.update(scores, targets)

    def read(self, loss: nn.Module) -> dict[str, float]:
        """Means over the labels (NaN where a class was absent or no step was taken), then start anew. Waits for the
        device."""
        values = {
            "train_loss": float(self._loss) / self._batches if self._batches else math.nan,
            "one_class_batches": self._one_class / max(1, self._batches),
        }
        if self._stream is not None:
            terms = self._stream.values()
            values |= {name: _mean(terms[name]) for name in ("a1", "a2", "a3")}
            values["distance"] = _mean(self._stream.mean[0] - self._stream.mean[1])
            values |= {name: _mean(getattr(loss, name)) for name in ("a", "b", "alpha")}
            self._stream.reset()
        self._loss.zero_()
        self._batches = self._one_class = 0
        return values

    def state_dict(self) -> dict[str, Any]:
        stream = None if self._stream is None else self._stream.state_dict()
        return {"loss": self._loss.cpu(), "batches": self._batches, "one_class": self._one_class, "stream": stream}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loss.copy_(state["loss"])
        self._batches, self._one_class = state["batches"], state["one_class"]
        if self._stream is not None:
            self._stream.load_state_dict(state["stream"])


def has_collapsed(distance: float, margin: float, a3: list[float]) -> bool:
    """Whether the scores have collapsed, whatever the loss says: the class means lie together and A3, evaluation by
    evaluation, has risen by 2 % or more above its lowest value."""
    return len(a3) >= 3 and a3[-1] > 1.02 * min(a3[:-1]) and abs(distance) < 0.02 * margin


def _mean(values: Tensor) -> float:
    array = values.detach().cpu().numpy().astype(np.float64)
    defined = array[~np.isnan(array)]
    return float(defined.mean()) if len(defined) else float("nan")
