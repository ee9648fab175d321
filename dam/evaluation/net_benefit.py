"""Decision curves: the net benefit of acting on calibrated probabilities, beside treating everybody and nobody."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dam.evaluation.auc import Array, known_targets

GRID = np.round(np.linspace(0.01, 0.99, 99), 2)


class DecisionCurve(NamedTuple):
    """Net benefit a case at each threshold; treating nobody has 0."""

    thresholds: Array
    model: Array
    treat_all: Array


def decision_curve(targets: ArrayLike, probabilities: ArrayLike, thresholds: ArrayLike | None = None) -> DecisionCurve:
    """Net benefit TP/n - FP/n * t/(1-t) of treating the cases with p >= t.

    Args: targets (N,) of 0, 1, NaN (left out); probabilities (N,) in [0, 1], calibrated; thresholds in (0, 1), None:
    0.01 to 0.99. Raises ``ValueError`` for other values and without known targets.
    Source: Vickers and Elkin, Med. Decis. Making 26 (2006).
    """
    t = GRID if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if not ((t > 0) & (t < 1)).all():
        raise ValueError("thresholds of a decision curve must lie in (0, 1)")
    y = known_targets(targets, drop=False)
    p = np.asarray(probabilities, dtype=np.float64)
    if p.shape != y.shape or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a decision curve needs one probability in [0, 1] a target")
    y, p = y[~np.isnan(y)], p[~np.isnan(y)]
    if not len(y):
        raise ValueError("a decision curve needs known targets")
    odds = t / (1 - t)
    positives, negatives = np.sort(p[y == 1]), np.sort(p[y == 0])
    tp = len(positives) - np.searchsorted(positives, t, side="left")
    fp = len(negatives) - np.searchsorted(negatives, t, side="left")
    n = len(y)
    return DecisionCurve(t, (tp - fp * odds) / n, (len(positives) - len(negatives) * odds) / n)
