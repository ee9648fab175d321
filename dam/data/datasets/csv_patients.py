"""Who the patient of an image is, and what the words for a split mean."""

from __future__ import annotations

import re

import pandas as pd

from dam.config import CsvConfig
from dam.data.datasets.tables import BLANK
from dam.data.table import Naming, counted, named
from dam.errors import UserError

SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def patients(
    cfg: CsvConfig, cells: pd.DataFrame | None, column: str | None, images: pd.Series, notes: list[str]
) -> pd.Series:
    """Patient of each image: a column, ``data.patient_regex`` on the path, or the image itself."""
    if column is not None and cells is not None:
        blank = int(cells[column].str.strip().str.lower().isin(BLANK).sum())
        if blank:
            have = "have no patient: each counts" if blank > 1 else "has no patient: it counts"
            notes.append(f"{counted(blank, 'row')} {have} as a patient of its own")
        return filled(cells[column], images)
    if cfg.patient_regex is None:
        notes.append("patients are unknown: every image counts as a patient of its own")
        return images.copy()
    try:
        pattern = re.compile(cfg.patient_regex)
    except re.error as error:
        raise UserError(f"data.patient_regex={cfg.patient_regex} is no regular expression: {error}.") from error
    if pattern.groups != 1:
        raise UserError(f"data.patient_regex={cfg.patient_regex} needs exactly one group (...): that of the patient.")
    found = images.str.extract(pattern, expand=False)
    unmatched = images[found.isna()].tolist()
    if len(unmatched) == len(images):
        raise UserError(f"data.patient_regex={cfg.patient_regex} matches no image path (the first is {unmatched[0]}).")
    if unmatched:
        told = f"data.patient_regex does not match {counted(len(unmatched), 'image')}, each counts as a patient"
        notes.append(Naming(told, f": {named(unmatched, 5)}"))
    return found.where(found.notna(), images).astype(str)


def filled(cells: pd.Series, images: pd.Series) -> pd.Series:
    """Cells as text, a blank one replaced by the image in its row."""
    text = cells.str.strip()
    return text.mask(text.str.lower().isin(BLANK), images).astype(str)
