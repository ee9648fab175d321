"""What the jobs of a sweep left: one JSON record a job, and the table made of them.

The records, not return values, carry the outcome: a job that dies still leaves its state behind.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from dam.errors import UserError, in_a_line
from dam.files import atomic_write_text

State = Literal["running", "done", "failed", "interrupted", "not run"]


@dataclass
class Record:
    """One job: what was swept, how it ended, where its run is, its mean AUCs ``{"val/auc": .87, ...}``."""

    num: int
    overrides: dict[str, str]
    state: State = "not run"
    run_dir: str = ""
    mean_val_auc: float | None = None
    auc: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def write(self, folder: Path) -> None:
        """To ``<folder>/jobs/<num>.json``, atomically."""
        (folder / "jobs").mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / "jobs" / f"{self.num}.json", json.dumps(asdict(self), indent=2) + "\n")


def read_record(folder: Path, num: int) -> Record | None:
    """The record of one job, None without one. Raises ``UserError`` if it is damaged."""
    path = folder / "jobs" / f"{num}.json"
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        if record.num != num or not isinstance(record.overrides, dict) or not isinstance(record.auc, dict):
            raise ValueError("it is not the record of this job")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({in_a_line(error)}); remove it, and sweep.resume=true looks at the job's run again"
        ) from error
    return record


def read_records(folder: Path, planned: list[dict[str, str]]) -> list[Record]:
    """The records of a sweep's folder in order; a planned job without one was not run."""
    found = {}
    for path in (folder / "jobs").glob("*.json"):
        if path.stem.isdecimal() and (record := read_record(folder, int(path.stem))) is not None:
            found[record.num] = record
    for num, overrides in enumerate(planned):
        found.setdefault(num, Record(num, overrides))
    for record in found.values():
        if record.state == "running":
            record.state, record.error = "failed", "its process ended without a word (out of memory, or killed)"
    return [found[num] for num in sorted(found)]


def mean_aucs(run_dir: Path) -> dict[str, float]:
    """``{"val/ce": .., "test/auc": ..}``: the rows ``mean`` of a run's report/auc.csv; empty without a report."""
    path = run_dir / "report" / "auc.csv"
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "mean"]
    return {f"{row['split']}/{row['model']}": float(row["auc"]) for row in rows if row["auc"]}


def table(records: list[Record]) -> list[list[str]]:
    """Header and rows: job, the swept keys, mean AUCs (validation first), state, directory of the run."""
    keys = list(dict.fromkeys(key for record in records for key in record.overrides))
    columns = list(dict.fromkeys(name for record in records for name in record.auc))
    columns.sort(key=lambda name: not name.startswith("val/"))
    rows = [["job", *keys, *columns, "state", "run"]]
    for record in records:
        scores = [_score(record.auc.get(name)) for name in columns]
        told = [record.overrides.get(key, "") for key in keys]
        rows.append([str(record.num), *told, *scores, record.state, record.run_dir])
    return rows


def _score(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def write_csv(folder: Path, records: list[Record]) -> Path:
    """The table as ``<folder>/sweep.csv``."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table(records))
    atomic_write_text(folder / "sweep.csv", text.getvalue())
    return folder / "sweep.csv"


def as_text(records: list[Record]) -> str:
    """The table for the terminal, without the directories, then one line for each job that did not end well."""
    rows = [row[:-1] for row in table(records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    bad = _bad(records)
    return "\n".join([*lines, "", *bad] if bad else lines)


def as_plan(records: list[Record]) -> str:
    """The end of a dry run: how many jobs were planned, and one line for each job that would fail."""
    bad = _bad(records)
    told = f"{len(records) - len(bad)} of {len(records)} runs planned, nothing was written"
    way_out = "correct the others first" if bad else "leave out dry_run=true to start"
    return "\n".join([*bad, f"{told}; {way_out}"])


def _bad(records: list[Record]) -> list[str]:
    return [
        f"job {record.num} {record.state}: {record.error or 'the sweep ended before it'}"
        for record in records
        if record.state != "done"
    ]
