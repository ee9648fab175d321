"""Which weights of a stage are kept. Validation chooses; test is never looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FEW_POSITIVES = 50
SMOOTHED_OVER = 3


def resolve(select: str, targets: np.ndarray) -> str:
    """``best``, ``smoothed``, ``last`` or ``accuracy`` for validation targets (n, K).

    ``auto`` takes the last weights where a label has under 50 validation positives (picking the best of many noisy AUCs
    was worse than the last in 32 of 46 measured cases), otherwise those of the best mean over three evaluations.
    """
    if select != "auto":
        return select
    with np.errstate(invalid="ignore"):
        fewest = int((targets >= 0.5).sum(axis=0).min())
    return "last" if fewest < FEW_POSITIVES else "smoothed"


@dataclass
class Selection:
    """The validation AUCs so far, and the best by the rule: their maximum, that of their means over three, that of the
    accuracy, or none. Of equal ones the first is kept.

    ``best_step`` 0 means that the last weights are kept: by rule, or because nothing could be compared. ``best`` is
    what the rule compares; ``best_auc`` the AUC (``smoothed``: the mean of three) of the weights that it keeps.
    """

    rule: str
    values: list[float] = field(default_factory=list)
    best: float = -math.inf
    best_auc: float = -math.inf
    best_step: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, value: float, step: int, accuracy: float = math.nan, **facts: Any) -> tuple[float, bool]:
        """The smoothed AUC (NaN before the third) and whether these weights are to be kept. NaN is never the best.

        ``facts`` are remembered with the weights that are kept.
        """
        self.values.append(value)
        recent = self.values[-SMOOTHED_OVER:]
        smoothed = float(np.mean(recent)) if len(recent) == SMOOTHED_OVER else math.nan
        judged = {"best": value, "smoothed": smoothed, "accuracy": accuracy}.get(self.rule, math.nan)
        better = judged > self.best  # False for NaN
        if better:
            self.best, self.best_step, self.facts = judged, step, facts
            self.best_auc = smoothed if self.rule == "smoothed" else value
        return smoothed, better

    def chosen_auc(self) -> float:
        """The validation AUC of the weights that are kept at the end."""
        return self.best_auc if self.best_step else self.values[-1]

    def state_dict(self) -> dict[str, Any]:
        best = {name: getattr(self, name) for name in ("best", "best_auc", "best_step", "facts")}
        return {"values": self.values, **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values, self.best, self.best_step = list(state["values"]), state["best"], state["best_step"]
        self.best_auc = state.get("best_auc", self.best)  # a checkpoint from before there was another rule
        self.facts = dict(state.get("facts", {}))
