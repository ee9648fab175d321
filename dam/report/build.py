"""Build a run's report from its files alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dam.evaluation.judge import AucRow, ComparisonRow, judge
from dam.evaluation.predictions import Predictions, merge_units
from dam.files import atomic_write_text
from dam.report.markdown import FigureFile, markdown
from dam.report.run_files import RunFiles, read_run
from dam.report.tables import JudgedSplit, auc_csv, auc_records, comparison_records, pairs_of
from dam.report.terminal import table_lines


@dataclass(frozen=True)
class ReportResult:
    """What was built: the files, the judged splits (headline first), and the lines to end a command with."""

    directory: Path
    markdown: Path
    csv: Path
    json: Path
    figures: tuple[Path, ...]
    judged: tuple[JudgedSplit, ...]
    lines: tuple[str, ...]

    @property
    def headline(self) -> JudgedSplit:
        """Test, or validation where there is no test."""
        return self.judged[0]

    def aucs(self, split: str) -> tuple[AucRow, ...]:
        """AUC rows of a split; empty if the run has none."""
        return next((s.judgement.aucs for s in self.judged if s.split == split), ())

    def comparisons(self, split: str) -> tuple[ComparisonRow, ...]:
        """Comparison rows of a split; empty if the run has none."""
        return next((s.judgement.comparisons for s in self.judged if s.split == split), ())


def build_report(run_dir: Path, figures: bool = True) -> ReportResult:
    """Judge the predictions of a run and write report/auc.csv, auc.json, report.md, table.txt, figures/*.png.

    Reads only files of ``run_dir``, so it may be built again at any time; each file is replaced atomically.
    ``figures=False`` leaves the figures out. Raises ``UserError`` if ``run_dir`` is no run, has no predictions yet, or
    holds a damaged file.
    """
    run = read_run(Path(run_dir))
    unit, merge = run.setting("data", "unit", default="image"), run.setting("data", "merge", default="mean")
    judged = tuple(_judge(split, table, unit, merge) for split, table in run.predictions.items())
    further = _further_steps(run, judged[0].models)
    directory = run.path / "report"
    directory.mkdir(exist_ok=True)
    atomic_write_text(directory / "auc.csv", auc_csv(judged))
    atomic_write_text(directory / "auc.json", json.dumps(_content(run, judged), indent=1, allow_nan=False) + "\n")
    drawn: Sequence[FigureFile] = ()
    if figures:
        from dam.report.figures import draw_all

        drawn = draw_all(run, judged, directory / "figures")
    report = directory / "report.md"
    atomic_write_text(report, markdown(run, judged, further, drawn))
    lines = tuple(table_lines(judged[0], further, report))
    atomic_write_text(directory / "table.txt", "\n".join(lines) + "\n")
    return ReportResult(
        directory,
        report,
        directory / "auc.csv",
        directory / "auc.json",
        tuple(directory / "figures" / f.file for f in drawn),
        judged,
        lines,
    )


def _judge(split: str, table: Predictions, unit: str, merge: str) -> JudgedSplit:
    units = merge_units(table, unit, merge)
    return JudgedSplit(split, units, judge(units, pairs_of(table.models)))


def _further_steps(run: RunFiles, models: Sequence[str]) -> dict[str, str]:
    """What must be said beside a comparison with the warm start: that the model has trained longer, by how much."""
    said = {}
    for model in models:
        steps = sorted({s.steps for s in run.stages_of(model) if s.steps is not None})
        if steps:
            count = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
            said[model] = f"includes {count} further training steps"
        elif model != "warm_start":
            said[model] = "includes further training steps"
    return said


def _content(run: RunFiles, judged: Sequence[JudgedSplit]) -> dict[str, Any]:
    headline = judged[0].units
    return {
        "name": run.setting("name"),
        "unit": headline.unit,
        "merge": headline.merge,
        "level": 0.95,
        "headline_split": judged[0].split,
        "mean_labels": {s.split: list(s.judgement.mean_labels) for s in judged},
        "auc": auc_records(judged),
        "comparisons": comparison_records(judged),
        "notes": [f"{s.split}: {note}" for s in judged for note in (*s.judgement.notes, *s.units.notes)]
        + (["val: validation AUC was used for choice and is optimistic"] if "val" in run.predictions else []),
    }
