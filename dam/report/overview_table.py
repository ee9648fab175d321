"""The table of `dam runs`: filtered, grouped and sorted rows as text and CSV."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Sequence
from pathlib import Path

from dam.errors import UserError
from dam.report.overview import Mean, RunRow

COLUMNS = ("run", "experiment", "when", "state", "val", "test", "verdict", "seconds")
FIELDS = (
    *("run", "kind", "group", "experiment", "when", "state", "where", "reason", "model", "val_auc", "val_low"),
    *("val_high", "test_auc", "test_low", "test_high", "pair", "difference", "verdict", "seconds", "folds", "resume"),
)
_HEADS = {"val": "val AUC", "test": "test AUC [95 %]", "seconds": "time"}
_LONGEST = 60  # characters of a reason in the table


def select(rows: Sequence[RunRow], filters: Sequence[str]) -> list[RunRow]:
    """The rows that pass every filter: ``key=value`` on a column or config key, other words anywhere in the row."""
    return [row for row in rows if all(_passes(row, text) for text in filters)]


def _passes(row: RunRow, text: str) -> bool:
    key, equals, value = text.partition("=")
    fields = as_fields(row)
    if not equals:
        return text.lower() in " ".join(str(fields[name]) for name in FIELDS if name != "resume").lower()
    own = {name: str(fields[name]) for name in FIELDS}
    if key in own:
        return own[key].lower() == value.lower()
    found = row.setting(key)
    if found is None:
        return value == "null" and _has(row, key)
    if isinstance(found, dict):  # auc.loss=auc_margin means its name
        found = found.get("name", found)
    return _same(found, value)


def _has(row: RunRow, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = row.setting(parent) if parent else row.config
    return isinstance(node, dict) and last in node


def _same(found: object, value: str) -> bool:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return str(found).lower() == value.lower()
    try:
        return float(value) == float(found)
    except ValueError:
        return False


def order(rows: Sequence[RunRow], column: str | None) -> list[RunRow]:
    """Sorted by a column, ``-column`` the other way round, by default by time; runs without a value come first.

    Raises ``UserError`` for a column that there is none of.
    """
    name = column or "when"
    descending, name = name.startswith("-"), name.removeprefix("-")
    name = {"val": "val_auc", "test": "test_auc", "time": "seconds"}.get(name, name)
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"--sort {column}: choose one of {', '.join(FIELDS)}{hint}")

    def key(row: RunRow) -> tuple[bool, float, str]:
        value = as_fields(row)[name]
        if isinstance(value, float):
            return not math.isnan(value), 0.0 if math.isnan(value) else value, ""
        return value != "", 0.0, str(value)

    return sorted(rows, key=key, reverse=descending)


def collapse(rows: Sequence[RunRow], folder: Path | None = None) -> list[tuple[RunRow, str]]:
    """Rows with a remark; evaluations and folds are left out, and of a sweep one row stands for all: its best."""
    result: list[tuple[RunRow, str]] = []
    done: set[Path] = set()
    outer = {row.path for row in rows if row.kind in ("run", "job")}
    for row in rows:
        if row.kind == "evaluation" or (row.kind == "fold" and row.group in outer):
            continue
        if row.kind != "job" or row.group is None:
            result.append((row, f"{row.folds} folds" if row.folds else ""))
        elif row.group not in done:
            done.add(row.group)
            jobs = [other for other in rows if other.group == row.group and other.kind == "job"]
            result.append(_of_sweep(row.group, jobs))
    return result


def _of_sweep(group: Path, jobs: Sequence[RunRow]) -> tuple[RunRow, str]:
    """The job with the highest validation AUC in the sweep's name, and how many jobs ended how."""
    best = max(jobs, key=lambda job: -1.0 if math.isnan(job.val.auc) else job.val.auc)
    counts = {state: sum(job.state == state for job in jobs) for state in dict.fromkeys(job.state for job in jobs)}
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    state = next((s for s in ("running", "stopped", "failed", "damaged", "not begun") if s in counts), "done")
    seconds = math.fsum(job.seconds for job in jobs if not math.isnan(job.seconds))
    row = RunRow(group, "sweep", None, best.experiment, min(job.when for job in jobs), state, model=best.model,
                 val=best.val, test=best.test, pair=best.pair, verdict=best.verdict, difference=best.difference,
                 seconds=seconds)  # fmt: skip
    best_name = "" if math.isnan(best.val.auc) else f"; best {best.path.name}"
    return row, f"sweep of {len(jobs)}: {told}{best_name}"


# ---------------------------------------------------------------- output


def as_fields(row: RunRow) -> dict[str, str | float | int]:
    """A row as the columns of ``FIELDS``; numbers in full precision, NaN where there is none."""
    return {
        "run": str(row.path), "kind": row.kind, "group": str(row.group or ""), "experiment": row.experiment,
        "when": row.when, "state": row.state, "where": row.where, "reason": row.reason, "model": row.model,
        "val_auc": row.val.auc, "val_low": row.val.low, "val_high": row.val.high,
        "test_auc": row.test.auc, "test_low": row.test.low, "test_high": row.test.high,
        "pair": row.pair, "difference": row.difference, "verdict": row.verdict, "seconds": row.seconds,
        "folds": row.folds, "resume": row.resume,
    }  # fmt: skip


def csv_text(rows: Sequence[RunRow]) -> str:
    """One line a run, job and fold."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        fields = as_fields(row).items()
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in fields})
    return text.getvalue()


def text_lines(rows: Sequence[tuple[RunRow, str]]) -> list[str]:
    """The table for a terminal: a line a run, with the remark, the place or the reason at its end."""
    cells = [[_HEADS.get(name, name) for name in COLUMNS]]
    cells += [_cells(row) for row, _ in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = []
    for line, remark in zip(cells, ["", *(_remark(row, remark) for row, remark in rows)], strict=True):
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        lines.append("  ".join([*padded, remark]).rstrip())
    return lines


def _cells(row: RunRow) -> list[str]:
    when = row.when[:16].replace("T", " ")
    verdict = f"{row.pair}: {row.verdict}" if row.verdict else ""
    return [str(row.path), row.experiment, when, row.state, _auc(row.val, False), _auc(row.test, True), verdict,
            duration(row.seconds)]  # fmt: skip


def _remark(row: RunRow, remark: str) -> str:
    where = f"at {row.where}" if row.where else ""
    reason = row.reason if len(row.reason) <= _LONGEST else row.reason[: _LONGEST - 3] + "..."
    return "; ".join(part for part in (remark, where, reason) if part)


def _auc(mean: Mean, interval: bool) -> str:
    if math.isnan(mean.auc):
        return ""
    if not interval or math.isnan(mean.low):
        return _short(mean.auc)
    return f"{_short(mean.auc)} [{_short(mean.low)}, {_short(mean.high)}]"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value < 1 else "1.000"


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h; "" where it is unknown."""
    if math.isnan(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
