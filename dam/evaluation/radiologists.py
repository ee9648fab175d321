"""Human readers beside a model: their points, and how many lie below the model's curve (NRBC).

A reader gives one point, a model a curve. Reader and model are compared on the same studies, those that the reader
judged and whose reference standard is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dam.evaluation.auc import Array, known_targets, roc_curve, why_undefined
from dam.evaluation.bootstrap import Draws, Replicates
from dam.evaluation.curves import SLACK, pr_at, pr_curve, roc_at, sensitivity_at_specificity
from dam.evaluation.operating import compare_answers, confusion, wilson
from dam.evaluation.resampled import Cumulative, CurveSampler
from dam.evaluation.rows import NrbcRow, ReaderRow

READ_OFF = "the model's point is read off the test curve, the reader's was not chosen: this favours the model a little"
HALF = 0.5  # counts are whole, so this separates equal ones from the next


@dataclass(frozen=True)
class ReaderPoint:
    """A reader's point against a model's curve; ``below`` counts equality, ``strict`` does not."""

    sensitivity: float
    fpr: float
    ppv: float
    curve_sensitivity: float
    curve_ppv: float
    below: bool
    strict: bool
    below_pr: bool
    strict_pr: bool


def reader_point(targets: ArrayLike, scores: ArrayLike, answers: ArrayLike) -> ReaderPoint:
    """Place a reader's answers against a model's curve on the same cases.

    Args: targets (N,) of 0, 1, NaN; scores (N,) finite; answers (N,) of 0, 1, NaN; cases with a NaN are left out.
    ROC: below where the curve at the reader's FPR (linear between points, the upper value on vertical parts) is at
    least the reader's TPR, with 1e-12 to spare. PR: below where the curve's precision at the reader's recall is at
    least the reader's. A reader who calls nobody positive has no precision, and is on no side of the PR curve (counted
    as not below). Raises ``ValueError`` where a class is absent or an answer is something else.
    """
    y, s, a = _shared(targets, scores, answers)
    counts = confusion(y, a, 0.5)
    fpr = 1 - counts.specificity
    at = roc_at(roc_curve(y, s), fpr)
    precision = pr_at(pr_curve(y, s), counts.sensitivity)
    return ReaderPoint(
        counts.sensitivity,
        fpr,
        counts.ppv,
        at,
        precision,
        at >= counts.sensitivity - SLACK,
        at > counts.sensitivity + SLACK,
        precision >= counts.ppv - SLACK,
        precision > counts.ppv + SLACK,
    )


def _shared(targets: ArrayLike, scores: ArrayLike, answers: ArrayLike) -> tuple[Array, Array, Array]:
    y, a = known_targets(targets, drop=False), known_targets(answers, drop=False)
    s = np.asarray(scores, dtype=np.float64)
    if not y.shape == s.shape == a.shape:
        raise ValueError("targets, scores and answers need one value a case")
    both = ~np.isnan(y) & ~np.isnan(a)
    if reason := why_undefined(y[both]):
        raise ValueError(f"a reader cannot be compared: {reason} among the studies judged")
    return y[both], s[both], a[both]


def reader_row(label: str, reader: str, model: str, cases: tuple[ArrayLike, ArrayLike, ArrayLike]) -> ReaderRow:
    """The row of one reader, model and label; ``cases`` = (targets, scores, answers) as in ``reader_point``."""
    y, s, a = _shared(*cases)
    point = reader_point(y, s, a)
    counts = confusion(y, a, 0.5)
    model_point = sensitivity_at_specificity(roc_curve(y, s), counts.specificity)
    called, said = s >= model_point.threshold, a == 1
    positive, negative = y == 1, y == 0
    return ReaderRow(
        label=label,
        reader=reader,
        model=model,
        n=counts.n,
        n_pos=counts.tp + counts.fn,
        sensitivity=counts.sensitivity,
        sensitivity_low=(sens := wilson(counts.tp, counts.tp + counts.fn))[0],
        sensitivity_high=sens[1],
        specificity=counts.specificity,
        specificity_low=(spec := wilson(counts.tn, counts.tn + counts.fp))[0],
        specificity_high=spec[1],
        fpr=point.fpr,
        ppv=point.ppv,
        curve_sensitivity=point.curve_sensitivity,
        curve_ppv=point.curve_ppv,
        below_roc=point.below,
        below_roc_strict=point.strict,
        below_pr=point.below_pr,
        model_threshold=model_point.threshold,
        model_sensitivity=model_point.sensitivity,
        model_specificity=model_point.specificity,
        p_sensitivity=compare_answers(called[positive], said[positive]),
        p_specificity=compare_answers(~called[negative], ~said[negative]),
        note=READ_OFF,
    )


# ---------------------------------------------------------------- NRBC


def count_below(
    targets: Array, scores: Array, answers: Mapping[str, Array], curve: str = "roc"
) -> tuple[float, float, int]:
    """(NRBC, strict NRBC, labels) of one model: readers below its curve, summed a label, mean over the labels.

    targets, scores (U, K); answers reader -> (U, K) of 0, 1, NaN; ``curve`` "roc" or "pr". Labels that no reader
    judged, that have one class or no scores are left out; (NaN, NaN, 0) where none is left.
    """
    loose, strict = [], []
    for k in range(targets.shape[1]):
        points = [p for a in answers.values() if (p := _point(targets[:, k], scores[:, k], a[:, k])) is not None]
        if points:
            loose.append(sum(p.below if curve == "roc" else p.below_pr for p in points))
            strict.append(sum(p.strict if curve == "roc" else p.strict_pr for p in points))
    if not loose:
        return math.nan, math.nan, 0
    return float(np.mean(loose)), float(np.mean(strict)), len(loose)


def _point(y: Array, s: Array, a: Array) -> ReaderPoint | None:
    if np.isnan(s).all() or why_undefined(np.where(np.isnan(a), np.nan, y)):
        return None
    return reader_point(y, s, a)


def nrbc_rows(
    targets: Array,
    scores: Mapping[str, Array],
    answers: Mapping[str, Array],
    labels: tuple[str, ...],
    draws: Draws,
    patients: NDArray[np.intp],
) -> list[NrbcRow]:
    """NRBC of every model on both curves with a patient bootstrap interval (percentiles, one draw for all).

    targets (U, K); scores model -> (U, K); answers reader -> (U, K); patients (U,) codes in 0..draws.patients-1.
    """
    rows = []
    for model, values in scores.items():
        judged = [
            k
            for k in range(len(labels))
            if any(_point(targets[:, k], values[:, k], a[:, k]) is not None for a in answers.values())
        ]
        replicates = _replicates(targets, values, answers, judged, draws, patients)
        for i, curve in enumerate(("roc", "pr")):
            found, strict, count = count_below(targets, values, answers, curve)
            if not count:
                continue
            interval = Replicates(replicates[i]).interval()
            note = interval.method
            if strict != found:
                note += f"; {strict:g} where a reader on the curve is not counted"
            names = "; ".join(labels[k] for k in judged)
            rows.append(NrbcRow(model, curve, found, interval.low, interval.high, strict, len(answers), names, note))
    return rows


def _replicates(
    targets: Array,
    scores: Array,
    answers: Mapping[str, Array],
    judged: list[int],
    draws: Draws,
    patients: NDArray[np.intp],
) -> Array:
    """NRBC of every replicate on both curves, (2, replicates); NaN where a label had one class in it."""
    cells = [
        _Cell(targets[:, k], scores[:, k], a[:, k], patients, draws.patients)
        for k in judged
        for a in answers.values()
        if _point(targets[:, k], scores[:, k], a[:, k]) is not None
    ]
    parts = []
    for weights in draws.weights():
        total = np.zeros((2, weights.shape[1]))
        for cell in cells:
            total += cell.below(weights)
        parts.append(total / max(len(judged), 1))
    return np.concatenate(parts, axis=1)


class _Cell:
    """One reader and label against one model, ready to be weighed by patient."""

    def __init__(self, y: Array, s: Array, a: Array, patients: NDArray[np.intp], count: int) -> None:
        both = ~np.isnan(y) & ~np.isnan(a)
        y, s, a, codes = y[both], s[both], a[both], patients[both]
        self._sampler = CurveSampler(y, s, codes, count)
        kinds = ((y == 1) & (a == 1), (y == 0) & (a == 1), y == 1, y == 0)
        self._counts = np.stack([np.bincount(codes[kind], minlength=count) for kind in kinds]).astype(np.float64)

    def below(self, weights: Array) -> Array:
        """(2, b): 1 where the reader is on or below the ROC (PR) curve, else 0; NaN where a class is absent."""
        tp, fp, m, n = self._counts @ weights
        drawn = self._sampler.draw(weights)
        found = np.full((2, weights.shape[1]), np.nan)
        for r in np.flatnonzero((m > 0) & (n > 0)):
            curve = Cumulative(drawn.tp[:, r], drawn.fp[:, r], drawn.steps[:, r], drawn.tied)
            found[0, r] = _tpr_at(curve, fp[r]) >= tp[r] - SLACK * m[r]
            found[1, r] = _below_pr(curve, tp[r], fp[r])
        return found


def _tpr_at(curve: Cumulative, fp: float) -> float:
    """Positives found by the curve at ``fp`` false alarms, in counts; linear, the upper value on vertical parts."""
    after = int(np.searchsorted(curve.fp, fp + HALF, side="right"))  # counts are whole: the next larger one
    high = float(curve.tp[after]) if after < len(curve.tp) else float(curve.tp[-1])
    if after == len(curve.fp):
        return high
    left, low = (float(curve.fp[after - 1]), float(curve.tp[after - 1])) if after else (0.0, 0.0)
    return low + (high - low) * (fp - left) / (float(curve.fp[after]) - left)


def _below_pr(curve: Cumulative, tp: float, fp: float) -> bool:
    """Whether the first attained point with the reader's recall has at least the reader's precision."""
    if tp + fp == 0:
        return False
    first = int(np.searchsorted(curve.tp, tp - HALF))
    found = float(curve.tp[first])
    return bool(found * (tp + fp) >= (tp - SLACK) * (found + float(curve.fp[first])))
