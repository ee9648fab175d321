"""From metadata columns to groups of units: joined by image, numbers banded, what is unknown a group of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dam.errors import UserError
from dam.evaluation.predictions import Names, Predictions, unit_of_images

if TYPE_CHECKING:
    import pandas as pd

DEFAULTS = ("sex", "age", "view", "site", "source")
AGE_BANDS = ((0, 40, "0-39"), (40, 60, "40-59"), (60, 80, "60-79"), (80, 151, "80+"))
UNKNOWN, MIXED, OTHER = "unknown", "mixed", "other"
SIDELINED = (UNKNOWN, MIXED)  # no part of the rest that another group is compared with
MANY_NUMBERS = 10  # distinct numbers above which a column is cut at its quartiles
MANY_NAMES = 20  # distinct names above which the rare ones become "other"
_BLANK = frozenset({"", "nan", "none", "na", "n/a", "unknown", "<na>"})


@dataclass(frozen=True)
class Grouping:
    """One metadata column: ``names`` in the order they are printed, and each unit's group (U,)."""

    column: str
    names: tuple[str, ...]
    of_unit: Names


def group_units(
    metadata: pd.DataFrame, table: Predictions, unit: str, columns: Sequence[str] = ()
) -> tuple[list[Grouping], list[str]]:
    """Group the units of ``table`` by each of ``columns``; without columns by those of ``DEFAULTS`` that are there.

    ``metadata`` has a column ``image`` and any others; a unit takes the value of its images, and is "mixed" where they
    differ. Ages fall in the bands 0-39, 40-59, 60-79, 80+; other numbers with more than 10 distinct values are cut at
    their quartiles. Returns the groupings and sentences on what is missing. Raises ``UserError`` for a column that is
    asked for and not there, and for metadata without an image column.
    """
    if "image" not in metadata.columns:
        raise UserError(
            "the metadata table has no column image; it is joined to the predictions by it (as predictions/images.csv)"
        )
    names = [str(c) for c in metadata.columns]
    lower = {name.lower(): name for name in reversed(names)}
    chosen = [_column(c, names, lower) for c in columns] or [lower[c] for c in DEFAULTS if c in lower]
    unique = metadata.drop_duplicates("image").set_index(metadata.drop_duplicates("image")["image"].astype(str))
    joined = unique.reindex(table.images.astype(str))
    absent = int((~np.isin(table.images.astype(str), unique.index.to_numpy(dtype=str))).sum())
    notes = [f"subgroups: {absent} of {len(table.images)} images are not in the metadata"] if absent and chosen else []
    codes = unit_of_images(table, unit)
    result = []
    for column in chosen:
        bands = _bands(column, joined[column])
        grouping = Grouping(column, *_per_unit(bands, codes))
        if len(grouping.names) == 1:
            notes.append(f"subgroups: {column} is {grouping.names[0]} throughout, so there is nothing to compare")
        else:
            result.append(grouping)
    return result, notes


def _column(wanted: str, names: Sequence[str], lower: dict[str, str]) -> str:
    if wanted in names:
        return wanted
    if wanted.lower() in lower:
        return lower[wanted.lower()]
    raise UserError(
        f"evaluation.subgroups names {wanted!r}, but the metadata has no such column; it has {', '.join(names)}"
    )


def _bands(column: str, values: pd.Series) -> Names:
    """The group of each image as text; "unknown" where blank."""
    import pandas as pd

    text = np.array(["" if pd.isna(v) else str(v).strip() for v in values], dtype=object)
    blank = np.array([t.lower() in _BLANK for t in text], dtype=bool)
    numbers = pd.to_numeric(pd.Series(np.where(blank, "nan", text)), errors="coerce").to_numpy(dtype=np.float64)
    is_number = bool((np.isfinite(numbers) | blank).all()) and not blank.all()
    if is_number and column.lower() == "age":
        return _ages(numbers)
    if is_number and len(np.unique(numbers[~blank])) > MANY_NUMBERS:
        return _quartiles(numbers)
    result = np.where(blank, UNKNOWN, text)
    kept, counts = np.unique(result[~blank].astype(str), return_counts=True)
    if len(kept) > MANY_NAMES:
        common = set(kept[np.argsort(-counts, kind="stable")[:MANY_NAMES]])
        result = np.array([r if r in common or r == UNKNOWN else OTHER for r in result], dtype=object)
    return np.asarray(result, dtype=object)


def _ages(numbers: np.ndarray) -> Names:
    result = np.full(len(numbers), UNKNOWN, dtype=object)
    for low, high, name in AGE_BANDS:
        result[(numbers >= low) & (numbers < high)] = name
    return result


def _quartiles(numbers: np.ndarray) -> Names:
    known = np.isfinite(numbers)
    cuts = np.unique(np.quantile(numbers[known], [0.25, 0.5, 0.75]))
    band = np.searchsorted(cuts, numbers, side="right")
    width = len(str(len(cuts)))
    names = [f"below {cuts[0]:g}"]
    names += [f"{low:g} to below {high:g}" for low, high in pairwise(cuts)]
    names.append(f"{cuts[-1]:g} and above")
    result = np.full(len(numbers), UNKNOWN, dtype=object)
    for i, name in enumerate(names):
        result[known & (band == i)] = f"{i + 1:0{width}d}: {name}"
    return result


def _per_unit(groups: Names, codes: np.ndarray) -> tuple[tuple[str, ...], Names]:
    names, of_image = np.unique(groups.astype(str), return_inverse=True)
    units = int(codes.max()) + 1
    first = np.full(units, -1)
    first[codes[::-1]] = of_image[::-1]
    mixed = np.bincount(codes, weights=of_image != first[codes], minlength=units) > 0
    result = names[first].astype(object)
    result[mixed] = MIXED
    present = set(result.tolist())
    order = [n for n in names.tolist() if n in present and n not in SIDELINED]
    return tuple([*order, *(n for n in SIDELINED if n in present)]), result
