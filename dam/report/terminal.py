"""The table that ends `dam train` on screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dam.evaluation.predictions import MEAN
from dam.report.tables import JudgedSplit, judged_on, p_text, pairs_of, verdict, with_interval, without_interval

if TYPE_CHECKING:
    import pandas as pd


def table_lines(judged: JudgedSplit, further_steps: dict[str, str], report: Path) -> list[str]:
    """AUC of every label and model of one split, the comparisons of the mean, and the path of the report.

    ``further_steps``: model -> what to say about its longer training beside the warm start, or absent.
    """
    labels = [*judged.units.labels, MEAN]
    header = ["", "positives", *judged.models]
    rows = [header]
    for label in labels:
        found = [judged.row(label, model) for model in judged.models]
        count = "" if label == MEAN else f"{found[0].n_pos}/{found[0].n}"
        rows.append([label, count, *(with_interval(r.auc, r.ci_low, r.ci_high, dash="-") for r in found)])
    lines = [f"AUC on {judged.title} [95 % interval], {judged_on(judged)}", ""]
    lines += _aligned(rows)
    lines.append("")
    lines += comparison_lines(judged, further_steps)
    if judged.assessment is not None and judged.assessment.verdict is not None:
        lines.append(f"verdict: {judged.assessment.verdict.text}")
    if judged.split == "val":
        lines.append("validation AUC was used for choice and is optimistic")
    lines += [f"note: {note}" for note in (*without_interval(judged), *judged.judgement.notes)]
    return [*lines, f"report: {report}"]


def fold_lines(folds: pd.DataFrame) -> list[str]:
    """Mean and standard deviation (divisor folds - 1) over the folds of each AUC of folds.csv, a table a split.

    ``-`` where a fold has no value: the others alone would be another thing.
    """
    lines, count, models = [], folds["fold"].nunique(), list(folds["model"].unique())
    for split, part in folds.groupby("split", sort=False):
        rows = [["", "", *models]]
        for label in part["label"].unique():
            values = [part["auc"][(part["label"] == label) & (part["model"] == model)] for model in models]
            told = [f"{v.mean():.3f} ({v.std():.3f})" if v.count() == count > 1 else "-" for v in values]
            rows.append([str(label), "", *told])
        lines += ["", f"AUC of the {count} folds on {split}, mean (standard deviation)", "", *_aligned(rows)]
    return lines


def comparison_lines(judged: JudgedSplit, further_steps: dict[str, str]) -> list[str]:
    """One line a comparison of means: "auc - ce  +.012 [-.010, +.034], p .284: tie"."""
    lines = []
    pairs = pairs_of(judged.models)
    width = max((len(f"{a} - {b}") for a, b in pairs), default=0)
    for a, b in pairs:
        row = judged.comparison(MEAN, (a, b))
        text = with_interval(row.difference, row.ci_low, row.ci_high, sign=True, dash="-")
        line = f"{f'{a} - {b}':<{width}}  {text}, p {p_text(row.p_value, '-')}: {verdict(row)}"
        if b == "warm_start" and a in further_steps:
            line += f" ({further_steps[a]})"
        lines.append(line)
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].rjust(widths[1])]
        cells += [cell.ljust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
