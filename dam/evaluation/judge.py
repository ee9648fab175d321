"""Judge a predictions table: AUC with interval of every label and model, paired comparisons, macro means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dam.evaluation.auc import Array, Placements, placements, why_undefined
from dam.evaluation.bootstrap import Draws, RankedCases, Replicates, bootstrap_aucs
from dam.evaluation.comparisons import (
    NO_DIFFERENCE,
    Difference,
    MacroMean,
    difference_test,
    holm,
    influence,
    macro_mean,
    paired_test,
)
from dam.evaluation.intervals import (
    METHODS,
    NO_VARIANCE,
    Counts,
    Interval,
    auc_interval,
    clustered_covariance,
    count_cases,
    delong_covariance,
    logit_interval,
    wald_interval,
    why_not_estimable,
)
from dam.evaluation.predictions import MEAN, Units

FEW = 10  # below this many cases of a class an AUC is marked
ALIKE = "the two rank all cases alike"
NO_TEST = "not estimable (no variance)"


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
    """Paired difference a - b. ``p_holm`` is adjusted over the labels; the mean is one test and keeps its p.

    ``se`` is the standard error of the difference; ``test`` names what interval and p were made by, or says why there
    is none.
    """

    label: str
    a: str
    b: str
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    p_holm: float
    se: float = math.nan
    test: str = ""

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
    placed: Placements | None
    of_positives: NDArray[np.intp]  # patient codes
    of_negatives: NDArray[np.intp]
    replicates: Array | None  # (models, replicates) where a bootstrap was asked for and can be made

    def difference(self, a: str, b: str, method: str) -> tuple[Difference, str]:
        """The paired difference a - b and how it was tested, or why it was not."""
        if self.placed is None:
            return NO_DIFFERENCE, f"undefined ({self.reason})" if self.reason else "no scores"
        if a not in self.models or b not in self.models:
            return NO_DIFFERENCE, "no scores"
        i, j = self.models.index(a), self.models.index(b)
        if self.replicates is not None:
            return _bootstrapped(float(self.placed.auc[i] - self.placed.auc[j]), self.replicates[i], self.replicates[j])
        df = self.counts.df if method == "auto" and not self.counts.too_few else math.inf
        if self.counts.clustered or method == "clustered":
            found = paired_test(self.placed, i, j, self.of_positives, self.of_negatives, df)
            how = "clustered paired DeLong"
        else:
            found, how = paired_test(self.placed, i, j, df=df), "paired DeLong"
        return found, _how_tested(found, how, df, self.counts.too_few)


def judge(
    units: Units,
    pairs: Sequence[tuple[str, str]] = (),
    interval: str = "auto",
    replicates: int = 2000,
    seed: int = 0,
) -> Judgement:
    """Judge every label and model of ``units`` and compare the ``pairs`` (a, b) of models on the same units.

    The macro mean is over the labels that have both classes and scores of every model; with one such label the mean is
    that label. ``interval`` says how intervals and tests are made:

    - ``auto``: on the logit scale with a t quantile (differences: t on their own scale); the variance is clustered by
      patient for every label whose known units share patients;
    - ``delong``, ``logit``: as published, normal quantiles, every unit taken for independent (a note says where
      patients repeat);
    - ``clustered``: Obuchowski's variance for every label, logit scale, normal quantile;
    - ``bootstrap``: patients drawn ``replicates`` times from ``seed``, percentiles; one draw for all labels, models,
      differences and the mean.

    Raises ``ValueError`` for an unknown model in ``pairs`` or an unknown method.
    """
    models = tuple(units.scores)
    for model in {m for pair in pairs for m in pair}:
        if model not in models:
            raise ValueError(f"there is no model {model!r} to compare: the table has {', '.join(models)}")
    if interval not in METHODS:
        raise ValueError(f"interval method {interval!r} is unknown: choose one of {', '.join(METHODS)}")
    cases, patients = len(units.patients), np.count_nonzero(np.bincount(units.patients))
    if interval in ("delong", "logit"):
        units = replace(units, patients=np.arange(cases))
    draws = Draws(int(units.patients.max()) + 1, replicates, seed) if interval == "bootstrap" and cases else None
    labels = [_examine(units, k, draws) for k in range(len(units.labels))]
    rows: list[AucRow] = []
    for label in labels:
        rows += _label_rows(label, models, interval)
    in_mean = [label for label in labels if label.placed is not None and label.models == models]
    macro = _macro(in_mean, units)
    rows += _mean_rows(in_mean, macro, units, rows, interval)
    comparisons: list[ComparisonRow] = []
    for a, b in pairs:
        comparisons += _compare(labels, in_mean, macro, (models.index(a), models.index(b)), (a, b), interval)
    names = tuple(label.name for label in in_mean)
    notes = _notes(labels, in_mean, models)
    if interval in ("delong", "logit") and patients < cases:
        notes.append(
            f"interval={interval} takes {cases} units ({units.unit}) of {patients} patients for independent: its "
            "intervals are too narrow (those of auto, clustered and bootstrap are not)"
        )
    return Judgement(tuple(rows), tuple(comparisons), names, tuple(notes))


def _examine(units: Units, k: int, draws: Draws | None) -> _Label:
    y = units.targets[:, k]
    known = ~np.isnan(y)
    models = tuple(m for m, s in units.scores.items() if not np.isnan(s[:, k]).all())
    y, patients = y[known], units.patients[known]
    reason = why_undefined(y)
    counts = count_cases(y, patients)
    placed, replicates = None, None
    if not reason and models:
        scores = np.stack([units.scores[m][known, k] for m in models])
        placed = placements(y, scores)
        if draws is not None and not counts.too_few:
            replicates = bootstrap_aucs([RankedCases(y, row, patients, draws.patients) for row in scores], draws)
    return _Label(units.labels[k], models, counts, reason, placed, patients[y == 1], patients[y == 0], replicates)


def _label_rows(label: _Label, models: tuple[str, ...], method: str) -> list[AucRow]:
    counts = label.counts
    variances = np.zeros(0)
    if label.placed is not None:
        if counts.clustered or method == "clustered":
            variances = np.diag(clustered_covariance(label.placed, label.of_positives, label.of_negatives))
        else:
            variances = np.diag(delong_covariance(label.placed))
    rows = []
    for model in models:
        auc, found = math.nan, Interval(math.nan, math.nan, f"undefined ({label.reason})")
        if model not in label.models:
            found = Interval(math.nan, math.nan, "no scores")
        elif label.placed is not None:
            r = label.models.index(model)
            auc, variance = float(label.placed.auc[r]), float(variances[r])
            if method != "bootstrap":
                found = auc_interval(auc, variance, counts, method)
            elif label.replicates is None or (why := why_not_estimable(auc, variance, counts)):
                found = Interval(math.nan, math.nan, why if label.replicates is not None else _few(counts))
            else:
                found = Replicates(label.replicates[r]).interval()
        rows.append(AucRow(label.name, model, counts.n, counts.positives, auc, found.low, found.high, found.method))
    return rows


def _few(counts: Counts) -> str:
    return f"not estimable ({counts.too_few})"


# ---------------------------------------------------------------- the macro mean


def _macro(in_mean: Sequence[_Label], units: Units) -> MacroMean | None:
    if not in_mean:
        return None
    patients = int(units.patients.max()) + 1
    placed = [label.placed for label in in_mean if label.placed is not None]
    parts = [
        influence(p, label.of_positives, label.of_negatives, patients, corrected=True)
        for p, label in zip(placed, in_mean, strict=True)
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
        return [replace(row, label=MEAN) for row in rows if row.label == in_mean[0].name]
    columns = [units.labels.index(label.name) for label in in_mean]
    y = units.targets[:, columns]
    n = int(np.sum(~np.isnan(y).all(axis=1)))
    n_pos = int(np.sum((y == 1).any(axis=1)))
    few = _without_variance(in_mean)
    result = []
    for r, model in enumerate(models):
        auc, variance = float(macro.mean[r]), macro.variance(r)
        if few:
            found = Interval(math.nan, math.nan, f"not estimable ({few})")
        elif not variance > NO_VARIANCE:
            why = "perfect separation" if auc in (0.0, 1.0) else "no variance"
            found = Interval(math.nan, math.nan, f"not estimable ({why})")
        elif method == "bootstrap":
            found = Replicates(_mean_replicates(in_mean, r)).interval()
        else:
            found = _mean_interval(auc, variance, _mean_df(in_mean, macro, r), method)
        result.append(AucRow(MEAN, model, n, n_pos, auc, found.low, found.high, found.method))
    return result


def _mean_interval(auc: float, variance: float, df: float, method: str) -> Interval:
    if method == "delong":
        return Interval(*wald_interval(auc, variance), "influence delong")
    if method in ("logit", "clustered"):
        return Interval(*logit_interval(auc, variance), "influence logit")
    return Interval(*logit_interval(auc, variance, df=df), "influence logit-t")


def _mean_replicates(in_mean: Sequence[_Label], model: int) -> Array:
    """Mean over labels in each replicate (replicates,); NaN where a label of it has one class."""
    rows = [label.replicates[model] for label in in_mean if label.replicates is not None]
    mean: Array = np.mean(np.stack(rows), axis=0)
    return mean


def _mean_df(in_mean: Sequence[_Label], macro: MacroMean, a: int, b: int | None = None) -> float:
    """Degrees of freedom of a mean, or of the difference of two.

    Welch's over the labels, as if they shared no patient, but no more than the patients with a positive (a negative)
    of at least one label give.
    """
    sides = [[label.of_positives for label in in_mean], [label.of_negatives for label in in_mean]]
    most = min(int(np.count_nonzero(np.bincount(np.concatenate(side)))) for side in sides) - 1
    by_label = macro.df([label.counts.df + 1 for label in in_mean], a, b)
    return most if math.isnan(by_label) else min(most, by_label)


def _without_variance(in_mean: Sequence[_Label]) -> str:
    """Labels too small for a variance. The influence formula would count them as known exactly."""
    return ", ".join(f"{label.name}: {label.counts.too_few}" for label in in_mean if label.counts.too_few)


# ---------------------------------------------------------------- comparisons


def _compare(
    labels: Sequence[_Label],
    in_mean: Sequence[_Label],
    macro: MacroMean | None,
    at: tuple[int, int],
    pair: tuple[str, str],
    method: str,
) -> list[ComparisonRow]:
    found = [label.difference(*pair, method) for label in labels]
    adjusted = holm([d.p_value for d, _ in found])
    rows = [
        _row(label.name, pair, d, float(p), how) for label, (d, how), p in zip(labels, found, adjusted, strict=True)
    ]
    mean, how = NO_DIFFERENCE, "undefined (no label has both classes and scores of every model)"
    if macro is not None and len(in_mean) == 1:
        mean, how = in_mean[0].difference(*pair, method)
    elif macro is not None:
        mean, how = _mean_difference(in_mean, macro, at, method)
    return [*rows, _row(MEAN, pair, mean, mean.p_value, how)]


def _mean_difference(
    in_mean: Sequence[_Label], macro: MacroMean, at: tuple[int, int], method: str
) -> tuple[Difference, str]:
    a, b = at
    difference = float(macro.mean[a] - macro.mean[b])
    few = _without_variance(in_mean)
    if few:
        return Difference(difference, math.nan, math.nan, math.nan), f"not estimable ({few})"
    if method == "bootstrap":
        return _bootstrapped(difference, _mean_replicates(in_mean, a), _mean_replicates(in_mean, b))
    df = _mean_df(in_mean, macro, a, b) if method == "auto" else math.inf
    found = macro.compare(a, b, df)
    return found, _how_tested(found, "influence", df, "")


def _bootstrapped(difference: float, a: Array, b: Array) -> tuple[Difference, str]:
    """The difference of the original sample with the interval and p of its replicates, paired by draw."""
    drawn = Replicates(a - b)
    if drawn.too_few:
        return Difference(difference, math.nan, math.nan, math.nan), drawn.method
    if np.ptp(drawn.kept) == 0:
        return difference_test(difference, 0.0), ALIKE if difference == 0 else NO_TEST
    found = drawn.interval()
    return Difference(difference, found.low, found.high, drawn.p_value(), drawn.se), found.method


def _how_tested(found: Difference, how: str, df: float, few: str) -> str:
    if math.isnan(found.low):
        return f"not estimable ({few})" if few else NO_TEST
    if found.se == 0:
        return ALIKE
    return how if math.isinf(df) else f"{how}, t with {df:.0f} df"


def _row(label: str, pair: tuple[str, str], d: Difference, p_holm: float, how: str) -> ComparisonRow:
    return ComparisonRow(label, *pair, d.difference, d.low, d.high, d.p_value, p_holm, d.se, how)


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
        if label.replicates is not None:
            notes += _lost(label.name, label.replicates[0])
    if len(in_mean) > 1 and all(label.replicates is not None for label in in_mean):
        notes += _lost("the mean", _mean_replicates(in_mean, 0))
    if in_mean and _without_variance(in_mean):
        notes.append(
            f"the mean has no interval and no test, because of labels too small ({_without_variance(in_mean)})"
        )
    return notes


def _lost(name: str, values: Array) -> list[str]:
    drawn = Replicates(values)
    lost = f"{name}: {drawn.dropped} of {len(values)} bootstrap replicates had one class and were dropped (over 5 %): "
    return [lost + "too few patients for a bootstrap"] if drawn.doubtful else []
