"""The reducer for papers that report one number a row: the mean AUC over labels, of one or several trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dam.evaluation.judge import AucRow, ComparisonRow, Judgement, judge
from dam.evaluation.predictions import MEAN, Units
from dam.report.compare_seeds import judge_seeds
from dam.report.document import Section, Table, Text
from dam.report.tables import number, p_text, with_interval
from dam.studies.paired import over_folds
from dam.studies.results import Result, Results
from dam.studies.study import Outcome, Reference
from dam.studies.tables import spread

Rows = list[dict[str, Any]]


def reduce(results: Results, pairs: Sequence[tuple[str, str]]) -> Outcome:
    """Mean AUC on test of every row beside the paper's, and the paired differences of ``pairs`` (a, b)."""
    units, columns = _together(results)
    single = judge(units)
    aucs = {row.model: row for row in single.aucs if row.label == MEAN}
    here = [pair for pair in pairs if set(pair) <= columns.keys()]
    compared = judge_seeds(units, columns, here)
    table, rows = _table(results, columns, aucs)
    differences, told = _differences(results, columns, compared, aucs, here)
    sections = [Section("auc", "AUC", (table, Text(_HOW)))]
    if here:
        sections.append(Section("differences", "Differences", (differences, Text(_PAIRED))))
    lines = [f"{row[0]}: AUC {row[1]} ({row[3]}); the paper {row[4]}" for row in table.rows if row[3] != "0"]
    return Outcome(tuple(sections), {"auc": rows, "differences": told}, (), tuple(lines))


def _together(results: Results) -> tuple[Units, dict[str, list[str]]]:
    """One table of all results, and the columns of every arm that has one."""
    columns: dict[str, list[str]] = {}
    scores: dict[str, Any] = {}
    for result in results.found:
        name = _column(result)
        scores[name] = result.test.scores[result.arm]
        columns.setdefault(result.arm, []).append(name)
    return replace(results.found[0].test, scores=scores), columns


def _column(result: Result) -> str:
    return f"{result.arm}/{result.replicate}"


def _table(results: Results, columns: Mapping[str, Sequence[str]], aucs: Mapping[str, AucRow]) -> tuple[Table, Rows]:
    lines, rows = [], []
    references = results.study.references.get("auc", {})
    for arm in results.arms:
        mine = [aucs[name] for name in columns.get(arm, [])]
        values = np.array([row.auc for row in mine])
        mean = float(values.mean()) if len(values) else math.nan
        sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        paper = references.get(arm)
        low, high = (mine[0].ci_low, mine[0].ci_high) if len(mine) == 1 else (math.nan, math.nan)
        ends = "–" if math.isnan(low) else f"[{number(low)}, {number(high)}]"
        lines.append((arm, spread(mean, sd), ends, str(len(mine)), _paper(paper)))
        rows += [{"arm": arm, "column": row.model, "auc": row.auc, "ci_low": row.ci_low, "ci_high": row.ci_high,
                  "paper_mean": paper.mean if paper else None, "paper_sd": paper.sd if paper else None}
                 for row in mine]  # fmt: skip
    header = ("", "AUC", "95 % of a single training", "trainings", "the paper")
    return Table(header, tuple(lines), "AUC on test, mean over labels; ± SD over trainings", "auc.csv"), rows


def _paper(paper: Reference | None) -> str:
    return spread(paper.mean, paper.sd) if paper else "–"


def _differences(
    results: Results,
    columns: Mapping[str, Sequence[str]],
    compared: Judgement,
    aucs: Mapping[str, AucRow],
    pairs: Sequence[tuple[str, str]],
) -> tuple[Table, Rows]:
    references = results.study.references.get("auc", {})
    lines, rows = [], []
    for a, b in pairs:
        row: ComparisonRow = next(r for r in compared.comparisons if (r.label, r.a, r.b) == (MEAN, a, b))
        each = [aucs[_column(x)].auc - aucs[_column(y)].auc for x, y in results.shared(a, b)]
        again = over_folds(each, 0.0)
        paper = references[a].mean - references[b].mean if {a, b} <= references.keys() else math.nan
        over = "–" if math.isnan(again.low) else f"[{number(again.low, True)}, {number(again.high, True)}]"
        told = with_interval(row.difference, row.ci_low, row.ci_high, sign=True)
        lines.append((f"{a} − {b}", told, p_text(row.p_value), over, p_text(again.p_value), number(paper, True)))
        rows.append({**vars(row), "over_low": again.low, "over_high": again.high, "over_p": again.p_value,
                     "trainings": len(each), "paper": paper})  # fmt: skip
    header = ("a − b", "over patients", "p", "over trainings", "p", "the paper")
    return Table(header, tuple(lines), "Paired differences of the mean AUC", "differences.csv"), rows


_HOW = (
    "Mean over labels of the AUC on test; ± is the standard deviation over trainings (divisor n − 1). With one "
    "training the 95 % interval over test patients stands beside it."
)
_PAIRED = (
    "Over patients: the difference of the means over trainings, paired on the same test patients (DeLong, clustered by "
    "patient). Over trainings: a paired t-test on one test set; trainings that share most of their images are more "
    "alike than it supposes. An interval that holds 0 is a tie."
)
