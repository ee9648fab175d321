"""Several seeds a side: differences of the AUC's mean over seeds, tested on the same patients.

A seed's AUC is one number of a model that could have come out otherwise; the mean over seeds is what the recipe gives.
Its variance over patients is that of one contrast of all seeds' AUCs (DeLong's covariance is linear in them). The
variance over seeds is another matter and is told beside it as a standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dam.evaluation.auc import Array, placements, why_undefined
from dam.evaluation.comparisons import NO_DIFFERENCE, Difference, difference_test, holm, influence, welch_df
from dam.evaluation.intervals import Counts, clustered_covariance, contrast, count_cases, delong_covariance
from dam.evaluation.judge import ComparisonRow, Judgement, judge
from dam.evaluation.predictions import MEAN, Units


@dataclass(frozen=True)
class _Part:
    """One label's contrast: what it brings to the mean."""

    difference: Difference
    influence: Array  # (patients,)
    counts: Counts
    of_positives: NDArray[np.intp]
    of_negatives: NDArray[np.intp]


def judge_seeds(units: Units, columns: Mapping[str, Sequence[str]], pairs: Sequence[tuple[str, str]]) -> Judgement:
    """AUC of every seed, and the paired differences of the mean over seeds for every label and the mean of labels.

    ``columns``: side -> its score columns in ``units``, one a seed. With one seed a side it is ``judge`` with
    ``interval=auto``.
    """
    reasons = [_why_not(units, k) for k in range(len(units.labels))]
    rows: list[ComparisonRow] = []
    for pair in pairs:
        weights = _weights(units, columns, pair)
        parts = [None if reason else _contrast(units, k, weights) for k, reason in enumerate(reasons)]
        found = [part.difference if part else NO_DIFFERENCE for part in parts]
        adjusted = holm([d.p_value for d in found])
        for k, label in enumerate(units.labels):
            part = parts[k]
            how = _how(part) if part else f"undefined ({reasons[k]})"
            rows.append(_row(label, pair, found[k], float(adjusted[k]), how))
        mean, how = _mean([part for part in parts if part])
        rows.append(_row(MEAN, pair, mean, mean.p_value, how))
    plain = judge(units)
    return Judgement(plain.aucs, tuple(rows), plain.mean_labels, plain.notes)


def _why_not(units: Units, k: int) -> str:
    y = units.targets[:, k]
    lacking = any(np.isnan(scores[~np.isnan(y), k]).any() for scores in units.scores.values())
    return why_undefined(y) or ("no scores of every model" if lacking else "")


def _weights(units: Units, columns: Mapping[str, Sequence[str]], pair: tuple[str, str]) -> Array:
    """+1/S on each seed of the first of the pair, -1/S on each of the second."""
    a, b = columns[pair[0]], columns[pair[1]]
    return np.array([(m in a) / len(a) - (m in b) / len(b) for m in units.scores], dtype=np.float64)


def _contrast(units: Units, k: int, weights: Array) -> _Part:
    known = ~np.isnan(units.targets[:, k])
    y, codes = units.targets[known, k], units.patients[known]
    placed = placements(y, np.stack([scores[known, k] for scores in units.scores.values()]))
    counts = count_cases(y, codes)
    of_positives, of_negatives = codes[y == 1], codes[y == 0]
    one = contrast(placed, weights)
    variance = clustered_covariance(one, of_positives, of_negatives) if counts.clustered else delong_covariance(one)
    df = math.inf if counts.too_few else counts.df
    difference = difference_test(float(weights @ placed.auc), float(variance[0, 0]), df=df)
    every = influence(placed, of_positives, of_negatives, int(units.patients.max()) + 1, corrected=True)
    return _Part(difference, weights @ every, counts, of_positives, of_negatives)


def _how(part: _Part) -> str:
    if math.isnan(part.difference.low):
        return f"not estimable ({part.counts.too_few or 'no variance'})"
    name = "clustered paired DeLong" if part.counts.clustered else "paired DeLong"
    return f"{name}, mean over seeds, t with {part.counts.df} df"


def _mean(parts: Sequence[_Part]) -> tuple[Difference, str]:
    if not parts:
        return NO_DIFFERENCE, "undefined (no label has both classes and scores of every model)"
    if len(parts) == 1:
        return parts[0].difference, _how(parts[0])
    value = float(np.mean([part.difference.difference for part in parts]))
    if any(part.counts.too_few for part in parts):
        return Difference(value, math.nan, math.nan, math.nan), "not estimable (a label is too small)"
    whole = np.sum([part.influence for part in parts], axis=0) / len(parts)
    by_label = welch_df([float(p.influence @ p.influence) for p in parts], [p.counts.df + 1 for p in parts])
    sides = [[p.of_positives for p in parts], [p.of_negatives for p in parts]]
    most = min(len(np.unique(np.concatenate(side))) for side in sides) - 1
    df = most if math.isnan(by_label) else min(most, by_label)
    return difference_test(value, float(whole @ whole), df=df), f"influence, mean over seeds, t with {df:.0f} df"


def _row(label: str, pair: tuple[str, str], d: Difference, p_holm: float, how: str) -> ComparisonRow:
    return ComparisonRow(label, *pair, d.difference, d.low, d.high, d.p_value, p_holm, d.se, how)
