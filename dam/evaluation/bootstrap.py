"""Patient-level bootstrap of AUCs: patients are drawn with replacement, all their cases come along.

A draw is a weight a patient (how often it was drawn). One draw serves all labels and all models, so differences of
models and means over labels stay paired. Cases are sorted once a label and model; a replicate is then two sparse
products with the weights and one cumulative sum, exact in integers up to 2^53: models that rank alike get equal AUCs
in every replicate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from dam.evaluation.auc import Array, known_targets, why_undefined
from dam.evaluation.intervals import Interval

WARN_SHARE = 0.05  # of replicates dropped: above it the interval is marked
MOST_SHARE = 0.5  # above it there is no interval
WORK = 1_000_000_000  # cases x replicates, over all labels and models, of a bootstrap that is not the AUCs' own
FEWEST = 200  # replicates, however many cases
_CHUNK = 2_000_000  # weights held at a time (16 MB)

Codes = NDArray[np.intp]


@dataclass(frozen=True)
class Draws:
    """How patients 0..patients-1 are drawn; the same draws whenever it is asked.

    Replicate r draws ``integers(0, n, n)`` of ``default_rng(seed)`` from all n patients. Drawing patients with and
    without positives apart would spare replicates with one class, but differs from label to label, and several labels
    and the mean need one draw.
    """

    patients: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        if self.patients < 1 or self.replicates < 1 or self.seed < 0:
            raise ValueError("a bootstrap needs patients >= 1, replicates >= 1 and a seed >= 0")

    def weights(self) -> Iterator[Array]:
        """Weights (patients, b) of the next b replicates, whole numbers, until all replicates have come."""
        rng = np.random.default_rng(self.seed)
        size = max(1, min(256, _CHUNK // self.patients))
        for start in range(0, self.replicates, size):
            b = min(size, self.replicates - start)
            drawn = rng.integers(0, self.patients, (b, self.patients)) + np.arange(b)[:, None] * self.patients
            counts = np.bincount(drawn.ravel(), minlength=b * self.patients)
            yield np.ascontiguousarray(counts.reshape(b, self.patients).T, dtype=np.float64)


def affordable(replicates: int, cases: int) -> int:
    """How many of the replicates that were asked for are drawn for ``cases`` (over all labels and models)."""
    return min(replicates, max(FEWEST, WORK // max(cases, 1)))


class RankedCases:
    """One label's known cases sorted by one model's scores, ready to be weighed by patient.

    Args:
        targets: (N,) of 0, 1 or NaN (left out).
        scores: (N,) finite where the target is known.
        patients: (N,) codes in 0..count-1.
        count: patients there are, also those without a known case.

    Raises ``ValueError`` when a class is absent.
    """

    def __init__(self, targets: ArrayLike, scores: ArrayLike, patients: ArrayLike, count: int) -> None:
        y, s = known_targets(targets, drop=False), np.asarray(scores, dtype=np.float64)
        codes = np.asarray(patients, dtype=np.intp)
        if reason := why_undefined(y):
            raise ValueError(f"there is no AUC to bootstrap: {reason}")
        if not np.isfinite(s[~np.isnan(y)]).all():
            raise ValueError("a score of a known case is not finite: it has no rank")
        self._few_are_positive = bool(np.sum(y == 1) <= np.sum(y == 0))
        few, many = (y == 1, y == 0) if self._few_are_positive else (y == 0, y == 1)
        order = np.argsort(s[many], kind="stable")
        ranked = s[many][order]
        # cases of the larger class below (and at or below) each case of the smaller one; only these cuts are summed
        places = np.concatenate([np.searchsorted(ranked, s[few], side) for side in ("left", "right")])
        cuts, cut_of = np.unique(places, return_inverse=True)
        segment = np.searchsorted(cuts, np.arange(len(ranked)), side="right")
        self._many = _counts(segment, codes[many][order], len(cuts) + 1, count)
        self._few = _counts(cut_of, np.tile(codes[few], 2), len(cuts), count)

    def aucs(self, weights: Array) -> Array:
        """Weighted AUCs (b,) of ``weights`` (patients, b) of whole numbers; NaN where a class has no weight.

        Source: the weighted Mann-Whitney statistic, ties counting half.
        """
        below = np.cumsum(self._many @ weights, axis=0)
        few = self._few @ weights  # each case of the smaller class counts at two cuts: doubled everywhere
        pairs = below[-1] * few.sum(axis=0)
        wins = np.einsum("kb,kb->b", below[:-1], few)
        if not self._few_are_positive:
            wins = pairs - wins
        aucs: Array = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
        return aucs


def _counts(rows: Codes, columns: Codes, height: int, width: int) -> sparse.csc_array:
    return sparse.csc_array((np.ones(len(rows)), (rows, columns)), shape=(height, width))


def bootstrap_aucs(ranked: Sequence[RankedCases], draws: Draws) -> Array:
    """AUCs (len(ranked), replicates) of the same draws; NaN in replicates that hold one class only."""
    result = np.empty((len(ranked), draws.replicates))
    start = 0
    for weights in draws.weights():
        stop = start + weights.shape[1]
        for row, cases in zip(result, ranked, strict=True):
            row[start:stop] = cases.aucs(weights)
        start = stop
    return result


@dataclass(frozen=True)
class Replicates:
    """Bootstrap values of one number (an AUC, a difference, a mean) and what they say; NaN values were dropped."""

    values: Array  # (replicates,)

    @property
    def dropped(self) -> int:
        """Replicates without a value, because a class was absent from them."""
        return int(np.isnan(self.values).sum())

    @property
    def kept(self) -> Array:
        """The values there are."""
        return self.values[~np.isnan(self.values)]

    @property
    def doubtful(self) -> bool:
        """True where more than 5 % of the replicates were dropped."""
        return self.dropped > WARN_SHARE * len(self.values)

    @property
    def too_few(self) -> bool:
        """True where more than 50 % of the replicates were dropped: there is no interval, SE or p."""
        return self.dropped > MOST_SHARE * len(self.values)

    @property
    def method(self) -> str:
        """How the interval is named, with its replicates and those dropped; or why there is none."""
        count = len(self.values)
        if self.too_few:
            return f"not estimable (patient bootstrap: {self.dropped} of {count} replicates had one class)"
        dropped = f", {self.dropped} with one class dropped" if self.dropped else ""
        return f"patient bootstrap, {count} replicates{dropped}"

    @property
    def se(self) -> float:
        """Standard deviation over the replicates (divisor B - 1)."""
        return math.nan if self.too_few or len(self.kept) < 2 else float(np.std(self.kept, ddof=1))

    def interval(self, level: float = 0.95) -> Interval:
        """Percentile interval (numpy's "linear" quantiles), named by ``method``."""
        if self.too_few:
            return Interval(math.nan, math.nan, self.method)
        low, high = np.quantile(self.kept, [0.5 - level / 2, 0.5 + level / 2], method="linear")
        return Interval(float(low), float(high), self.method)

    def p_value(self) -> float:
        """Two-sided p of the value being 0, from the share of replicates on either side; never 0."""
        if self.too_few:
            return math.nan
        d, count = self.kept, len(self.kept) + 1
        return float(min(1.0, 2 * min((1 + np.sum(d <= 0)) / count, (1 + np.sum(d >= 0)) / count)))
