"""Steps on a table that choose rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dam.data.table import ImageTable, counted
from dam.errors import UserError


def keep_views(table: ImageTable, views: str) -> ImageTable:
    """Keep rows whose metadata ``view`` is ``views`` (``frontal`` or ``lateral``); ``all`` keeps every row.

    A row of unknown view is kept only by ``all``. Raises ``UserError`` when nothing is left.
    """
    if views == "all":
        return table
    keep = (table.frame["view"] == views).to_numpy()
    if not keep.any():
        raise UserError(f"No image of the {table.name} table has the view {views!r}: set data.views=all.")
    note = f"views={views}: left out {int((~keep).sum())} of {len(keep)} rows" if not keep.all() else ""
    return table.with_frame(table.frame[keep], note)


def upsample(table: ImageTable, labels: Sequence[str]) -> ImageTable:
    """Append one copy of every training row that is surely positive (exactly 1) for each of ``labels``, as LibAUC's
    ``use_upsampling`` does. Call it after the splits are made. Raises ``UserError`` for an unknown label."""
    unknown = [label for label in labels if label not in table.labels]
    if unknown:
        raise UserError(f"data.upsample names {unknown}, which are not among data.labels={list(table.labels)}.")
    training = (table.frame["split"] == "train").to_numpy()
    parts, notes = [table.frame], []
    for label in labels:
        extra = table.frame[training & (table.frame[label] == 1.0).to_numpy()]
        parts.append(extra)
        notes.append(
            f"upsample: appended {counted(len(extra), 'copy', 'copies')} of training rows positive for {label}"
        )
    return table.with_frame(pd.concat(parts, ignore_index=True), *notes) if notes else table


def drop_unknown(table: ImageTable) -> ImageTable:
    """Leave out rows of which no label is known: they can neither train nor judge anything."""
    keep = ~np.isnan(table.targets()).all(axis=1)
    if keep.all():
        return table
    if not keep.any():
        raise UserError(f"Every label of the {table.name} table is blank or ignored: check data.labels, "
                        "data.blank and data.uncertain.")  # fmt: skip
    return table.with_frame(table.frame[keep], f"left out {counted(int((~keep).sum()), 'row')} without any known label")
