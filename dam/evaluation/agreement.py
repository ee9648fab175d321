"""How well probabilities agree with what happened: Brier, calibration error, slope and intercept, smoothed curve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtri

from dam.evaluation.auc import Array, known_targets
from dam.evaluation.calibration import fit_logistic
from dam.evaluation.operating import wilson

BINS = 10
Codes = NDArray[np.intp]


class Bins(NamedTuple):
    """A reliability diagram: only bins that hold a case."""

    n: Array
    mean_p: Array
    rate: Array

    @property
    def ece(self) -> float:
        """Expected calibration error, positive-class form: mean over cases of |mean p - rate| of their bin."""
        return float(self.n @ np.abs(self.mean_p - self.rate) / self.n.sum())

    @property
    def mce(self) -> float:
        """Largest |mean p - rate| of a bin."""
        return float(np.abs(self.mean_p - self.rate).max())

    def intervals(self) -> list[tuple[float, float]]:
        """Wilson's 95 % interval of each rate."""
        return [wilson(float(round(r * n)), float(n)) for r, n in zip(self.rate, self.n, strict=True)]


class Brier(NamedTuple):
    """The Brier score and Murphy's parts: score = reliability - resolution + uncertainty + within_bin."""

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float

    @property
    def skill(self) -> float:
        """1 - score / uncertainty; 0 is always answering the prevalence. NaN with one class."""
        return 1 - self.score / self.uncertainty if self.uncertainty else math.nan


@dataclass(frozen=True)
class Agreement:
    """All measures of one set of probabilities; NaN where undefined, ``note`` says why."""

    brier: Brier
    brier_low: float
    brier_high: float
    bins: Bins
    o_over_e: float
    slope: float
    intercept: float
    nll: float
    note: str


# ---------------------------------------------------------------- bins


def equal_width(probabilities: ArrayLike, bins: int = BINS) -> Codes:
    """Bin (lo, hi] of each probability (N,), 0 in the first: codes 0..bins-1."""
    p = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(np.clip(np.ceil(p * bins) - 1, 0, bins - 1), dtype=np.intp)


