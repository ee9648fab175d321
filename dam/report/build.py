"""Build a run's report from its files alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dam.config import EvaluationConfig
from dam.evaluation.judge import AucRow, ComparisonRow
from dam.evaluation.predictions import Predictions
from dam.files import atomic_write_text
from dam.report import html, markdown, paper
from dam.report.content import Content
from dam.report.examples import FOLDER
from dam.report.frames import FILES, clean, csv_text, records
from dam.report.history import record
from dam.report.points import Point, check
from dam.report.run_files import EXTERNAL, RunFiles, read_run
from dam.report.sections import document
from dam.report.settings import evaluation_settings, rebalanced
from dam.report.tables import (
    COMPARISON_COLUMNS,
    JudgedSplit,
    auc_csv,
    auc_records,
    comparison_records,
    pairs_of,
)
from dam.report.terminal import fold_lines, table_lines

if TYPE_CHECKING:
    import pandas as pd

Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class ReportResult:
    """What was built: the files, the judged splits (headline first), and the lines to end a command with."""

    directory: Path
    markdown: Path
    html: Path
    csv: Path
    json: Path
    figures: tuple[Path, ...]
    judged: tuple[JudgedSplit, ...]
    lines: tuple[str, ...]
    points: tuple[Point, ...] = ()

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
    """Judge the predictions of a run and write its report/: tables, figures, report.md, report.html, report.json.

    Reads only files of ``run_dir``, so it may be built again at any time; each file is replaced atomically. What was
    fitted on validation goes into predictions/calibration.json, a new way of scoring test into history.json.
    ``figures=False`` leaves the figures out. Raises ``UserError`` if ``run_dir`` is no run, has no predictions yet, or
    holds a damaged file.
    """
    run = read_run(Path(run_dir))
    return build_from(replace(run, history=record(run.path)), figures)


def build_from(run: RunFiles, figures: bool = True) -> ReportResult:
    """``build_report`` of a run that has been read, or of predictions of another tool in the same form."""
    settings = evaluation_settings(run)
    judged = judge_run(run, settings)
    directory = run.path / "report"
    directory.mkdir(exist_ok=True)
    tables = _tables(judged)
    _write_tables(run, judged, tables, directory)
    content = Content(run, judged, _further_steps(run, judged[0].models), asdict(settings))
    if figures:
        from dam.report.plots import draw_all

        drawn = tuple(draw_all(run, judged, directory / "figures"))
        content = Content(run, judged, content.further_steps, content.settings, drawn)
    points = _write_pages(content, tables, directory)
    folds = [] if run.folds is None else fold_lines(run.folds)
    lines = (*table_lines(judged[0], dict(content.further_steps), directory / "report.html"), *folds)
    atomic_write_text(directory / "table.txt", "\n".join(lines) + "\n")
    return ReportResult(
        directory,
        directory / "report.md",
        directory / "report.html",
        directory / "auc.csv",
        directory / "auc.json",
        tuple(directory / "figures" / f"{d.name}.png" for d in content.drawn),
        judged,
        lines,
        points,
    )


# ---------------------------------------------------------------- judging


def judge_run(run: RunFiles, settings: EvaluationConfig) -> tuple[JudgedSplit, ...]:
    """Every evaluated set of a run, assessed; calibration and thresholds come from validation for all others."""
    from dam.evaluation.assess import assess

    unit, merge = run.setting("data", "unit", default="image"), run.setting("data", "merge", default="mean")
    val = run.predictions.get("val")
    result = []
    for split, table in run.predictions.items():
        fitted_on = None if split == "val" else val
        metadata = metadata_of(run, split, table)
        absent = _absent(settings.subgroups, metadata) if split.startswith(EXTERNAL) else []
        kept = [column for column in settings.subgroups if column not in absent]
        found = assess(
            *(table, fitted_on, None if absent and not kept else metadata, replace(settings, subgroups=kept)),
            *(unit, merge, pairs_of(table.models), rebalanced(run)),
        )
        if absent:
            note = f"subgroups: no {', '.join(absent)} in the metadata of this set"
            found = replace(found, notes=(*found.notes, note))
        result.append(JudgedSplit(split, found.units, found.judgement, found))
    return tuple(result)


def _absent(columns: Sequence[str], metadata: pd.DataFrame | None) -> list[str]:
    """Those of the run's subgroup columns that another dataset's metadata lack."""
    there = {str(name).lower() for name in metadata.columns} if metadata is not None else set()
    return [column for column in columns if column.lower() not in there]


def metadata_of(run: RunFiles, split: str, table: Predictions) -> pd.DataFrame | None:
    """Rows of images.csv for the images of a table; None for sets whose images are not in it."""
    frame = run.metadata
    if split.startswith(EXTERNAL):
        frame = run.external_metadata(split)
    if frame is None:
        return None
    found = frame[frame["image"].isin([str(name) for name in table.images])]
    return found.drop(columns=[c for c in ("split",) if c in found]).reset_index(drop=True) if len(found) else None


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


# ---------------------------------------------------------------- writing


def _tables(judged: Sequence[JudgedSplit]) -> Tables:
    """Rows of all sets by field of ``Assessment``."""
    return {
        name: [row for s in judged if s.assessment for row in records(getattr(s.assessment, name), s.split)]
        for name in FILES
    }


def _write_tables(run: RunFiles, judged: Sequence[JudgedSplit], tables: Tables, directory: Path) -> None:
    atomic_write_text(directory / "auc.csv", auc_csv(judged))
    _write_json(directory / "auc.json", _auc_content(run, judged))
    rows = comparison_records(judged)
    _write_csv(directory / "comparisons.csv", rows, COMPARISON_COLUMNS)
    for name, file in FILES.items():
        _write_csv(directory / file, tables[name])
    if run.folds is not None:
        atomic_write_text(directory / "folds.csv", run.folds.to_csv(index=False, lineterminator="\n"))
    atomic_write_text(directory / "tables.tex", paper.latex(judged))
    atomic_write_text(directory / "tables.md", paper.paper_markdown(judged))
    fitted = judged[0].assessment.fitted if judged[0].assessment is not None and judged[0].split != "val" else None
    if fitted is not None and (content := fitted.as_dict()):
        _write_json(run.path / "predictions" / "calibration.json", clean(content))


def _write_csv(file: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Only tables with rows; one of an earlier report that has none any more is removed."""
    if rows:
        atomic_write_text(file, csv_text(rows, columns))
    else:
        file.unlink(missing_ok=True)


