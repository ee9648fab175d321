"""Differences of AUCs on the same cases, the macro mean over labels, and the adjustment for many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from dam.evaluation.auc import Array, Placements
from dam.evaluation.intervals import NO_VARIANCE, clustered_covariance, contrast, delong_covariance, sum_by_group


@dataclass(frozen=True)
class Difference:
    """A paired difference a - b of two AUCs with its normal interval and two-sided p; NaN where not estimable."""

    difference: float
    low: float
    high: float
    p_value: float


def difference_test(difference: float, variance: float, level: float = 0.95) -> Difference:
    """Test a difference of known variance against 0.

    Two models that rank alike (difference 0, variance 0) give p = 1; a difference without variance gives p NaN.
    """
    if math.isnan(difference) or math.isnan(variance):
        return Difference(difference, math.nan, math.nan, math.nan)
    if not variance > NO_VARIANCE:
        if difference == 0:
            return Difference(0.0, 0.0, 0.0, 1.0)
        return Difference(difference, math.nan, math.nan, math.nan)
    se = math.sqrt(variance)
    half = float(ndtri(0.5 + level / 2)) * se
    return Difference(difference, difference - half, difference + half, float(2 * ndtr(-abs(difference) / se)))


def paired_test(
    placed: Placements,
    a: int,
    b: int,
    positive_patients: ArrayLike | None = None,
    negative_patients: ArrayLike | None = None,
) -> Difference:
    """DeLong's paired test of models ``a`` and ``b`` (rows of ``placed``), clustered when patients are given.

    ``positive_patients`` (m,) and ``negative_patients`` (n,) as in ``clustered_covariance``; both or neither.
    """
    weights = np.zeros(len(placed.auc))
    weights[a] += 1
    weights[b] -= 1
    placed_difference = contrast(placed, weights)
    if positive_patients is None or negative_patients is None:
        variance = delong_covariance(placed_difference)
    else:
        variance = clustered_covariance(placed_difference, positive_patients, negative_patients)
    return difference_test(float(placed.auc[a] - placed.auc[b]), float(variance[0, 0]))


def influence(
    placed: Placements, positive_codes: NDArray[np.intp], negative_codes: NDArray[np.intp], patients: int
) -> Array:
    """Influence of each patient on one label's AUC: (R, patients), summing to 0 a model.

    A positive adds (V10 - AUC)/m to its patient, a negative (V01 - AUC)/n; codes in 0..patients-1 say whose case it
    is, the same codes for every label. A patient without known cases of this label has 0.
    """
    m, n = placed.positive.shape[1], placed.negative.shape[1]
    of_positives = sum_by_group((placed.positive - placed.auc[:, None]) / m, positive_codes, patients)
    return of_positives + sum_by_group((placed.negative - placed.auc[:, None]) / n, negative_codes, patients)


@dataclass(frozen=True)
class MacroMean:
    """Mean AUC over labels of R models; variances keep the correlation between labels, models and images."""

    mean: Array  # (R,)
    influence: Array  # (R, patients)

    def variance(self, model: int) -> float:
        """Variance of one model's mean: the sum of squared patient influences."""
        return float(self.influence[model] @ self.influence[model])

    def compare(self, a: int, b: int) -> Difference:
        """Paired difference of two models' means."""
        delta = self.influence[a] - self.influence[b]
        return difference_test(float(self.mean[a] - self.mean[b]), float(delta @ delta))


def macro_mean(aucs: Sequence[Array], influences: Sequence[Array]) -> MacroMean:
    """Mean over labels that all have both classes: ``aucs`` K times (R,), ``influences`` K times (R, patients).

    Labels weigh the same whatever their prevalence, and are never pooled into one ROC. Raises ``ValueError``
    without labels.
    """
    if not aucs:
        raise ValueError("the macro mean needs at least one label with both classes")
    return MacroMean(np.mean(np.stack(list(aucs)), axis=0), np.mean(np.stack(list(influences)), axis=0))


def holm(p_values: ArrayLike) -> Array:
    """Holm's adjusted p values of one family of tests (K,); NaN stays NaN and is not counted in K.

    Source: Holm, Scand. J. Statist. 6 (1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * factors))
    return adjusted
