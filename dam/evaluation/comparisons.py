"""Differences of AUCs on the same or on other cases, the macro mean over labels, the adjustment for many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, ndtri, stdtr, stdtrit

from dam.evaluation.auc import Array, Placements
from dam.evaluation.intervals import NO_VARIANCE, clustered_covariance, contrast, delong_covariance, sum_by_group


@dataclass(frozen=True)
class Difference:
    """A difference a - b of two AUCs with interval and two-sided p; NaN where not estimable."""

    difference: float
    low: float
    high: float
    p_value: float
    se: float = math.nan


NO_DIFFERENCE = Difference(math.nan, math.nan, math.nan, math.nan)


def difference_test(difference: float, variance: float, level: float = 0.95, df: float = math.inf) -> Difference:
    """Test a difference of estimated variance against 0: by the normal law, or by t with ``df`` degrees of freedom.

    Two models that rank alike (difference 0, variance 0) give p = 1; a difference without variance gives p NaN.
    """
    if math.isnan(difference) or math.isnan(variance):
        return Difference(difference, math.nan, math.nan, math.nan)
    if not variance > NO_VARIANCE:
        if difference == 0:
            return Difference(0.0, 0.0, 0.0, 1.0, 0.0)
        return Difference(difference, math.nan, math.nan, math.nan)
    se = math.sqrt(variance)
    upper = 0.5 + level / 2
    half = se * float(ndtri(upper) if math.isinf(df) else stdtrit(df, upper))
    p = 2 * float(stdtr(df, -abs(difference) / se))  # the normal law where df is infinite
    return Difference(difference, difference - half, difference + half, p, se)


def unpaired_test(auc_a: float, variance_a: float, auc_b: float, variance_b: float, df: float = math.inf) -> Difference:
    """Difference of AUCs of two groups that share no patient: variances add.

    ``df`` may be ``welch_df`` of the two; then the law is t, as in the R package pROC.
    """
    return difference_test(auc_a - auc_b, variance_a + variance_b, df=df)


def welch_df(variances: ArrayLike, sizes: ArrayLike) -> float:
    """Welch-Satterthwaite degrees of freedom of a sum of estimates: ``variances`` (K,), cases behind each (K,).

    An estimate of n cases brings n - 1; those of variance 0 bring nothing. NaN where all variances are 0.
    """
    v, n = np.asarray(variances, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    some = v > 0
    return float(v.sum() ** 2 / np.sum(v[some] ** 2 / (n[some] - 1))) if some.any() else math.nan


class ContrastTest(NamedTuple):
    """A chi-square test that several contrasts of AUCs are all 0; NaN where it cannot be made."""

    chi_square: float
    df: int
    p_value: float


def contrast_test(aucs: ArrayLike, covariance: ArrayLike, contrasts: ArrayLike) -> ContrastTest:
    """Test L a = 0 for AUCs a (R,), their covariance (R, R) and contrast rows L (C, R), e.g. (1, -1, 0), (0, 1, -1).

    df is the rank of L C L'; rows that repeat others change nothing, and models that rank alike bring no df (alone:
    p = 1). NaN where a contrast without variance is not 0. Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44
    (1988), eq. 5.
    """
    rows = np.atleast_2d(np.asarray(contrasts, dtype=np.float64))
    a, c = np.asarray(aucs, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    delta, spread = rows @ a, rows @ c @ rows.T
    if not np.isfinite(spread).all():
        return ContrastTest(math.nan, int(np.linalg.matrix_rank(rows)), math.nan)
    values, vectors = np.linalg.eigh(spread)
    along = vectors.T @ delta
    varies = values > max(NO_VARIANCE, 1e-9 * float(values.max()))
    df = int(varies.sum())
    if np.abs(along[~varies]).max(initial=0.0) > 1e-12:
        return ContrastTest(math.nan, df, math.nan)
    chi_square = float(np.sum(along[varies] ** 2 / values[varies]))
    return ContrastTest(chi_square, df, float(chdtrc(df, chi_square)) if df else 1.0)


def paired_test(
    placed: Placements,
    a: int,
    b: int,
    positive_patients: ArrayLike | None = None,
    negative_patients: ArrayLike | None = None,
    df: float = math.inf,
) -> Difference:
    """DeLong's paired test of models ``a`` and ``b`` (rows of ``placed``), clustered when patients are given.

    ``positive_patients`` (m,) and ``negative_patients`` (n,) as in ``clustered_covariance``; both or neither. With
    ``df`` the law is t instead of normal: with few positives the variance is itself a guess.
    """
    weights = np.zeros(len(placed.auc))
    weights[a] += 1
    weights[b] -= 1
    placed_difference = contrast(placed, weights)
    if positive_patients is None or negative_patients is None:
        variance = delong_covariance(placed_difference)
    else:
        variance = clustered_covariance(placed_difference, positive_patients, negative_patients)
    return difference_test(float(placed.auc[a] - placed.auc[b]), float(variance[0, 0]), df=df)


def influence(
    placed: Placements,
    positive_codes: NDArray[np.intp],
    negative_codes: NDArray[np.intp],
    patients: int,
    corrected: bool = False,
) -> Array:
    """Influence of each patient on one label's AUC: (R, patients), summing to 0 a model.

    A positive adds (V10 - AUC)/m to its patient, a negative (V01 - AUC)/n; codes in 0..patients-1 say whose case it
    is, the same codes for every label. A patient without known cases of this label has 0.

    ``corrected`` multiplies them by (I/(I-1))^.5, I patients with a positive (a negative): then the sum of squares is
    DeLong's variance exactly where every patient has one case. A class of one patient keeps its factor of 1.
    """
    m, n = placed.positive.shape[1], placed.negative.shape[1]
    of_positives = sum_by_group((placed.positive - placed.auc[:, None]) / m, positive_codes, patients)
    of_negatives = sum_by_group((placed.negative - placed.auc[:, None]) / n, negative_codes, patients)
    if corrected:
        of_positives *= _small_sample_factor(positive_codes)
        of_negatives *= _small_sample_factor(negative_codes)
    return of_positives + of_negatives


def _small_sample_factor(codes: NDArray[np.intp]) -> float:
    patients = np.count_nonzero(np.bincount(codes))
    return math.sqrt(patients / (patients - 1)) if patients > 1 else 1.0


@dataclass(frozen=True)
class MacroMean:
    """Mean AUC over labels of R models; variances keep the correlation between labels, models and images."""

    mean: Array  # (R,)
    influence: Array  # (R, patients)
    parts: tuple[Array, ...]  # of each label (R, patients)

    def variance(self, model: int) -> float:
        """Variance of one model's mean: the sum of squared patient influences."""
        return float(self.influence[model] @ self.influence[model])

    def compare(self, a: int, b: int, df: float = math.inf) -> Difference:
        """Paired difference of two models' means, by the normal law or by t with ``df``."""
        delta = self.influence[a] - self.influence[b]
        return difference_test(float(self.mean[a] - self.mean[b]), float(delta @ delta), df=df)

    def df(self, sizes: Sequence[int], a: int, b: int | None = None) -> float:
        """Degrees of freedom of model a's mean, or of its difference to b: ``welch_df`` over the labels.

        ``sizes`` is the smaller class of each label, in patients: a label that makes much of the variance from few
        positives lowers them.
        """
        rows = [part[a] if b is None else part[a] - part[b] for part in self.parts]
        return welch_df([float(row @ row) for row in rows], sizes)


def macro_mean(aucs: Sequence[Array], influences: Sequence[Array]) -> MacroMean:
    """Mean over labels that all have both classes: ``aucs`` K times (R,), ``influences`` K times (R, patients).

    Labels weigh the same whatever their prevalence, and are never pooled into one ROC. Raises ``ValueError``
    without labels.
    """
    if not aucs:
        raise ValueError("the macro mean needs at least one label with both classes")
    mean: Array = np.mean(np.stack(list(aucs)), axis=0)
    return MacroMean(mean, sum(influences[1:], influences[0]) / len(influences), tuple(influences))


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
