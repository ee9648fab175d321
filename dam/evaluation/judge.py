"""Judge a predictions table: AUC with interval of every label and model, paired comparisons, macro means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dam.evaluation.auc import Placements, placements, why_undefined
from dam.evaluation.comparisons import Difference, MacroMean, holm, influence, macro_mean, paired_test
from dam.evaluation.intervals import (
    NO_VARIANCE,
    Counts,
    auc_interval,
    clustered_covariance,
    count_cases,
    delong_covariance,
    logit_interval,
    wald_interval,
)
from dam.evaluation.predictions import MEAN, Units

FEW = 10  # below this many cases of a class an AUC is marked


@dataclass(frozen=True)
class AucRow:
    """AUC of one label (or the macro mean) and model; NaN where undefined, and ``interval`` says why.

    In the row of the mean, ``n`` counts units with a known target of any label in the mean and ``n_pos`` those
    positive for at least one.
    """

    label: str
    model: str
    n: int
    n_pos: int
    auc: float
    ci_low: float
    ci_high: float
    interval: str


@dataclass(frozen=True)
class ComparisonRow:
    """Paired difference a - b. ``p_holm`` is adjusted over the labels; the mean is one test and keeps its p."""

    label: str
    a: str
    b: str
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    p_holm: float

    @property
    def tie(self) -> bool:
        """True where the interval is known and holds 0."""
        return self.ci_low <= 0 <= self.ci_high


@dataclass(frozen=True)
class Judgement:
    """All rows of one table of predictions: a label's rows follow one another, the mean comes last."""

    aucs: tuple[AucRow, ...]
    comparisons: tuple[ComparisonRow, ...]
    mean_labels: tuple[str, ...]  # the same for every model
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Label:
    """One label's cases, and its models' placements where both classes are there."""

    name: str
    models: tuple[str, ...]  # those with scores for it, in order
    counts: Counts
    reason: str  # why there is no AUC, or ""
    known: NDArray[np.bool_]
    placed: Placements | None
    of_positives: NDArray[np.intp]  # patient codes
    of_negatives: NDArray[np.intp]

    def difference(self, a: str, b: str) -> Difference:
        if self.placed is None or a not in self.models or b not in self.models:
            return Difference(math.nan, math.nan, math.nan, math.nan)
        i, j = self.models.index(a), self.models.index(b)
        if self.counts.clustered:
            return paired_test(self.placed, i, j, self.of_positives, self.of_negatives)
        return paired_test(self.placed, i, j)


def judge(units: Units, pairs: Sequence[tuple[str, str]] = (), interval: str = "auto") -> Judgement:
    """Judge every label and model of ``units`` and compare the ``pairs`` (a, b) of models on the same units.

    Variances are clustered by patient for every label whose known units share patients. The macro mean is over the
    labels that have both classes and scores of every model; with one such label the mean is that label. ``interval`` is
    one of ``intervals.METHODS``. Raises ``ValueError`` for an unknown model in ``pairs`` or an unknown method.
    """
    models = tuple(units.scores)
    for model in {m for pair in pairs for m in pair}:
        if model not in models:
            raise ValueError(f"there is no model {model!r} to compare: the table has {', '.join(models)}")
    labels = [_examine(units, k) for k in range(len(units.labels))]
    rows: list[AucRow] = []
    for label in labels:
        rows += _label_rows(label, models, interval)
    in_mean = [label for label in labels if label.placed is not None and label.models == models]
    macro = _macro(in_mean, units)
    rows += _mean_rows(in_mean, macro, units, rows, interval)
    comparisons: list[ComparisonRow] = []
    for a, b in pairs:
        comparisons += _compare(labels, in_mean, macro, models, (a, b))
    names = tuple(label.name for label in in_mean)
    return Judgement(tuple(rows), tuple(comparisons), names, tuple(_notes(labels, in_mean, models)))


def _examine(units: Units, k: int) -> _Label:
    y = units.targets[:, k]
    known = ~np.isnan(y)
    models = tuple(m for m, s in units.scores.items() if not np.isnan(s[:, k]).all())
    y, patients = y[known], units.patients[known]
    reason = why_undefined(y)
    placed = None
    if not reason and models:
        placed = placements(y, np.stack([units.scores[m][known, k] for m in models]))
    counts = count_cases(y, patients)
    return _Label(units.labels[k], models, counts, reason, known, placed, patients[y == 1], patients[y == 0])


def _label_rows(label: _Label, models: tuple[str, ...], method: str) -> list[AucRow]:
    counts = label.counts
    variances = np.zeros(0)
    if label.placed is not None:
        if counts.clustered:
            variances = np.diag(clustered_covariance(label.placed, label.of_positives, label.of_negatives))
        else:
            variances = np.diag(delong_covariance(label.placed))
    rows = []
    for model in models:
        auc, low, high, how = math.nan, math.nan, math.nan, f"undefined ({label.reason})"
        if model not in label.models:
            how = "no scores"
        elif label.placed is not None:
            r = label.models.index(model)
            auc = float(label.placed.auc[r])
            found = auc_interval(auc, float(variances[r]), counts, method)
            low, high, how = found.low, found.high, found.method
        rows.append(AucRow(label.name, model, counts.n, counts.positives, auc, low, high, how))
    return rows


