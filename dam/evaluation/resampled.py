"""Patient bootstrap of everything that the two curves say: many replicates of one label and model at a time.

A draw is a weight a patient (``bootstrap.Draws``). Sorted cases are summed by segments: a distinct score that has
positives is one, and so is the run of negatives between two of them, which changes no number read here. A replicate is
two sparse products and two cumulative sums.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from dam.evaluation.auc import Array, known_targets, roc_curve, why_undefined
from dam.evaluation.bootstrap import MOST_SHARE, Draws
from dam.evaluation.curves import SLACK, standardize

Codes = NDArray[np.intp]
Counts = NDArray[np.float32] | Array


class Cumulative(NamedTuple):
    """Weighted counts of b replicates at or above each segment, scores descending: (segments, b)."""

    tp: Counts
    fp: Counts
    steps: Counts  # the positives of each segment alone
    tied: Codes  # segments that hold both classes


class CurveSampler:
    """One label's known cases in the order of one model's scores, ready to be weighed by patient.

    Args: targets (N,) of 0, 1, NaN (left out); scores (N,) finite; patients (N,) codes in 0..count-1.
    Raises ``ValueError`` where a class is absent.
    """

    def __init__(self, targets: ArrayLike, scores: ArrayLike, patients: ArrayLike, count: int) -> None:
        y, s = known_targets(targets, drop=False), np.asarray(scores, dtype=np.float64)
        if reason := why_undefined(y):
            raise ValueError(f"there is no curve to bootstrap: {reason}")
        known = ~np.isnan(y)
        y, s, codes = y[known], s[known], np.asarray(patients, dtype=np.intp)[known]
        order = np.argsort(-s, kind="stable")
        y, s, codes = y[order], s[order], codes[order]
        score = np.cumsum(np.append(False, np.diff(s) != 0))  # number of each distinct score
        positive = np.bincount(score, weights=y) > 0
        # a new segment begins at a score with positives and after one
        begins = positive | np.append(False, positive[:-1])
        segment = np.cumsum(begins)[score] - int(begins[0])
        self.segments = int(segment[-1]) + 1
        self._tied = np.intersect1d(segment[y == 1], segment[y == 0])
        # whole numbers up to 2^24 are exact in float32, and half the memory
        kind = np.float32 if len(y) < 2**22 else np.float64
        self._positives = _by_patient(segment[y == 1], codes[y == 1], self.segments, count, kind)
        self._negatives = _by_patient(segment[y == 0], codes[y == 0], self.segments, count, kind)

    def draw(self, weights: Counts) -> Cumulative:
        """Cumulative counts under ``weights`` (patients, b) of whole numbers."""
        whole = weights.astype(self._positives.dtype, copy=False)
        steps, fp = self._positives @ whole, self._negatives @ whole
        return Cumulative(np.cumsum(steps, axis=0), np.cumsum(fp, axis=0, out=fp), steps, self._tied)


def _by_patient(rows: Codes, columns: Codes, height: int, width: int, kind: type) -> sparse.csc_array:
    # by column: weights are read in order, and the sums of all segments fit into the cache
    return sparse.csc_array((np.ones(len(rows), dtype=kind), (rows, columns)), shape=(height, width))


# ---------------------------------------------------------------- numbers of every replicate, (b,)


def average_precisions(drawn: Cumulative) -> Array:
    """Average precision; NaN where no positive was drawn."""
    called = drawn.tp + drawn.fp
    np.maximum(called, 1, out=called)  # nobody called: no step either
    np.divide(drawn.tp, called, out=called)
    return _share(np.einsum("kb,kb->b", called, drawn.steps, dtype=np.float64), drawn.tp[-1])


def partial_aucs(drawn: Cumulative, max_fpr: float) -> Array:
    """Standardized partial AUC over FPR in [0, ``max_fpr``]; NaN where a class was not drawn."""
    limit = drawn.fp[-1].astype(np.float64) * max_fpr
    rows = min(len(drawn.fp), int(np.max(np.sum(drawn.fp < limit, axis=0))) + 1)
    inside = np.minimum(drawn.fp[:rows], limit.astype(drawn.fp.dtype))
    width = np.diff(inside, axis=0, prepend=0)
    area = np.einsum("kb,kb->b", width, drawn.tp[:rows], dtype=np.float64)
    # above, all positives of a segment come before its negatives; where both share a score the curve is slanted
    slanted = drawn.tied[drawn.tied < rows]
    if len(slanted):
        right, steps = drawn.fp[slanted].astype(np.float64), drawn.steps[slanted].astype(np.float64)
        left = np.where(slanted[:, None] > 0, drawn.fp[slanted - 1], 0).astype(np.float64)
        low, high = np.minimum(left, limit), np.minimum(right, limit)
        share = np.divide((low + high) / 2 - left, right - left, out=np.zeros_like(low), where=right > left)
        area -= np.einsum("kb,kb->b", high - low, steps * (1 - share))
    area = _share(area, drawn.fp[-1].astype(np.float64) * drawn.tp[-1])
    return np.asarray([standardize(value, max_fpr) for value in area])


def sensitivities_at(drawn: Cumulative, specificity: float) -> Array:
    """Highest attained sensitivity at a specificity of at least this; NaN where a class was not drawn."""
    allowed = np.sum(drawn.fp <= (1 - specificity + SLACK) * drawn.fp[-1].astype(np.float64), axis=0)
    padded = np.take_along_axis(drawn.tp, np.maximum(allowed - 1, 0)[None], axis=0)[0]
    found = _share(np.where(allowed > 0, padded, 0), drawn.tp[-1])
    return np.asarray(np.where(drawn.fp[-1] > 0, found, np.nan))


def specificities_at(drawn: Cumulative, sensitivity: float) -> Array:
    """Highest attained specificity at a sensitivity of at least this; NaN where a class was not drawn."""
    missed = np.sum(drawn.tp < (sensitivity - SLACK) * drawn.tp[-1].astype(np.float64), axis=0)
    found = np.take_along_axis(drawn.fp, np.minimum(missed, len(drawn.fp) - 1)[None], axis=0)[0]
    return np.asarray(np.where(drawn.tp[-1] > 0, 1 - _share(found, drawn.fp[-1]), np.nan))


def _share(part: Counts, whole: Counts) -> Array:
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0, dtype=np.float64))


# ---------------------------------------------------------------- band


class RocBand(NamedTuple):
    """A pointwise 95 % band of the ROC curve: vertical, of TPR at each FPR of the grid; NaN where there is none.

    It is no simultaneous band: about 5 % of a true curve may lie outside it.
    """

    fpr: Array
    tpr: Array  # of the sample itself
    low: Array
    high: Array


def roc_band(
    targets: ArrayLike,
    scores: ArrayLike,
    patients: ArrayLike | None = None,
    replicates: int = 1000,
    seed: int = 0,
    grid: ArrayLike | None = None,
) -> RocBand:
    """Patient bootstrap band of an ROC curve.

    Args: targets (N,) of 0, 1, NaN (left out); scores (N,) finite; patients (N,) of any one type, None: every case is
    its own; ``grid``: FPRs in [0, 1], None: 101 even ones. TPR is linear between points, the upper value on vertical
    parts. Replicates without both classes are left out; no band where that is more than half. Raises ``ValueError``
    where a class is absent.
    """
    at = np.linspace(0, 1, 101) if grid is None else np.asarray(grid, dtype=np.float64)
    y = np.asarray(targets, dtype=np.float64)
    codes = np.unique(np.arange(len(y)) if patients is None else np.asarray(patients), return_inverse=True)[1]
    count = int(codes.max()) + 1
    curve = roc_curve(y, scores)
    sampler = CurveSampler(y, scores, codes, count)
    found = []
    for weights in Draws(count, replicates, seed).weights():
        drawn = sampler.draw(weights)
        for tp, fp in zip(drawn.tp.T, drawn.fp.T, strict=True):
            if tp[-1] > 0 and fp[-1] > 0:
                found.append(_at(np.append(0.0, fp / float(fp[-1])), np.append(0.0, tp / float(tp[-1])), at))
    sample = _at(curve.fpr, curve.tpr, at)
    if len(found) < (1 - MOST_SHARE) * replicates:
        nothing = np.full(len(at), math.nan)
        return RocBand(at, sample, nothing, nothing)
    low, high = np.quantile(np.stack(found), [0.025, 0.975], axis=0)
    return RocBand(at, sample, low, high)


def _at(fpr: Array, tpr: Array, grid: Array) -> Array:
    """``curves.roc_at`` for many FPRs."""
    after = np.searchsorted(fpr, grid + SLACK, side="right")
    inside = np.minimum(after, len(fpr) - 1)
    before = np.maximum(after - 1, 0)
    width = np.where(after < len(fpr), fpr[inside] - fpr[before], 1.0)
    share = np.clip((grid - fpr[before]) / width, 0.0, 1.0)
    value = tpr[before] + share * (tpr[inside] - tpr[before])
    return np.asarray(np.where(after < len(fpr), value, tpr[-1]))
