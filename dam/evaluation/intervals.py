"""Variance of an AUC (DeLong; clustered by patient) and the intervals made from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtri, stdtrit

from dam.evaluation.auc import Array, Placements

NO_VARIANCE = 1e-28  # rounding noise of a variance that is zero; real ones are above 1/(m n)^2
VARIANCE_METHODS = ("auto", "delong", "logit", "clustered")  # intervals made of a variance
METHODS = (*VARIANCE_METHODS, "bootstrap")


@dataclass(frozen=True)
class Counts:
    """Cases of each class, and the patients they come from."""

    positives: int
    negatives: int
    positive_patients: int
    negative_patients: int
    clustered: bool  # some patient has more than one case

    @property
    def n(self) -> int:
        """All cases."""
        return self.positives + self.negatives

    @property
    def df(self) -> int:
        """Degrees of freedom of the ``auto`` interval: the smaller class, counted in patients when they repeat, - 1."""
        if self.clustered:
            return min(self.positive_patients, self.negative_patients) - 1
        return min(self.positives, self.negatives) - 1

    @property
    def too_few(self) -> str:
        """Why no variance can be estimated ("1 positive"...), or "" when it can."""
        if min(self.positives, self.negatives) < 2:
            few, name = min((self.positives, "positive"), (self.negatives, "negative"))
            return f"{few} {name}" if few == 1 else f"no {name}s"
        if self.clustered and min(self.positive_patients, self.negative_patients) < 2:
            _, name = min((self.positive_patients, "positives"), (self.negative_patients, "negatives"))
            return f"all {name} of 1 patient"
        return ""


@dataclass(frozen=True)
class Interval:
    """A confidence interval; ``low`` and ``high`` are NaN where it cannot be estimated, and ``method`` says why."""

    low: float
    high: float
    method: str


def count_cases(targets: ArrayLike, patients: ArrayLike | None = None) -> Counts:
    """Count cases and patients of each class; targets (N,) of 0, 1, NaN (left out), patients (N,) of any one type.

    Without patients every case is its own patient.
    """
    y = np.asarray(targets, dtype=np.float64)
    m, n = int(np.sum(y == 1)), int(np.sum(y == 0))
    if patients is None:
        return Counts(m, n, m, n, clustered=False)
    codes, count = patient_codes(patients)
    has_positive, has_negative = np.zeros(count, bool), np.zeros(count, bool)
    has_positive[codes[y == 1]] = has_negative[codes[y == 0]] = True
    distinct = int(np.count_nonzero(has_positive | has_negative))
    return Counts(m, n, int(has_positive.sum()), int(has_negative.sum()), clustered=distinct < m + n)


def patient_codes(patients: ArrayLike) -> tuple[NDArray[np.intp], int]:
    """Patients (N,) of any one type as codes 0..count-1 in their order, and the count: ``np.unique``'s inverse."""
    values = np.asarray(patients)
    if values.dtype.kind in "iu" and len(values) and values.min() >= 0 and values.max() < 4 * len(values):
        # Codes already, as nearly always: marked in a table, where numpy would sort or hash them.
        present = np.zeros(int(values.max()) + 1, bool)
        present[values] = True
        rank = np.cumsum(present) - 1
        return rank[values], int(rank[-1]) + 1
    names, codes = np.unique(values, return_inverse=True)
    return codes, len(names)


# ---------------------------------------------------------------- variance


def delong_covariance(placed: Placements) -> Array:
    """Covariance (R, R) of the AUCs of R models on the same independent cases; NaN with fewer than 2 of a class.

    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988): S10/m + S01/n.
    """
    m, n = placed.positive.shape[1], placed.negative.shape[1]
    models = len(placed.auc)
    if min(m, n) < 2:
        return np.full((models, models), np.nan)
    x = placed.positive - placed.auc[:, None]
    y = placed.negative - placed.auc[:, None]
    covariance: Array = x @ x.T / ((m - 1) * m) + y @ y.T / ((n - 1) * n)
    return covariance


