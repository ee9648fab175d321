"""The reducer for one label judged at a threshold: precision, sensitivity, trust, AUC, calibration, paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dam.errors import UserError
from dam.evaluation.auc import why_undefined
from dam.report.document import Callout, Figure, Figures, Items, Section, Table, Text
from dam.report.style import Drawn
from dam.report.tables import with_interval
from dam.studies import figures, tables, words
from dam.studies.measures import Arm, judge_result
from dam.studies.paired import Paired, adjusted, compare
from dam.studies.results import Results
from dam.studies.study import Outcome

Rows = list[dict[str, Any]]
Pairs = Sequence[tuple[str, str]]


def judge_arms(results: Results) -> dict[str, Arm]:
    """Every arm that has a result. Raises ``UserError`` where there is not one label with both classes in test."""
    labels = results.found[0].test.labels
    if len(labels) != 1:
        raise UserError(
            f"the study {results.study.name} judges one label, and these runs have {len(labels)}: choose one with "
            "data.labels=[NAME] and another run_dir"
        )
    missing = why_undefined(results.found[0].test.targets[:, 0])
    if missing:
        raise UserError(f"the test set cannot be judged: {missing}")
    patients = int(results.found[0].test.patients.max()) + 1
    found = {name: tuple(judge_result(result, patients) for result in results.of(name)) for name in results.arms}
    return {name: Arm(name, judged) for name, judged in found.items() if judged}


def reduce(results: Results, captions: Mapping[str, Sequence[str]], pairs: Pairs, folds: int) -> Outcome:
    """``captions``: caption of each of the paper's tables -> its measures; ``pairs``: the comparisons (a, b);
    ``folds``: into how many the training rows were cut."""
    arms, references = judge_arms(results), results.study.references
    files: dict[str, Rows] = {"cells": [{"arm": a.name, "fold": j.replicate, **j.values}
                                        for a in arms.values() for j in a.judged]}  # fmt: skip
    shown: list[Table] = []
    for caption, measures in captions.items():
        table, rows = tables.beside_paper(caption, results.arms, arms, measures, references)
        shown.append(table)
        files[table.file.removesuffix(".csv")] = rows
    aucs, files["auc"] = tables.beside_paper("AUC", results.arms, arms, ("auc",), references)
    calibration, files["calibration"] = tables.calibration(results.arms, arms)
    claimed = [measure for measures in captions.values() for measure in measures]
    tested = _tested(arms, claimed, pairs, 1 / (folds - 1), results)
    files["differences"] = [
        {**vars(row), "family": family, "here": row.word} for family, rows in tested.items() for row in rows
    ]
    drawn = figures.draw(arms, results.arms, [*tested["primary"], *tested["the paper's"]])
    size = words.size_of(next(iter(arms.values())))
    numbers = (size, tested["primary"], tested["the paper's"], _trust_rows(tested))
    text = words.paragraph(*numbers)
    sections = (
        Section(
            "paragraph",
            "What holds at this sample size",
            (Callout(text, "verdict"), Text(_HOLDS), Items(words.details(*numbers))),
        ),
        Section("tables", "The paper's tables", (*shown, Text(_HOW))),
        Section("auc", "AUC", (aucs, _figures(drawn, "auc"))),
        Section("trust", "Trust and calibration", (_figures(drawn, "trust"), calibration, Text(_TRUST))),
        Section("differences", "Differences", _differences(tested, drawn)),
    )
    lines = [_line(arms[name]) for name in results.arms if name in arms]
    return Outcome(sections, files, drawn, (*lines, "", text))


def _tested(
    arms: Mapping[str, Arm], claimed: Sequence[str], pairs: Pairs, share: float, results: Results
) -> dict[str, list[Paired]]:
    """Three families, each adjusted by itself: the AUC; what the paper's tables report; trust after calibration and
    the Brier score."""
    here = [pair for pair in pairs if set(pair) <= arms.keys()]
    families = {
        "primary": ("auc",),
        "the paper's": tuple(claimed),
        "calibration": ("trust_positive_calibrated", "brier", "brier_calibrated"),
    }
    return {
        family: adjusted(
            [
                compare(arms[a], arms[b], measure, share, dict(results.study.references.get(measure, {})))
                for measure in measures
                for a, b in here
            ]
        )
        for family, measures in families.items()
    }


def _trust_rows(tested: Mapping[str, list[Paired]]) -> list[Paired]:
    """Trust before and after calibration, a pair of rows for each pair of arms."""
    after = {(row.a, row.b): row for row in tested["calibration"] if row.measure == "trust_positive_calibrated"}
    before = [row for row in tested["the paper's"] if row.measure == "trust_positive"]
    return [row for b in before for row in (b, after[(b.a, b.b)])]


def _figures(drawn: Sequence[Drawn], section: str) -> Figures:
    return Figures(tuple(Figure(d.name, d.caption, d.alt, d.wide) for d in drawn if d.section == section))


def _differences(tested: Mapping[str, list[Paired]], drawn: Sequence[Drawn]) -> tuple[Table | Text | Figures, ...]:
    captions = {
        "primary": "AUC: the primary comparisons",
        "the paper's": "The measures of the paper's tables",
        "calibration": "Calibration: trust after it, and the Brier score (lower is better)",
    }
    found = [tables.differences(captions[family], rows, "differences.csv") for family, rows in tested.items() if rows]
    return (*found, _figures(drawn, "differences"), Text(_PAIRED))


def _line(arm: Arm) -> str:
    interval = arm.interval("auc")
    trust, sensitivity = (tables.spread(arm.mean(m), arm.sd(m)) for m in ("trust_positive", "sensitivity_positive"))
    auc = with_interval(arm.mean("auc"), interval.low, interval.high, dash="-")
    sd = "" if math.isnan(arm.sd("auc")) else f" ± {arm.sd('auc'):.3f} over folds".replace("0.", ".", 1)
    return f"{arm.name}: AUC {auc}{sd}; sensitivity of positives {sensitivity}; trust {trust}"


_HOLDS = (
    "A difference holds where both its 95 % intervals, over patients and over folds, lie on one side of 0, over "
    "patients after Holm too. In numbers:"
)
_HOW = (
    "Mean ± standard deviation over folds (divisor n − 1), as in the paper; beside it the 95 % interval (CI) of that "
    "mean over test patients, which the paper does not give: a bootstrap of 2,000 draws of patients (Clopper and "
    "Pearson's exact one over patients where every fold is at 0 or 1), of the AUC DeLong's variance, clustered by "
    "patient. A case is called positive where its logit is at or above the threshold of the largest F1 on the "
    "validation fold, "
    "stored with the weights of best validation accuracy at it. Sensitivity of the negatives is specificity, precision "
    "of the negatives the negative predictive value; both precisions depend on the share of positives in the test "
    "set, so they can be held against the paper's only where that share is the same."
)
_TRUST = (
    "Trust (alpha = beta = 1) of a positive is the probability given to it and of a negative one minus that, whatever "
    "the threshold; it is an improper score: sharpening any scores raises it. So it stands beside Brier score and NLL, "
    "which are proper, and beside itself after Platt's scaling on the validation fold."
)
_PAIRED = (
    "Over patients: the fold models are fixed and other test patients might have come (AUC: DeLong's paired test of "
    "the difference of the means, clustered by patient; the rest: paired bootstrap of patients), Holm within each "
    "table. Over folds: the test set is fixed and other training sets might have been drawn (Nadeau and Bengio's "
    "corrected t, since the training sets of two folds overlap). A word other than tie needs both intervals on one "
    "side of 0, over patients after Holm too."
)
