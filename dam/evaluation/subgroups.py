"""Every label and model within groups of patients or images, and the difference of each group to the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dam.config import EvaluationConfig
from dam.evaluation.auc import Array, placements, why_undefined
from dam.evaluation.bootstrap import Draws, RankedCases, Replicates, affordable, bootstrap_aucs
from dam.evaluation.comparisons import holm, unpaired_test
from dam.evaluation.groups import SIDELINED, Grouping
from dam.evaluation.intervals import (
    VARIANCE_METHODS,
    Counts,
    Interval,
    auc_interval,
    clustered_covariance,
    count_cases,
    delong_covariance,
)
from dam.evaluation.operating import wilson
from dam.evaluation.predictions import Units
from dam.evaluation.rows import SubgroupRow

TOO_SMALL = "fewer than 2 patients of a class: no AUC"

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Settled:
    """What was settled before the groups were looked at; NaN where there is none."""

    threshold: float  # of raw scores
    probabilities: Array  # (U,), calibrated


@dataclass(frozen=True)
class _Estimate:
    """AUCs of the models (R,) on some units, with variances; NaN where a class has fewer than 2 patients."""

    counts: Counts
    aucs: Array
    variances: Array


@dataclass(frozen=True)
class _Pending:
    """A row whose bootstrap is still to be made: its two sides are masks over the units."""

    row: int
    label: int
    model: str
    inside: Mask
    rest: Mask


def subgroup_rows(
    units: Units,
    groupings: Sequence[Grouping],
    settled: Mapping[tuple[str, str], Settled],
    cfg: EvaluationConfig,
) -> tuple[list[SubgroupRow], list[str]]:
    """Rows of every column, group, label and model (in that order), and notes.

    ``settled`` is by (label, model). A group is compared with all units of other known groups ("unknown" and "mixed"
    units are on no side, but have rows of their own): by a z test where no patient is on both sides, else by patient
    bootstrap. Groups, or rests, with fewer than ``cfg.min_group`` positives or negatives are marked and not tested;
    with fewer than 2 patients of a class they have no AUC. Holm's family is all tests of one model; where a column
    has two groups their two tests are one. Sensitivity and specificity have Wilson's intervals, with the effective
    number of cases where patients repeat (that of equal variance, summed by patient).
    """
    rows: list[SubgroupRow] = []
    pending: list[_Pending] = []
    for grouping in groupings:
        for k, label in enumerate(units.labels):
            models = tuple(m for m, s in units.scores.items() if not np.isnan(s[:, k]).all())
            known = ~np.isnan(units.targets[:, k])
            compared = known & ~np.isin(grouping.of_unit, SIDELINED)
            for name in grouping.names:
                inside = known & (grouping.of_unit == name)
                if not inside.any() or not models:
                    continue
                rest = compared & ~inside
                shared = bool(np.any(_owners(units, inside) & _owners(units, rest)))
                here, there = (_estimate(units, k, models, side) for side in (inside, rest))
                for r, model in enumerate(models):
                    row = _row(units, k, (grouping.column, name, model), inside, settled.get((label, model)))
                    row = _with_auc(row, here, r, cfg)
                    row = _with_difference(row, here, there, r, (cfg.min_group, name in SIDELINED))
                    if row.test == "z" and shared:
                        pending.append(_Pending(len(rows), k, model, inside, rest))
                    rows.append(row)
    notes = _bootstrap(units, rows, pending, cfg)
    return _adjusted(rows, groupings), notes


def _owners(units: Units, side: Mask) -> Mask:
    """Which patients have a unit on this side."""
    owners = np.zeros(int(units.patients.max()) + 1, dtype=bool)
    owners[units.patients[side]] = True
    return owners


def _estimate(units: Units, k: int, models: tuple[str, ...], side: Mask) -> _Estimate:
    y, patients = units.targets[side, k], units.patients[side]
    counts = count_cases(y, patients)
    nothing = np.full(len(models), math.nan)
    if why_undefined(y) or min(counts.positive_patients, counts.negative_patients) < 2:
        return _Estimate(counts, nothing, nothing)
    placed = placements(y, np.stack([units.scores[m][side, k] for m in models]))
    if counts.clustered:
        covariance = clustered_covariance(placed, patients[y == 1], patients[y == 0])
    else:
        covariance = delong_covariance(placed)
    return _Estimate(counts, placed.auc, np.diag(covariance))


# ---------------------------------------------------------------- one row


def _row(units: Units, k: int, names: tuple[str, str, str], inside: Mask, settled: Settled | None) -> SubgroupRow:
    column, group, model = names
    y, patients = units.targets[inside, k], units.patients[inside]
    threshold, o_over_e = math.nan, math.nan
    sens = spec = (math.nan, math.nan, math.nan)
    if settled is not None:
        threshold = settled.threshold
        expected = float(settled.probabilities[inside].sum())
        o_over_e = float(y.sum()) / expected if expected > 0 else math.nan
    if not math.isnan(threshold):
        called = units.scores[model][inside, k] >= threshold
        sens = rate_by_patient(called[y == 1], patients[y == 1])
        spec = rate_by_patient(~called[y == 0], patients[y == 0])
    return SubgroupRow(
        column=column,
        group=group,
        label=units.labels[k],
        model=model,
        patients=int(np.sum(np.bincount(patients) > 0)),
        n=len(y),
        n_pos=int(y.sum()),
        prevalence=float(y.mean()),
        auc=math.nan,
        low=math.nan,
        high=math.nan,
        interval="",
        threshold=threshold,
        sensitivity=sens[0],
        sensitivity_low=sens[1],
        sensitivity_high=sens[2],
        specificity=spec[0],
        specificity_low=spec[1],
        specificity_high=spec[2],
        o_over_e=o_over_e,
        difference_to_rest=math.nan,
        diff_low=math.nan,
        diff_high=math.nan,
        p_value=math.nan,
        p_holm=math.nan,
        test="",
    )


def rate_by_patient(hits: Mask, patients: NDArray[np.intp]) -> tuple[float, float, float]:
    """(rate, low, high) of hits (n,): Wilson's interval with the effective number of cases; NaN without cases.

    patients (n,) are codes >= 0. Effective is the number of independent cases that would have the variance summed by
    patient, at most n; with one case a patient it is n.
    """
    if not len(hits):
        return math.nan, math.nan, math.nan
    n, groups, rate = float(len(hits)), int(np.sum(np.bincount(patients) > 0)), float(hits.mean())
    if groups < n:
        sums = np.bincount(patients, weights=hits - rate)
        variance = float(sums @ sums) / n**2
        effective = rate * (1 - rate) / variance if variance > 0 else float(groups)
        n = min(n, effective)
    return rate, *wilson(rate * n, n)


def _with_auc(row: SubgroupRow, here: _Estimate, r: int, cfg: EvaluationConfig) -> SubgroupRow:
    if math.isnan(here.aucs[r]):
        return replace(row, interval=f"undefined ({here.counts.too_few or 'one patient of a class'})", note=TOO_SMALL)
    auc = float(here.aucs[r])
    method = cfg.interval if cfg.interval in VARIANCE_METHODS else "auto"
    found: Interval = auc_interval(auc, float(here.variances[r]), here.counts, method)
    return replace(row, auc=auc, low=found.low, high=found.high, interval=found.method)


def _with_difference(
    row: SubgroupRow, here: _Estimate, there: _Estimate, r: int, rule: tuple[int, bool]
) -> SubgroupRow:
    least, sidelined = rule
    if math.isnan(here.aucs[r]):
        return row
    small = min(here.counts.positives, here.counts.negatives)
    if small < least:
        return replace(row, note=f"fewer than {least} positives or negatives ({small}): not tested")
    if sidelined:
        return replace(row, note="not compared: it is no group of its own kind")
    if min(there.counts.positives, there.counts.negatives) < least or math.isnan(there.aucs[r]):
        return replace(row, note=f"the rest has fewer than {least} positives or negatives: not tested")
    found = unpaired_test(
        float(here.aucs[r]), float(here.variances[r]), float(there.aucs[r]), float(there.variances[r])
    )
    return replace(
        row,
        difference_to_rest=found.difference,
        diff_low=found.low,
        diff_high=found.high,
        p_value=found.p_value,
        test="z",
    )


# ---------------------------------------------------------------- groups that share patients


def _bootstrap(units: Units, rows: list[SubgroupRow], pending: Sequence[_Pending], cfg: EvaluationConfig) -> list[str]:
    """Replace the z test of the pending rows by the patient bootstrap of the difference, in place."""
    if not pending:
        return []
    count = int(units.patients.max()) + 1
    draws = Draws(count, affordable(cfg.replicates, len(units.patients) * len(pending)), cfg.seed)
    sides = []
    for item in pending:
        y, s = units.targets[:, item.label], units.scores[item.model][:, item.label]
        sides += [RankedCases(y[m], s[m], units.patients[m], count) for m in (item.inside, item.rest)]
    aucs = bootstrap_aucs(sides, draws)
    for item, inside, rest in zip(pending, aucs[::2], aucs[1::2], strict=True):
        found = Replicates(inside - rest)
        interval = found.interval()
        rows[item.row] = replace(
            rows[item.row],
            diff_low=interval.low,
            diff_high=interval.high,
            p_value=found.p_value(),
            test="patient bootstrap",
        )
    return [
        f"subgroups: {len(pending)} differences are between groups that share patients and were tested by patient "
        f"bootstrap, {draws.replicates} replicates"
    ]


def _adjusted(rows: list[SubgroupRow], groupings: Sequence[Grouping]) -> list[SubgroupRow]:
    """Holm's p values, a family a model; of a column with two groups only the first group's test is counted."""
    pairs = {g.column for g in groupings if sum(name not in SIDELINED for name in g.names) == 2}
    adjusted = np.full(len(rows), math.nan)
    for model in {row.model for row in rows}:
        first: dict[tuple[str, str], int] = {}
        twin: dict[int, int] = {}
        for i, row in enumerate(rows):
            if row.model != model or math.isnan(row.p_value):
                continue
            key = (row.column, row.label) if row.column in pairs else (f"{row.column}\n{row.group}", row.label)
            twin[i] = first.setdefault(key, i)
        family = sorted(set(twin.values()))
        p = dict(zip(family, holm([rows[i].p_value for i in family]), strict=True))
        for i, original in twin.items():
            adjusted[i] = p[original]
    return [replace(row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]
