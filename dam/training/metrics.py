"""metrics.csv (what was measured, no clock in it: bit-identical after a resume) and timing.csv (the clock)."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from dam.evaluation.auc import roc_auc
from dam.files import atomic_write_text
from dam.training.distributed import is_main

COLUMNS = (
    "step",
    "epoch",
    "lr",
    "train_loss",
    "val_auc",
    "val_auc_smoothed",
    "val_loss",
    "a1",
    "a2",
    "a3",
    "distance",
    "a",
    "b",
    "alpha",
    "one_class_batches",
)


def columns_of(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of a stage that learns ``labels``."""
    return COLUMNS + (tuple(f"val_auc/{label}" for label in labels) if len(labels) > 1 else ())


class MetricsFile:
    """The rows of a stage, one an evaluation, rewritten whole and atomically each time."""

    def __init__(self, folder: Path, columns: tuple[str, ...]) -> None:
        self._folder = folder
        self._columns = columns
        self._rows: list[list[str]] = []
        self._timing: list[list[str]] = []

    def add(self, row: dict[str, Any], seconds: float, images_per_second: float) -> None:
        self._rows.append([_text(row.get(column)) for column in self._columns])
        self._timing.append([_text(row["step"]), f"{seconds:.3f}", f"{images_per_second:.1f}"])
        if not is_main():
            return
        atomic_write_text(self._folder / "metrics.csv", _csv(self._columns, self._rows))
        atomic_write_text(self._folder / "timing.csv", _csv(("step", "seconds", "images_per_second"), self._timing))

    def column(self, name: str) -> list[float]:
        """The values of a column so far, blanks left out."""
        place = self._columns.index(name)
        return [float(row[place]) for row in self._rows if row[place]]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows, "timing": self._timing}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows, self._timing = [list(r) for r in state["rows"]], [list(r) for r in state["timing"]]


def label_auc(targets: np.ndarray, scores: np.ndarray) -> float:
    """ROC AUC of one label over its known targets; NaN where a class is absent."""
    known = ~np.isnan(targets)
    positive = targets[known] >= 0.5
    if positive.all() or not positive.any():
        return math.nan
    return float(roc_auc(positive.astype(float), scores[known]))


def cross_entropy(targets: np.ndarray, logits: np.ndarray) -> float:
    """Mean binary cross-entropy over known targets, as a yardstick shared by all objectives."""
    known = ~np.isnan(targets)
    z, y = logits[known], targets[known]
    return float(np.mean(np.logaddexp(0, z) - y * z))


def _text(value: Any) -> str:
    """Full precision; blank where there is no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def _csv(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