def clustered_covariance(placed: Placements, positive_patients: ArrayLike, negative_patients: ArrayLike) -> Array:
    """Covariance (R, R) of the AUCs when several cases come from one patient.

    ``positive_patients`` (m,) and ``negative_patients`` (n,) name the patient of each case in the order of
    ``placed``; a patient may have cases of both classes. With one case a patient this is DeLong's covariance exactly.
    NaN with fewer than 2 patients that have a positive, or a negative.
    Source: Obuchowski, Biometrics 53 (1997).
    """
    of_positives, of_negatives = np.asarray(positive_patients), np.asarray(negative_patients)
    codes, patients = patient_codes(np.concatenate([of_positives, of_negatives]))
    m, n = len(of_positives), len(of_negatives)
    with_positives = np.count_nonzero(np.bincount(codes[:m]))
    with_negatives = np.count_nonzero(np.bincount(codes[m:]))
    if min(with_positives, with_negatives) < 2:
        return np.full((len(placed.auc), len(placed.auc)), np.nan)
    x = sum_by_group(placed.positive - placed.auc[:, None], codes[:m], patients)
    y = sum_by_group(placed.negative - placed.auc[:, None], codes[m:], patients)
    s10 = with_positives / ((with_positives - 1) * m) * (x @ x.T)
    s01 = with_negatives / ((with_negatives - 1) * n) * (y @ y.T)
    s11 = patients / (patients - 1) * (x @ y.T)
    covariance: Array = s10 / m + s01 / n + (s11 + s11.T) / (m * n)
    return covariance


def contrast(placed: Placements, weights: ArrayLike) -> Placements:
    """Placements of one weighted sum of the models' AUCs, ``weights`` (R,): its covariance is that of the sum.

    For a difference (1, -1) this loses no digits where the models agree, unlike C11 + C22 - 2 C12.
    """
    w = np.asarray(weights, dtype=np.float64)[None]
    return Placements(w[0] @ placed.auc[:, None], w @ placed.positive, w @ placed.negative)


def sum_by_group(values: Array, codes: NDArray[np.intp], groups: int) -> Array:
    """Sum (R, n) values over cases with the same code in 0..groups-1: (R, groups)."""
    return np.stack([np.bincount(codes, weights=row, minlength=groups) for row in values])


# ---------------------------------------------------------------- intervals


def wald_interval(auc: float, variance: float, level: float = 0.95) -> tuple[float, float]:
    """AUC -+ z SE, clipped to [0, 1]: the interval usually called "DeLong"."""
    half = float(ndtri(0.5 + level / 2)) * math.sqrt(variance)
    return max(0.0, auc - half), min(1.0, auc + half)


def logit_interval(auc: float, variance: float, level: float = 0.95, df: float | None = None) -> tuple[float, float]:
    """Wald on the logit scale, transformed back: never leaves (0, 1). With ``df`` a t quantile replaces the normal.

    Undefined (``ValueError``) at AUC 0 and 1.
    """
    if not 0 < auc < 1:
        raise ValueError(f"the logit interval is undefined at AUC {auc:g}")
    upper = 0.5 + level / 2
    quantile = float(ndtri(upper)) if df is None else float(stdtrit(df, upper))
    centre = math.log(auc / (1 - auc))
    half = quantile * math.sqrt(variance) / (auc * (1 - auc))
    return float(expit(centre - half)), float(expit(centre + half))


def auc_interval(auc: float, variance: float, counts: Counts, method: str = "auto", level: float = 0.95) -> Interval:
    """The interval of one AUC, named by what was used: "logit-t", "clustered logit-t", "not estimable (...)"...

    ``variance`` must be the clustered one where ``counts.clustered``, and for ``clustered``. ``auto`` is the logit
    interval with a t quantile of ``counts.df`` degrees of freedom; ``delong`` (plain), ``logit`` and ``clustered``
    (both on the logit scale) use normal quantiles, as published. Raises ``ValueError`` for another method.
    """
    if method not in VARIANCE_METHODS:
        raise ValueError(f"interval method {method!r} is unknown: choose one of {', '.join(VARIANCE_METHODS)}")
    reason = why_not_estimable(auc, variance, counts)
    if reason:
        return Interval(math.nan, math.nan, reason)
    prefix = "clustered " if counts.clustered or method == "clustered" else ""
    if method == "delong":
        return Interval(*wald_interval(auc, variance, level), prefix + "delong")
    if method in ("logit", "clustered"):
        return Interval(*logit_interval(auc, variance, level), prefix + "logit")
    return Interval(*logit_interval(auc, variance, level, counts.df), prefix + "logit-t")


def why_not_estimable(auc: float, variance: float, counts: Counts) -> str:
    """The reason for having no interval, as it is printed in its place, or "" when there is one."""
    if math.isnan(auc):
        return f"undefined ({counts.too_few})"
    if counts.too_few:
        return f"not estimable ({counts.too_few})"
    if auc in (0.0, 1.0):
        return "not estimable (perfect separation)" if auc == 1 else "not estimable (perfect separation, reversed)"
    if not variance > NO_VARIANCE:
        return "not estimable (no variance: scores all tied or too few patients)"
    return ""
