"""Rows of an assessment as CSV and JSON: every table alike, full precision, NaN blank (null)."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

# Field of ``Assessment`` -> file of report/ that holds its rows of all splits.
FILES = {
    "performance": "performance.csv",
    "operating": "operating_points.csv",
    "calibration": "calibration.csv",
    "reliability": "reliability.csv",
    "net_benefit": "net_benefit.csv",
    "trust": "trust.csv",
    "trust_density": "trust_density.csv",
    "readers": "readers.csv",
    "nrbc": "nrbc.csv",
    "subgroups": "subgroups.csv",
}


def clean(value: object) -> Any:
    """A value as JSON takes it: NaN and infinity None, numpy numbers plain, dataclasses and tuples dicts and lists."""
    if isinstance(value, str | int | bool | None):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: clean(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def records(rows: Sequence[object], split: str = "") -> list[dict[str, Any]]:
    """Dataclass rows as dicts, the split first where one is given."""
    start = {"split": split} if split else {}
    return [start | {name: clean(value) for name, value in vars(row).items()} for row in rows]


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Dicts as CSV; ``columns`` default to the keys in order of first appearance."""
    names = list(columns) or list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(
        {key: "" if (value := clean(item)) is None else value for key, item in row.items()} for row in rows
    )
    return text.getvalue()