# ---------------------------------------------------------------- the macro mean


def _macro(in_mean: Sequence[_Label], units: Units) -> MacroMean | None:
    if not in_mean:
        return None
    patients = int(units.patients.max()) + 1
    placed = [label.placed for label in in_mean if label.placed is not None]
    parts = [
        influence(p, label.of_positives, label.of_negatives, patients) for p, label in zip(placed, in_mean, strict=True)
    ]
    return macro_mean([p.auc for p in placed], parts)


def _mean_rows(
    in_mean: Sequence[_Label], macro: MacroMean | None, units: Units, rows: Sequence[AucRow], method: str
) -> list[AucRow]:
    models = tuple(units.scores)
    if macro is None:
        how = "undefined (no label has both classes and scores of every model)"
        return [AucRow(MEAN, m, 0, 0, math.nan, math.nan, math.nan, how) for m in models]
    if len(in_mean) == 1:
        return [AucRow(MEAN, *list(vars(row).values())[1:]) for row in rows if row.label == in_mean[0].name]
    columns = [units.labels.index(label.name) for label in in_mean]
    y = units.targets[:, columns]
    n = int(np.sum(~np.isnan(y).all(axis=1)))
    n_pos = int(np.sum((y == 1).any(axis=1)))
    few = _without_variance(in_mean)
    patients = [_any_patients(in_mean, positive) for positive in (True, False)]
    df = min(patients) - 1
    result = []
    for r, model in enumerate(models):
        auc, variance = float(macro.mean[r]), macro.variance(r)
        if few:
            low, high, how = math.nan, math.nan, f"not estimable ({few})"
        else:
            low, high, how = _mean_interval(auc, variance, df, method)
        result.append(AucRow(MEAN, model, n, n_pos, auc, low, high, how))
    return result


def _mean_interval(auc: float, variance: float, df: int, method: str) -> tuple[float, float, str]:
    if not variance > NO_VARIANCE:
        return math.nan, math.nan, f"not estimable ({'perfect separation' if auc in (0.0, 1.0) else 'no variance'})"
    if method == "delong":
        return *wald_interval(auc, variance), "influence delong"
    if method == "logit":
        return *logit_interval(auc, variance), "influence logit"
    return *logit_interval(auc, variance, df=df), "influence logit-t"


def _any_patients(in_mean: Sequence[_Label], positive: bool) -> int:
    """Patients with a positive (negative) of at least one label: what the mean's degrees of freedom are counted in."""
    return len(np.unique(np.concatenate([i.of_positives if positive else i.of_negatives for i in in_mean])))


def _without_variance(in_mean: Sequence[_Label]) -> str:
    """Labels too small for a variance. The influence formula would count them as known exactly."""
    return ", ".join(f"{label.name}: {label.counts.too_few}" for label in in_mean if label.counts.too_few)


# ---------------------------------------------------------------- comparisons


def _compare(
    labels: Sequence[_Label],
    in_mean: Sequence[_Label],
    macro: MacroMean | None,
    models: tuple[str, ...],
    pair: tuple[str, str],
) -> list[ComparisonRow]:
    a, b = pair
    found = [label.difference(a, b) for label in labels]
    adjusted = holm([d.p_value for d in found])
    rows = [_row(label.name, pair, d, float(p)) for label, d, p in zip(labels, found, adjusted, strict=True)]
    mean = Difference(math.nan, math.nan, math.nan, math.nan)
    if macro is not None and len(in_mean) == 1:
        mean = in_mean[0].difference(a, b)
    elif macro is not None:
        mean = macro.compare(models.index(a), models.index(b))
        if _without_variance(in_mean):
            mean = Difference(mean.difference, math.nan, math.nan, math.nan)
    return [*rows, _row(MEAN, pair, mean, mean.p_value)]


def _row(label: str, pair: tuple[str, str], d: Difference, p_holm: float) -> ComparisonRow:
    return ComparisonRow(label, *pair, d.difference, d.low, d.high, d.p_value, p_holm)


# ---------------------------------------------------------------- notes


def _notes(labels: Sequence[_Label], in_mean: Sequence[_Label], models: tuple[str, ...]) -> list[str]:
    notes = []
    for label in labels:
        if label.reason:
            notes.append(f"{label.name}: no AUC, {label.reason} ({label.counts.n} known); left out of the mean")
            continue
        lacking = [m for m in models if m not in label.models]
        if lacking:
            notes.append(f"{label.name}: no scores of {', '.join(lacking)}; left out of the mean of every model")
        if label.counts.too_few:
            notes.append(f"{label.name}: no interval and no test, {label.counts.too_few}")
        elif min(label.counts.positives, label.counts.negatives) < FEW:
            few, name = min((label.counts.positives, "positives"), (label.counts.negatives, "negatives"))
            notes.append(f"{label.name}: only {few} {name} (fewer than {FEW}): read its AUC with care")
    if in_mean and _without_variance(in_mean):
        notes.append(
            f"the mean has no interval and no test, because of labels too small ({_without_variance(in_mean)})"
        )
    return notes
