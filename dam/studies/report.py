"""``report/`` of a study's folder: study.md, study.html, study.json, a CSV file a table, the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from dam.files import atomic_write_text
from dam.report import html, markdown, style
from dam.report.document import Callout, Code, Document, Section, Table, Text
from dam.report.frames import clean, csv_text
from dam.report.style import Drawn
from dam.studies.results import Results


def write_report(results: Results, folder: Path, command: Sequence[str]) -> list[str]:
    """Reduce what is finished and write it; returns the lines to end with. Each file is replaced atomically."""
    outcome = results.study.reduce(results)
    report = folder / "report"
    _draw(outcome.drawn, report / "figures")
    for name, rows in outcome.tables.items():
        atomic_write_text(report / f"{name}.csv", csv_text(rows))
    document = Document(
        f"Study {results.study.name}",
        results.study.source,
        (*_missing(results), *outcome.sections, _record(results, command)),
    )
    numbers = {"study": results.study.name, "finished": list(results.finished), "tables": outcome.tables}
    text = json.dumps(clean(numbers), indent=1, allow_nan=False, ensure_ascii=False)
    atomic_write_text(report / "study.json", text + "\n")
    atomic_write_text(report / "study.md", markdown.render(document))
    atomic_write_text(report / "study.html", html.render(document, report / "figures", folder))
    return [*_caution(results), *outcome.lines, "", f"report: {report / 'study.html'}"]


def _draw(drawn: Sequence[Drawn], folder: Path) -> None:
    """Write the figures with their numbers, and remove those of an earlier report that are no longer drawn."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for item in drawn:
        style.save(item.figure, folder, item.name)
        atomic_write_text(folder / "data" / f"{item.name}.csv", csv_text(item.data))
    names = {item.name for item in drawn}
    for pattern in ("*.png", "*.svg", "data/*.csv"):
        for file in folder.glob(pattern):
            if file.stem not in names:
                file.unlink()


def _caution(results: Results) -> list[str]:
    left = len(results.cells) - len(results.finished)
    if not left:
        return []
    return [
        f"{len(results.finished)} of {len(results.cells)} cells of the matrix are finished; the tables are of those."
    ]


def _missing(results: Results) -> tuple[Section, ...]:
    """What must be read first where the matrix is not whole."""
    said = _caution(results)
    left = [cell.name for cell in results.cells if cell.name not in results.finished]
    words = f"{said[0]} Not finished: {', '.join(left)}." if said else ""
    return (Section("incomplete", "Not the whole matrix", (Callout(words),)),) if said else ()


def _record(results: Results, command: Sequence[str]) -> Section:
    """How it came about: protocol, command, what every arm has."""
    rows = [
        (arm, ", ".join(result.replicate for result in results.of(arm)) or "–", str(len(results.of(arm))))
        for arm in results.arms
    ]
    cells = Table(("", "finished", "count"), tuple(rows), "Cells of every row")
    about = [Text(part) for part in results.study.about.strip().split("\n\n")]
    otherwise = Text(
        "What the command sets otherwise holds instead of this protocol; of cells run earlier, study.json."
    )
    return Section("record", "How it was made", (*about, cells, otherwise, Code(" ".join(map(quote, command)), "sh")))
