"""Operating points: thresholds, the counts at a threshold, and the rates and tests made from counts.

A case is called positive when score >= threshold, everywhere. Thresholds are chosen on validation and only applied to
test. Every rate that would be 0/0 is NaN, except F1 (0 by convention, see ``Counts2x2.f1``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, betaincinv, ndtri

from dam.evaluation.auc import Array, RocCurve, known_targets, roc_curve
from dam.evaluation.curves import sensitivity_at_specificity, specificity_at_sensitivity

RULES = ("youden", "f1", "sensitivity", "specificity", "cost")
TIE = 1e-12  # criteria this close are tied


@dataclass(frozen=True)
class Threshold:
    """A threshold and how it was chosen; ``rule`` in words ("youden", "sensitivity >= 0.9", "cost 5"...)."""

    value: float
    rule: str


@dataclass(frozen=True)
class Counts2x2:
    """The table of answers against the reference standard, and its rates."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n(self) -> int:
        """All cases."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def sensitivity(self) -> float:
        """TP / (TP + FN)."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """TN / (TN + FP)."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def ppv(self) -> float:
        """Positive predictive value (precision), TP / (TP + FP), at the prevalence of these cases."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> float:
        """Negative predictive value, TN / (TN + FN), at the prevalence of these cases."""
        return _ratio(self.tn, self.tn + self.fn)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return _ratio(self.tp + self.tn, self.n)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of sensitivity and specificity."""
        return (self.sensitivity + self.specificity) / 2

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 0 where there is no positive and none was called (0/0)."""
        found = 2 * self.tp
        return found / (found + self.fp + self.fn) if found + self.fp + self.fn else 0.0

    @property
    def mcc(self) -> float:
        """Matthews' correlation in [-1, 1]; NaN where a row or column of the table is empty."""
        rows = (self.tp + self.fp) * (self.fn + self.tn)
        columns = (self.tp + self.fn) * (self.fp + self.tn)
        product = self.tp * self.tn - self.fp * self.fn
        return product / math.sqrt(rows * columns) if rows and columns else math.nan


def _ratio(part: float, whole: float) -> float:
    if whole:
        return part / whole
    return math.inf if part > 0 else math.nan


# ---------------------------------------------------------------- choosing


def choose_threshold(targets: ArrayLike, scores: ArrayLike, rule: str, value: float = math.nan) -> Threshold:
    """Choose a threshold among the distinct scores (and infinity: nobody is positive) of validation cases.

    Args: targets (N,) of 0, 1, NaN (left out); scores (N,) finite; ``rule`` one of:

    - ``youden``: largest sensitivity + specificity - 1;
    - ``f1``: largest F1;
    - ``sensitivity``: highest specificity with sensitivity >= ``value``;
    - ``specificity``: highest sensitivity with specificity >= ``value``;
    - ``cost``: smallest ``value`` * FN + FP, ``value`` > 0 the cost of a missed positive in false alarms.

    Of tied thresholds the largest is taken (fewer false alarms). Raises ``ValueError`` for another rule, and where a
    class is absent.
    """
    if rule not in RULES:
        raise ValueError(f"threshold rule {rule!r} is unknown: choose one of {', '.join(RULES)}")
    curve = roc_curve(targets, scores)
    if rule == "sensitivity":
        return Threshold(specificity_at_sensitivity(curve, value).threshold, f"sensitivity >= {value:g}")
    if rule == "specificity":
        return Threshold(sensitivity_at_specificity(curve, value).threshold, f"specificity >= {value:g}")
    known = known_targets(targets)
    m, n = float(np.sum(known == 1)), float(np.sum(known == 0))
    criterion = _criterion(curve, rule, value, m, n)
    best = int(np.argmax(criterion >= criterion.max() - TIE * max(1.0, abs(float(criterion.max())))))
    return Threshold(float(curve.thresholds[best]), f"cost {value:g}" if rule == "cost" else rule)


def _criterion(curve: RocCurve, rule: str, value: float, m: float, n: float) -> Array:
    if rule == "youden":
        return curve.tpr - curve.fpr
    tp, fp = curve.tpr * m, curve.fpr * n
    if rule == "f1":
        return 2 * tp / (tp + fp + m)
    return -(value * (m - tp) + fp)


# ---------------------------------------------------------------- counting


def confusion(targets: ArrayLike, scores: ArrayLike, threshold: float) -> Counts2x2:
    """Count the answers score >= threshold against targets (N,) of 0, 1, NaN (left out)."""
    y = known_targets(targets, drop=False)
    called = np.asarray(scores, dtype=np.float64) >= threshold
    positive, negative = y == 1, y == 0
    return Counts2x2(
        int(np.sum(positive & called)),
        int(np.sum(negative & called)),
        int(np.sum(positive & ~called)),
        int(np.sum(negative & ~called)),
    )


def wilson(k: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of k successes in n independent cases, clipped to [0, 1]; NaN for n = 0."""
    if n == 0:
        return math.nan, math.nan
    z = float(ndtri(0.5 + level / 2))
    p = k / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return (0.0 if k == 0 else max(0.0, low)), (1.0 if k == n else min(1.0, high))


def clopper_pearson(k: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of k successes in n independent cases; NaN for n = 0."""
    if n == 0:
        return math.nan, math.nan
    tail = 0.5 - level / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


# ---------------------------------------------------------------- at another prevalence, and tests


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """(PPV, NPV) at a stated prevalence by Bayes' rule; NaN where nothing is called positive (negative)."""
    called = sensitivity * prevalence + (1 - specificity) * (1 - prevalence)
    cleared = specificity * (1 - prevalence) + (1 - sensitivity) * prevalence
    return _ratio(sensitivity * prevalence, called), _ratio(specificity * (1 - prevalence), cleared)


def mcnemar(first: int, second: int) -> float:
    """McNemar's exact two-sided p from the discordant counts (right only by the first, only by the second)."""
    n = first + second
    return min(1.0, 2 * float(bdtr(min(first, second), n, 0.5))) if n else 1.0


def compare_answers(right_a: ArrayLike, right_b: ArrayLike) -> float:
    """McNemar's exact p of two raters' answers on the same cases, given whether each answer (N,) was right."""
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    return mcnemar(int(np.sum(a & ~b)), int(np.sum(~a & b)))
