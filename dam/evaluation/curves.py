"""Numbers and points of the ROC and precision-recall curves beyond the whole area; positive is score >= threshold."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dam.evaluation.auc import Array, RocCurve, known_targets, roc_curve

SLACK = 1e-12  # rounding allowed when a rate is compared with a target


class PrCurve(NamedTuple):
    """Points of the empirical precision-recall curve, one a distinct score, thresholds descending."""

    recall: Array
    precision: Array
    thresholds: Array


class AttainedPoint(NamedTuple):
    """One point of the ROC curve that a threshold attains."""

    sensitivity: float
    specificity: float
    threshold: float


def pr_curve(targets: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> PrCurve:
    """Precision and recall at every distinct score.

    Args: targets (N,) of 0, 1, NaN (left out); scores (N,) finite; weights (N,) >= 0 or None, a case of weight w counts
    as w cases (points that no weight reaches are left out). Raises ``ValueError`` for other targets, scores that are
    not finite, and where there is no positive: recall is undefined.
    """
    y = known_targets(targets, drop=False)
    s = np.asarray(scores, dtype=np.float64)
    if s.shape != y.shape or not np.isfinite(s).all():
        raise ValueError("a precision-recall curve needs one finite score a target")
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    known = ~np.isnan(y)
    y, s, w = y[known], s[known], w[known]
    if not (w @ (y == 1)) > 0:
        raise ValueError("the precision-recall curve is undefined: no positives")
    order = np.argsort(-s, kind="stable")
    y, s, w = y[order], s[order], w[order]
    last = np.flatnonzero(np.append(np.diff(s) != 0, True))
    found, called = np.cumsum(w * y)[last], np.cumsum(w)[last]
    reached = called > 0
    found, called = found[reached], called[reached]
    return PrCurve(found / found[-1], found / called, s[last][reached])


def average_precision(targets: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Average precision: sum of precision over the steps of recall (no interpolation); NaN without positives.

    Arguments as in ``pr_curve``. Chance scores the prevalence. The trapezoid under the same points is too optimistic
    (Davis and Goadrich, ICML 2006). Raises ``ValueError`` for scores or targets as ``pr_curve`` does.
    """
    y = known_targets(targets)
    if not (y == 1).any():
        return math.nan
    curve = pr_curve(targets, scores, weights)
    return float(np.diff(curve.recall, prepend=0.0) @ curve.precision)


def partial_auc(targets: ArrayLike, scores: ArrayLike, max_fpr: float = 0.1, standardized: bool = True) -> float:
    """Area under the ROC curve over FPR in [0, ``max_fpr``], linear between points; NaN where a class is absent.

    Standardized: 0.5 * (1 + (area - f^2/2) / (f - f^2/2)), so that chance is 0.5 and perfect 1. Raises ``ValueError``
    for ``max_fpr`` outside (0, 1]. Source: McClish, Med. Decis. Making 9 (1989).
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must lie in (0, 1], not {max_fpr:g}")
    y = known_targets(targets)
    if not (y == 1).any() or not (y == 0).any():
        return math.nan
    curve = roc_curve(targets, scores)
    inside = curve.fpr <= max_fpr
    x, t = curve.fpr[inside], curve.tpr[inside]
    if x[-1] < max_fpr:
        x = np.append(x, max_fpr)
        t = np.append(t, roc_at(curve, max_fpr))
    area = float(np.trapezoid(t, x))
    return standardize(area, max_fpr) if standardized else area


def standardize(area: float, max_fpr: float) -> float:
    """McClish's standardized form of a partial area over FPR in [0, ``max_fpr``]."""
    chance = max_fpr**2 / 2
    return 0.5 * (1 + (area - chance) / (max_fpr - chance))


def roc_at(curve: RocCurve, fpr: float) -> float:
    """TPR of the empirical curve at one FPR: linear between points, the upper value where the curve is vertical."""
    after = int(np.searchsorted(curve.fpr, fpr + SLACK, side="right"))
    if after == len(curve.fpr):
        return float(curve.tpr[-1])
    before = after - 1
    width = curve.fpr[after] - curve.fpr[before]
    share = max(0.0, fpr - curve.fpr[before]) / width
    return float(curve.tpr[before] + share * (curve.tpr[after] - curve.tpr[before]))


def pr_at(curve: PrCurve, recall: float) -> float:
    """Precision of the first attained point with at least this recall (step form, no interpolation)."""
    return float(curve.precision[int(np.argmax(curve.recall >= recall - SLACK))])


def sensitivity_at_specificity(curve: RocCurve, specificity: float) -> AttainedPoint:
    """The attained point of highest sensitivity whose specificity is at least ``specificity``.

    Step convention: no threshold attains the points between. Of equal sensitivities the largest threshold is taken, and
    so the highest specificity. The point "nobody is positive" (threshold infinite) is always allowed.
    """
    allowed = curve.fpr <= 1 - specificity + SLACK
    best = int(np.argmax(np.where(allowed, curve.tpr, -1.0)))
    return AttainedPoint(float(curve.tpr[best]), float(1 - curve.fpr[best]), float(curve.thresholds[best]))


def specificity_at_sensitivity(curve: RocCurve, sensitivity: float) -> AttainedPoint:
    """The attained point of highest specificity whose sensitivity is at least ``sensitivity``."""
    reached = int(np.argmax(curve.tpr >= sensitivity - SLACK))  # the last point, (1, 1), always is
    return AttainedPoint(float(curve.tpr[reached]), float(1 - curve.fpr[reached]), float(curve.thresholds[reached]))
