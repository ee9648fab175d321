"""Exact area under the ROC curve, with ties, and what its variance is made of.

Positives and negatives are sorted apart and looked up in one another, so a data set of N cases costs O(N log N) and
every count is an exact integer: two models that rank the cases alike get equal numbers to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class RocCurve(NamedTuple):
    """Points of the empirical ROC curve, from (0, 0) to (1, 1); a case counts as positive when score >= threshold."""

    fpr: Array
    tpr: Array
    thresholds: Array  # descending, the first one infinite


class Placements(NamedTuple):
    """What DeLong (1988) calls the structural components of R models on the same m positives and n negatives."""

    auc: Array  # (R,)
    positive: Array  # (R, m) "V10": share of the negatives that each positive beats, ties count half
    negative: Array  # (R, n) "V01": share of the positives that beat each negative, ties count half


def why_undefined(targets: ArrayLike) -> str:
    """Say why these targets (0, 1, NaN = unknown) have no AUC: a reason, or "" when both classes are there."""
    known = known_targets(targets)
    positives = int(np.sum(known == 1))
    negatives = int(np.sum(known == 0))
    if positives == 0 and negatives == 0:
        return "no known targets"
    if positives == 0:
        return "no positives"
    return "" if negatives else "no negatives"


def roc_auc(targets: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        targets: (N,) of 0, 1 or NaN; unknown cases are left out.
        scores: (N,) any finite numbers, higher = more positive; only their order matters.
        weights: (N,) finite and >= 0, or None; a case of weight w counts as w cases.

    Returns the AUC in [0, 1], or NaN when a class is absent (``why_undefined`` says which).
    Raises ``ValueError`` for other targets, lengths that differ, and NaN or infinite scores.
    Source: Mann-Whitney; Bamber, J. Math. Psychol. 12 (1975).
    """
    y, s = _cases(targets, scores)
    positive, negative = y == 1, y == 0
    if weights is None:
        return _plain_auc(s[positive], s[negative])
    w = _weights(weights, len(y))
    total = float(w[positive].sum() * w[negative].sum())
    if total == 0:
        return float("nan")
    order = np.argsort(s[negative], kind="stable")
    sorted_negatives = s[negative][order]
    below = np.concatenate([[0.0], np.cumsum(w[negative][order])])
    lower, upper = _counts(sorted_negatives, s[positive])
    wins = float(w[positive] @ (below[lower] + below[upper]))
    return wins / (2 * total)


def _plain_auc(positives: Array, negatives: Array) -> float:
    if not len(positives) or not len(negatives):
        return float("nan")
    # Each value of the smaller class is looked up in the larger once, in order: neighbours lie in the same cache lines.
    few, many = sorted((positives, negatives), key=len)
    values, times = np.unique(few, return_counts=True)
    lower, upper = _counts(np.sort(many), values)
    doubled, pairs = int(times @ (lower + upper)), len(few) * len(many)
    wins = doubled if len(positives) <= len(negatives) else 2 * pairs - doubled
    return wins / (2 * pairs)


def roc_curve(targets: ArrayLike, scores: ArrayLike) -> RocCurve:
    """Every attained point of the ROC curve, one a distinct score, after the starting point (0, 0).

    Arguments as in ``roc_auc``. Raises ``ValueError`` as it does, and when a class is absent.
    """
    y, s = _cases(targets, scores)
    _need_both_classes(y)
    y, s = y[~np.isnan(y)], s[~np.isnan(y)]
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    last = np.flatnonzero(np.append(np.diff(s) != 0, True))  # the last case of each distinct score
    true_positives = np.cumsum(y)[last]
    false_positives = last + 1 - true_positives
    return RocCurve(
        fpr=np.concatenate([[0.0], false_positives / false_positives[-1]]),
        tpr=np.concatenate([[0.0], true_positives / true_positives[-1]]),
        thresholds=np.concatenate([[np.inf], s[last]]),
    )


def placements(targets: ArrayLike, scores: ArrayLike) -> Placements:
    """AUC and placements of one model (scores (N,)) or of R models on the same cases (scores (R, N)).

    Positives and negatives keep their order in ``targets``; unknown (NaN) cases are left out.
    Raises ``ValueError`` as ``roc_auc`` does, and when a class is absent.
    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988); the fast form of Sun and Xu, IEEE SPL 21 (2014).
    """
    rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    y = known_targets(targets, drop=False)
    _need_both_classes(y)
    positive, negative = y == 1, y == 0
    m, n = int(positive.sum()), int(negative.sum())
    auc, v10, v01 = np.empty(len(rows)), np.empty((len(rows), m)), np.empty((len(rows), n))
    for r, row in enumerate(rows):
        _, s = _cases(y, row)
        x, z = s[positive], s[negative]
        order = np.argsort(z)
        lower, upper = _counts(z[order], x)
        doubled = lower + upper  # integers: twice the negatives beaten
        auc[r] = int(doubled.sum()) / (2 * m * n)
        v10[r] = doubled / (2 * n)
        # A positive lies below the j-th ranked negative if at most j negatives are at or below it, and at or below if
        # at most j are below: counted, where looking each negative up would cost a search.
        beaten = sum(np.cumsum(np.bincount(counts, minlength=n + 1)[:n]) for counts in (lower, upper))
        v01[r, order] = (2 * m - beaten) / (2 * m)
    return Placements(auc, v10, v01)


def known_targets(targets: ArrayLike, drop: bool = True) -> Array:
    """Targets as float64 (N,), checked to be 0, 1 or NaN; with ``drop`` only the known ones.

    Raises ``ValueError`` for any other value or shape.
    """
    y = np.asarray(targets, dtype=np.float64)
    if y.ndim != 1:
        raise ValueError(f"targets must have one dimension, not shape {y.shape}")
    known = (y == 0) | (y == 1)
    if known.all():
        return y
    unknown = np.isnan(y)
    wrong = ~(unknown | known)
    if wrong.any():
        where = int(np.argmax(wrong))
        raise ValueError(f"targets must be 0, 1 or NaN (unknown); case {where} is {y[where]:g}")
    return y[~unknown] if drop else y


def _cases(targets: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    y = known_targets(targets, drop=False)
    s = np.asarray(scores, dtype=np.float64)
    if s.shape != y.shape:
        raise ValueError(f"scores have shape {s.shape} and targets {y.shape}: one score a case is needed")
    finite = np.isfinite(s)
    if not finite.all():
        where = int(np.argmin(finite))
        raise ValueError(f"score {s[where]} of case {where} is not finite: it has no rank")
    return y, s


def _weights(weights: ArrayLike, length: int) -> Array:
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (length,) or not np.isfinite(w).all() or (w < 0).any():
        raise ValueError(f"weights must be {length} finite numbers >= 0")
    return w


def _counts(ordered: Array, values: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """How many of ``ordered`` lie strictly below each value, and how many at or below it."""
    return np.searchsorted(ordered, values, side="left"), np.searchsorted(ordered, values, side="right")


def _need_both_classes(targets: Array) -> None:
    reason = why_undefined(targets)
    if reason:
        raise ValueError(f"the ROC curve is undefined: {reason}")