def _write_json(file: Path, content: object) -> None:
    atomic_write_text(file, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _write_pages(content: Content, tables: Tables, directory: Path) -> tuple[Point, ...]:
    made = document(content)
    pictures = content.run.path / "predictions" / FOLDER
    points = check(content, made, directory)
    _write_json(directory / "report.json", {**_everything(content), "tables": tables, "points": clean(list(points))})
    atomic_write_text(directory / "report.md", markdown.render(made))
    atomic_write_text(directory / "report.html", html.render(made, directory / "figures", pictures))
    return points


def _auc_content(run: RunFiles, judged: Sequence[JudgedSplit]) -> dict[str, Any]:
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


def _everything(content: Content) -> dict[str, Any]:
    """report.json but for the tables and the points: AUCs and comparisons, verdict, settings, figures."""
    run = content.run
    found = content.assessment
    return {
        **_auc_content(run, content.judged),
        "verdict": clean(found.verdict) if found is not None and found.verdict is not None else None,
        "evaluation": clean(dict(content.settings)),
        "assessment_notes": {s.split: list(s.assessment.notes) for s in content.judged if s.assessment},
        "test_scored": content.test_scorings(),
        "folds": clean(run.folds.to_dict("records")) if run.folds is not None else [],
        "figures": [{"name": d.name, "section": d.section, "caption": d.caption} for d in content.drawn],
    }
