"""What an evaluation within a stage measures on the validation rows, and by ``select=accuracy`` at which threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dam.evaluation.operating import choose_threshold, confusion
from dam.training.inputs import Inputs
from dam.training.metrics import cross_entropy, label_auc
from dam.training.module import Network, infer


@dataclass(frozen=True)
class Operating:
    """The threshold (a logit) of the largest F1 a label, and accuracy and F1 there, means over the labels.

    A label that lacks a class in validation has no threshold and is left out of the means.
    """

    thresholds: dict[str, float]
    accuracy: float
    f1: float

    def columns(self) -> dict[str, float]:
        """The values as columns of metrics.csv."""
        thresholds = {f"threshold/{label}": value for label, value in self.thresholds.items()}
        return {"val_accuracy": self.accuracy, "val_f1": self.f1, **thresholds}

    def facts(self) -> dict[str, Any]:
        """The values as they stand in stage.json."""
        return {"threshold": dict(self.thresholds), "val_accuracy": self.accuracy, "val_f1": self.f1}


def operating_columns(labels: Sequence[str]) -> tuple[str, ...]:
    """The columns that ``select=accuracy`` adds to metrics.csv."""
    return ("val_accuracy", "val_f1", *(f"threshold/{label}" for label in labels))


def at_largest_f1(labels: Sequence[str], targets: np.ndarray, logits: np.ndarray) -> Operating:
    """Of targets (n, K) of 0, 1, NaN and logits (n, K): each label's threshold of the largest F1 (the largest of tied
    ones), predicting positive at or above it; the COVID study's rule for one label."""
    thresholds, accuracies, f1s = {}, [], []
    for k, label in enumerate(labels):
        if math.isnan(label_auc(targets[:, k], logits[:, k])):
            continue
        thresholds[label] = choose_threshold(targets[:, k], logits[:, k], "f1").value
        counts = confusion(targets[:, k], logits[:, k], thresholds[label])
        accuracies.append(counts.accuracy)
        f1s.append(counts.f1)
    mean = float(np.mean(accuracies)) if accuracies else math.nan
    return Operating(thresholds, mean, float(np.mean(f1s)) if f1s else math.nan)


@dataclass(frozen=True)
class Measured:
    """One evaluation. ``aucs``: a label, NaN where a class is absent; ``mean``: of those that are defined."""

    finite: bool
    aucs: list[float] = field(default_factory=list)
    mean: float = math.nan
    loss: float = math.nan
    operating: Operating | None = None


class Validation:
    """The validation rows in which at least one of ``labels`` is known, in the table's order."""

    def __init__(self, inputs: Inputs, labels: tuple[str, ...], batch_size: int) -> None:
        self.labels, self._batch_size = labels, batch_size
        self.rows = inputs.known("val", labels)
        self.targets = inputs.targets(self.rows, labels)
        self._loader = inputs.loader(self.rows, labels)

    def logits(self, network: Network, count: int | None = None) -> np.ndarray:
        """float64 (rows, K); of the first ``count`` rows only, if given."""
        return infer(network, self._loader, len(self.rows) if count is None else count, 2 * self._batch_size)

    def measure(self, network: Network, with_threshold: bool) -> Measured:
        """AUC, cross-entropy and, if asked for, the operating point of the largest F1; nothing if not finite."""
        logits = self.logits(network)
        if not np.isfinite(logits).all():
            return Measured(finite=False)
        aucs = [label_auc(self.targets[:, k], logits[:, k]) for k in range(len(self.labels))]
        defined = [value for value in aucs if not math.isnan(value)]
        mean = float(np.mean(defined)) if defined else math.nan
        operating = at_largest_f1(self.labels, self.targets, logits) if with_threshold else None
        return Measured(True, aucs, mean, cross_entropy(self.targets, logits), operating)