def equal_mass(probabilities: ArrayLike, bins: int = BINS) -> Codes:
    """Bins of about equal numbers of cases, equal probabilities (N,) never apart, so row order does not matter.

    Each cut between i/bins and the rest of the sorted cases moves to the nearest change of value (the lower one of two
    equally near); cuts that meet are one, so there may be fewer bins. Codes 0.. in order of probability.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    values, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)[:-1]  # cases below each change of value
    if not len(ends):
        return np.zeros(p.shape, dtype=np.intp)
    wanted = np.arange(1, bins) * len(p) / bins
    after = np.clip(np.searchsorted(ends, wanted), 0, len(ends) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(wanted - ends[before] <= ends[after] - wanted, before, after)
    code = np.searchsorted(np.unique(nearest), np.arange(len(values)), side="left")
    return np.asarray(code[inverse], dtype=np.intp)


def reliability(targets: ArrayLike, probabilities: ArrayLike, codes: Codes) -> Bins:
    """Mean probability and rate of positives of each bin that holds a case; all (N,), targets 0 or 1, no NaN."""
    y, p = np.asarray(targets, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    n = np.bincount(codes).astype(np.float64)
    some = n > 0
    sums, hits = np.bincount(codes, weights=p), np.bincount(codes, weights=y)
    return Bins(n[some], sums[some] / n[some], hits[some] / n[some])


def brier(targets: ArrayLike, probabilities: ArrayLike, codes: Codes | None = None) -> Brier:
    """Brier score with Murphy's decomposition over ``codes``' bins, or over identical probabilities (within_bin 0).

    targets (N,) 0 or 1, no NaN; probabilities (N,). Source: Murphy, J. Appl. Meteorol. 12 (1973).
    """
    y, p = np.asarray(targets, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    groups = np.unique(p, return_inverse=True)[1] if codes is None else codes
    bins = reliability(y, p, np.asarray(groups, dtype=np.intp))
    n, rate = len(y), float(y.mean())
    score = float(np.mean((p - y) ** 2))
    calibration = float(bins.n @ (bins.mean_p - bins.rate) ** 2) / n
    resolution = float(bins.n @ (bins.rate - rate) ** 2) / n
    uncertainty = rate * (1 - rate)
    within = 0.0 if codes is None else score - calibration + resolution - uncertainty
    return Brier(score, calibration, resolution, uncertainty, within)


# ---------------------------------------------------------------- all of it


def agreement(targets: ArrayLike, logits: ArrayLike, patients: ArrayLike | None = None, bins: int = BINS) -> Agreement:
    """Judge the probabilities sigmoid(logits) against targets.

    Args: targets (N,) of 0, 1, NaN (left out); logits (N,) finite; patients (N,) of any one type for the interval of
    the Brier score (normal, variance summed by patient), None: every case is its own; ``bins`` of equal mass.
    Raises ``ValueError`` without known targets and for logits that are not finite.
    """
    y = known_targets(targets, drop=False)
    z = np.asarray(logits, dtype=np.float64)
    if z.shape != y.shape or not np.isfinite(z[~np.isnan(y)]).all():
        raise ValueError("calibration is judged on one finite logit a target")
    known = ~np.isnan(y)
    if not known.any():
        raise ValueError("calibration cannot be judged: no known targets")
    owners = np.arange(len(y))[known] if patients is None else np.asarray(patients)[known]
    y, z = y[known], z[known]
    p = expit(z)
    codes = equal_mass(p, bins)
    nll = float(np.mean(np.logaddexp(0.0, z) - y * z))
    slope, intercept, note = recalibration(y, z)
    low, high = _mean_interval((p - y) ** 2, owners)
    expected = float(p.sum())
    o_over_e = float(y.sum()) / expected if expected > 0 else math.nan
    return Agreement(brier(y, p, codes), low, high, reliability(y, p, codes), o_over_e, slope, intercept, nll, note)


def recalibration(targets: Array, logits: Array) -> tuple[float, float, str]:
    """(slope, intercept, note): slope of a logistic regression of targets on logits, intercept with slope held at 1.

    targets (N,) 0 or 1, no NaN. Slope NaN where the classes are separated perfectly or all logits are equal, both NaN
    with one class; ``note`` says so.
    """
    positive, negative = logits[targets == 1], logits[targets == 0]
    if not len(positive) or not len(negative):
        return math.nan, math.nan, f"calibration slope undefined: no {'negatives' if len(positive) else 'positives'}"
    intercept = intercept_in_the_large(targets, logits)
    if positive.min() >= negative.max() or negative.min() >= positive.max():
        why = "all scores are equal" if np.ptp(logits) == 0 else "perfect separation"
        return math.nan, intercept, f"calibration slope undefined: {why}"
    return fit_logistic(targets, logits)[0], intercept, ""


def intercept_in_the_large(targets: Array, logits: Array) -> float:
    """What has to be added to all logits so that expected and observed positives agree; both classes needed."""
    low, high = -logits.max() - 50.0, -logits.min() + 50.0
    wanted, shift = float(targets.sum()), 0.0
    for _ in range(200):  # Newton's step where it stays inside the bracket, else bisection
        p = expit(logits + shift)
        excess = float(p.sum()) - wanted
        low, high = (low, shift) if excess > 0 else (shift, high)
        slope = float(np.sum(p * (1 - p)))
        following = shift - excess / slope if slope > 0 else math.nan
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - shift) < 1e-13 * max(1.0, abs(shift)):
            return following
        shift = following
    return shift


def _mean_interval(values: Array, owners: NDArray[np.generic]) -> tuple[float, float]:
    """Normal interval of a mean whose cases come in patients; NaN with one patient."""
    codes = np.unique(owners, return_inverse=True)[1]
    sums = np.bincount(codes, weights=values - values.mean())
    if len(sums) < 2:
        return math.nan, math.nan
    half = float(ndtri(0.975)) * math.sqrt(float(sums @ sums) * len(sums) / (len(sums) - 1)) / len(values)
    return max(0.0, float(values.mean()) - half), float(values.mean()) + half


# ---------------------------------------------------------------- smoothed curve


class SmoothCurve(NamedTuple):
    """Smoothed rate of positives at each probability, with a pointwise 95 % band."""

    p: Array
    rate: Array
    low: Array
    high: Array


def smooth_calibration(
    targets: ArrayLike, probabilities: ArrayLike, patients: ArrayLike | None = None, points: int = 101
) -> SmoothCurve:
    """Smoothed calibration curve: logistic regression of the target on a natural cubic spline of the logit of p.

    The spline has knots at the 5, 35, 65 and 95 % quantiles (a straight line where fewer than 3 of them differ); a tiny
    ridge keeps separated data finite. The curve runs over the central 98 % of the probabilities: nothing is said
    beyond. The band is pointwise, by the delta method with variances summed by patient.
    Args: targets (N,) of 0, 1, NaN (left out); probabilities (N,) in [0, 1]; patients (N,) or None. Raises
    ``ValueError`` where a class is absent. Source of the knots: Harrell, Regression Modeling Strategies.
    """
    y = known_targets(targets, drop=False)
    known = ~np.isnan(y)
    p = np.clip(np.asarray(probabilities, dtype=np.float64)[known], 1e-7, 1 - 1e-7)
    owners = np.arange(len(y))[known] if patients is None else np.asarray(patients)[known]
    y = y[known]
    if not 0 < y.sum() < len(y):
        raise ValueError("a calibration curve needs both classes")
    x = np.log(p) - np.log1p(-p)
    low, high = np.quantile(x, [0.01, 0.99])
    grid = np.unique(np.linspace(low, high, points))
    knots = np.unique(np.quantile(x, [0.05, 0.35, 0.65, 0.95]))
    basis, at = _spline(x, knots), _spline(grid, knots)
    centre, scale = basis[:, 1:].mean(axis=0), basis[:, 1:].std(axis=0)
    scale[scale == 0] = 1.0
    for columns in (basis, at):
        columns[:, 1:] = (columns[:, 1:] - centre) / scale
    theta, covariance = _logistic(basis, y, np.unique(owners, return_inverse=True)[1])
    eta = at @ theta
    half = float(ndtri(0.975)) * np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", at, covariance, at), 0.0))
    return SmoothCurve(expit(grid), expit(eta), expit(eta - half), expit(eta + half))


def _spline(x: Array, knots: Array) -> Array:
    """Columns 1, x and the natural cubic spline's (knots - 2) further ones."""
    columns = [np.ones_like(x), x]
    if len(knots) >= 3:
        last, before = knots[-1], knots[-2]
        size = (last - knots[0]) ** 2
        for knot in knots[:-2]:
            tail = np.maximum(x - before, 0) ** 3 * (last - knot) - np.maximum(x - last, 0) ** 3 * (before - knot)
            columns.append((np.maximum(x - knot, 0) ** 3 - tail / (last - before)) / size)
    return np.stack(columns, axis=1)


def _logistic(x: Array, y: Array, owners: Codes) -> tuple[Array, Array]:
    """Coefficients and their covariance (sandwich, summed by owner) of a logistic regression with a tiny ridge."""
    ridge = 1e-3 * np.eye(x.shape[1])
    ridge[0, 0] = 1e-9

    def loss(theta: Array) -> float:
        z = x @ theta
        return float(np.sum(np.logaddexp(0.0, z) - y * z) + theta @ ridge @ theta / 2)

    theta = np.zeros(x.shape[1])
    for _ in range(100):
        p = expit(x @ theta)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.solve(curvature, x.T @ (p - y) + ridge @ theta)
        size = 1.0
        while loss(theta - size * step) > loss(theta) and size > 1e-8:
            size /= 2
        theta = theta - size * step
        if float(np.abs(size * step).max()) < 1e-9:
            break
    p = expit(x @ theta)
    bread = np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x + ridge)
    scores = np.stack([np.bincount(owners, weights=column * (y - p)) for column in x.T], axis=1)
    return theta, bread @ (scores.T @ scores) @ bread
