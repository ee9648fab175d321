"""Everything that is said about one test table, as tables of rows: what was chosen on validation is applied to test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from dam.config import EvaluationConfig
from dam.evaluation.auc import Array, why_undefined
from dam.evaluation.bootstrap import Draws, Replicates, affordable
from dam.evaluation.fitted import Fitted, cross_fitted, fit
from dam.evaluation.groups import group_units
from dam.evaluation.intervals import count_cases
from dam.evaluation.judge import judge
from dam.evaluation.label_tables import (
    MAX_FPR,
    Case,
    calibration_rows,
    net_benefit_rows,
    operating_rows,
    performance_row,
    trust_rows,
)
from dam.evaluation.predictions import Predictions, Units, merge_units, unit_of_images
from dam.evaluation.radiologists import nrbc_rows, reader_row
from dam.evaluation.reader_tables import join_readers, read_readers
from dam.evaluation.resampled_labels import Job, curve_job, ece_job, rates_job, run_jobs
from dam.evaluation.rows import Assessment, NrbcRow, ReaderRow, SubgroupRow
from dam.evaluation.subgroups import Settled, subgroup_rows
from dam.evaluation.verdict import make_verdict

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("performance", "operating", "calibration", "reliability", "net_benefit", "trust", "trust_density")
_Tables = dict[str, list[Any]]


def assess(
    test: Predictions,
    val: Predictions | None,
    metadata: pd.DataFrame | None,
    cfg: EvaluationConfig,
    unit: str = "image",
    merge: str = "mean",
    pairs: Sequence[tuple[str, str]] = (),
    rebalanced: bool = False,
) -> Assessment:
    """Assess the models of ``test``; all scores are logits.

    Args:
        test: the table that is judged. Nothing is chosen on it.
        val: what calibration and thresholds are fitted on. Without it calibration is cross-fitted on test, and no
            threshold is chosen. Labels and models that it lacks are treated so one by one.
        metadata: one row an image, column ``image`` and any others (predictions/images.csv); None: no subgroups.
        cfg: how to judge.
        unit: image, study or patient; ``merge``: mean or max of a unit's scores.
        pairs: models (a, b) to compare; the first pair has the verdict.
        rebalanced: training changed the share of positives, so that temperature scaling is refused.

    Raises ``UserError`` for reader tables, subgroup columns and a temperature that cannot be used, ``ValueError`` for
    an unknown model in ``pairs``.
    """
    units = merge_units(test, unit, merge)
    judgement = judge(units, pairs, cfg.interval, cfg.replicates, cfg.seed)
    fitted = Fitted() if val is None else fit(merge_units(val, unit, merge), cfg, rebalanced)
    cases, notes = _cases(units, fitted, cfg, rebalanced)
    notes = [*_about_validation(val, cfg), *fitted.notes, *notes]
    replicates = affordable(cfg.replicates, len(units.patients) * len(cases))
    if replicates < cfg.replicates:
        notes.append(
            f"{replicates} instead of {cfg.replicates} bootstrap replicates were drawn for what is not an AUC: "
            f"the table has {len(units.patients)} units with {len(cases)} labels and models"
        )
    tables = _tables(cases, _bootstrap(cases, units, replace(cfg, replicates=replicates)), cfg)
    probabilities = _probabilities(units, cases)
    groups: list[SubgroupRow] = []
    if metadata is not None:
        groupings, said = group_units(metadata, test, unit, cfg.subgroups)
        groups, more = subgroup_rows(units, groupings, _settled(units, cases, probabilities), cfg)
        notes += [*said, *more]
    elif cfg.subgroups:
        notes.append(f"no subgroups: there is no metadata, and so no {', '.join(cfg.subgroups)}")
    readers, nrbc, said = _readers(test, merge, cfg)
    return Assessment(
        units=units,
        judgement=judgement,
        fitted=fitted,
        **{name: tuple(rows) for name, rows in tables.items()},
        readers=tuple(readers),
        nrbc=tuple(nrbc),
        subgroups=tuple(groups),
        verdict=make_verdict(judgement, *pairs[0]) if pairs else None,
        probabilities=probabilities,
        notes=tuple([*notes, *said]),
    )


def _tables(cases: Sequence[Case], drawn: Sequence[_Drawn], cfg: EvaluationConfig) -> _Tables:
    """The tables that have rows for each label and model."""
    tables: _Tables = {name: [] for name in TABLES}
    for case, found in zip(cases, drawn, strict=True):
        tables["performance"].append(performance_row(case, cfg, found.curves))
        tables["operating"].extend(operating_rows(case, cfg, found.rates))
        if not len(case.y):
            continue
        rows, bins = calibration_rows(case, cfg, found.errors)
        tables["calibration"].extend(rows)
        tables["reliability"].extend(bins)
        tables["net_benefit"].extend(net_benefit_rows(case))
        trusts, points = trust_rows(case)
        tables["trust"].extend(trusts)
        tables["trust_density"].extend(points)
    return tables


def _about_validation(val: Predictions | None, cfg: EvaluationConfig) -> list[str]:
    notes = []
    if val is None:
        notes.append(
            "no other table to fit on: no threshold was chosen, and calibration is cross-fitted on the cases judged"
        )
    if cfg.calibration == "none":
        notes.append("scores were not calibrated (evaluation.calibration=none): there is no decision curve")
    elif cfg.prevalence is not None:
        notes.append(
            f"the stored calibration is for a prevalence of {cfg.prevalence:g}; on test it is judged without that "
            'shift, and once more with it ("at prevalence")'
        )
    return notes


# ---------------------------------------------------------------- cases


def _cases(units: Units, fitted: Fitted, cfg: EvaluationConfig, rebalanced: bool) -> tuple[list[Case], list[str]]:
    """Every label and model with scores, calibrated; and notes on what could not be."""
    cases, notes = [], []
    for k, label in enumerate(units.labels):
        known = ~np.isnan(units.targets[:, k])
        y, patients = units.targets[known, k], units.patients[known]
        clustered = count_cases(y, patients).clustered
        for model, scores in units.scores.items():
            if np.isnan(scores[:, k]).all():
                continue
            s, found = scores[known, k], fitted.get(model, label)
            after, where, note = np.full(len(y), math.nan), "validation", ""
            if found is not None:
                note = found.note
                if found.usable:
                    after = found.logits(s, shifted=False)
            elif not why_undefined(y):
                crossed = cross_fitted(y, s, patients, cfg, rebalanced)
                after, note = crossed.logits, crossed.note
                where = f"the cases judged, cross-fitted in {crossed.folds} folds"
                if note:
                    notes.append(f"{label}, {model}: {note}")
            cases.append(Case(label, model, y, s, patients, clustered, found, after, where, note))
    return cases, notes


def _probabilities(units: Units, cases: Sequence[Case]) -> dict[str, Array]:
    """Calibrated probabilities (U, K) of every model: of all units where a fit is at hand, else of the known ones."""
    result = {model: np.full(units.targets.shape, math.nan) for model in units.scores}
    for case in cases:
        k = units.labels.index(case.label)
        if case.fit is not None and case.fit.usable:
            result[case.model][:, k] = case.fit.probabilities(units.scores[case.model][:, k], shifted=False)
        elif case.calibrated:
            result[case.model][~np.isnan(units.targets[:, k]), k] = expit(case.after)
    return result


def _settled(units: Units, cases: Sequence[Case], probabilities: dict[str, Array]) -> dict[tuple[str, str], Settled]:
    result = {}
    for case in cases:
        threshold = next(iter(case.thresholds.values()), math.nan)
        column = probabilities[case.model][:, units.labels.index(case.label)]
        result[case.label, case.model] = Settled(threshold, column)
    return result


# ---------------------------------------------------------------- bootstrap


@dataclass(frozen=True)
class _Drawn:
    """Replicates of one case; empty where it has one class, ``rates`` also where no patient repeats."""

    curves: dict[str, Replicates]
    rates: dict[str, dict[str, Replicates]]  # rule ->
    errors: dict[str, Replicates]  # stage -> calibration error


def _bootstrap(cases: Sequence[Case], units: Units, cfg: EvaluationConfig) -> list[_Drawn]:
    """One pass over the draws for all cases."""
    result = [_Drawn({}, {}, {}) for _ in cases]
    if not len(units.patients):
        return result
    count = int(units.patients.max()) + 1
    jobs: list[Job] = []
    places: list[tuple[int, str, str]] = []
    for i, case in enumerate(cases):
        if why_undefined(case.y):
            continue
        data = (case.y, case.scores, case.patients)
        jobs.append(curve_job(data, count, (MAX_FPR, cfg.specificity, cfg.sensitivity)))
        places.append((i, "curves", ""))
        jobs.append(ece_job(case.y, case.stages, case.patients, count))
        places.append((i, "errors", ""))
        for rule, threshold in case.thresholds.items() if case.clustered else ():
            jobs.append(rates_job(data, count, threshold))
            places.append((i, "rates", rule))
    for (i, kind, name), found in zip(places, run_jobs(jobs, Draws(count, cfg.replicates, cfg.seed)), strict=True):
        if kind == "rates":
            result[i].rates[name] = found
        else:
            (result[i].curves if kind == "curves" else result[i].errors).update(found)
    return result


# ---------------------------------------------------------------- readers


def _readers(test: Predictions, merge: str, cfg: EvaluationConfig) -> tuple[list[ReaderRow], list[NrbcRow], list[str]]:
    """Human readers beside the models, always by study (an image without one is its own)."""
    if cfg.readers is None:
        return [], [], []
    studies = merge_units(test, "study", merge)
    first = np.unique(unit_of_images(test, "study"), return_index=True)[1]
    keys = np.where(test.studies[first] == "", test.images[first], test.studies[first])
    answers = join_readers(read_readers(cfg.readers), keys, test.labels)
    rows, notes = [], []
    for k, label in enumerate(test.labels):
        y = studies.targets[:, k]
        for reader, values in answers.items():
            judged = ~np.isnan(values[:, k])
            if not judged.any():
                continue
            if reason := why_undefined(y[judged]):
                notes.append(f"{label}, reader {reader}: not compared, {reason} among the studies judged")
                continue
            for model, scores in studies.scores.items():
                if not np.isnan(scores[:, k]).all():
                    rows.append(reader_row(label, reader, model, (y, scores[:, k], values[:, k])))
    draws = Draws(int(studies.patients.max()) + 1, cfg.replicates, cfg.seed)
    nrbc = nrbc_rows(studies.targets, studies.scores, answers, test.labels, draws, studies.patients)
    return rows, nrbc, notes
