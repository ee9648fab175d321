"""The user's own images: a table of paths and labels, or one folder a class."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import CsvConfig
from dam.data.datasets.csv_folders import read_folders
from dam.data.datasets.csv_patients import SPLIT_WORDS, filled, patients
from dam.data.datasets.csv_roots import Root, check_members, locate, look_around, roots_of
from dam.data.datasets.tables import BLANK, find_table, label_values, need_column
from dam.data.datasets.text_tables import read_text_table
from dam.data.table import COLUMNS, ImageTable, counted, named
from dam.errors import UserError

VIEW = "view"  # metadata column that names the image column, where there are several
LABEL_COLUMNS = ("label", "target")
PATIENT_COLUMNS = ("patient", "patient_id")
STUDY_COLUMNS = ("study", "study_id")


def read(cfg: CsvConfig) -> ImageTable:
    """The table named by ``data.csv``; without one, the class folders under ``data.root``."""
    return _from_table(cfg) if cfg.csv is not None else read_folders(cfg)


# ---------------------------------------------------------------- a table


def _from_table(cfg: CsvConfig) -> ImageTable:
    top = roots_of(cfg, "", Path())[0].folder if cfg.root is not None else None
    path = find_table(str(cfg.csv), top, "data.csv")
    base = top or path.parent
    cells = read_text_table(path)
    images = _image_columns(cfg, cells, path)
    labels = _label_columns(cfg, cells, path)
    notes: list[str] = []
    located = pd.DataFrame({column: _located(cells[column], column, cfg, base, path) for column in images})
    first = _first_image(located, path)
    frame = pd.DataFrame({"image": first})
    patient = _patient_column(cfg, cells, path)
    frame["patient"] = patients(cfg, cells, patient, first, notes)
    study = _optional(cfg.study_column, STUDY_COLUMNS, cells, path, "data.study_column")
    frame["study"] = first if study is None else filled(cells[study], first)
    split = _optional(cfg.split_column, ("split",), cells, path, "data.split_column")
    frame["split"] = "" if split is None else _split_words(cells[split], path)
    for label in labels:
        frame[label] = label_values(cells[label], path)
    taken = [*images, *labels, *(c for c in (patient, study, split) if c is not None)]
    for column in _metadata(cfg, cells, taken, path):
        frame[column] = cells[column].to_numpy()
    if len(images) > 1:
        frame = _one_row_an_image(frame, located, notes)
    return ImageTable(check_members(frame, base, cfg, notes), labels, base, cfg.name, tuple(notes))


def _image_columns(cfg: CsvConfig, cells: pd.DataFrame, path: Path) -> list[str]:
    columns = [cfg.image_column] if isinstance(cfg.image_column, str) else list(cfg.image_column)
    if not columns or len(set(columns)) < len(columns):
        raise UserError(f"data.image_column={columns} must name at least one column, and each once.")
    unknown = sorted(set(cfg.column_roots) - set(columns))
    if unknown:
        raise UserError(f"data.column_roots names {named(unknown)}, but data.image_column is {named(columns)}.")
    if len(columns) > 1 and VIEW in cells.columns and VIEW not in columns:
        raise UserError(f"{path} has a column {VIEW!r}, which will name the image column of a row: rename it.")
    return [need_column(cells, column, path, "data.image_column") for column in columns]


def _located(cells: pd.Series, column: str, cfg: CsvConfig, base: Path, path: Path) -> list[str]:
    roots: list[Root] = roots_of(cfg, column, path)
    located = locate(cells, roots, base, cfg.image_suffix, path)
    there = [name for name in located[:20] if name]
    plain = len(roots) == 1 and not roots[0].archive and cfg.image_suffix is None
    if there and plain and not any((base / name.partition("::")[0]).exists() for name in there):
        look_around(there[0], roots[0].path, path)
    return located


def _first_image(located: pd.DataFrame, path: Path) -> pd.Series:
    """The first image of each row. Raises ``UserError`` for a row without any."""
    first = located.iloc[:, 0].astype(str)
    for column in located.columns[1:]:
        first = first.mask(first == "", located[column])
    blank = np.flatnonzero((first == "").to_numpy())
    if len(blank):
        raise UserError(f"{path}, row {blank[0] + 2}: the image path is blank.")
    return first.rename("image")


def _one_row_an_image(frame: pd.DataFrame, located: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rows with an image in each of several columns as rows of one image; ``view`` names the column."""
    parts = []
    for column in located.columns:
        here = (located[column] != "").to_numpy()
        parts.append(frame[here].assign(image=located[column][here], **{VIEW: column}))
    images = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    views = ", ".join(f"{column} {len(part)}" for column, part in zip(located.columns, parts, strict=True))
    notes.append(f"{counted(len(frame), 'row')} with {counted(len(images), 'image')}: {views}")
    return images


def _patient_column(cfg: CsvConfig, cells: pd.DataFrame, path: Path) -> str | None:
    column = _optional(cfg.patient_column, PATIENT_COLUMNS, cells, path, "data.patient_column")
    if column is not None and cfg.patient_regex is not None:
        raise UserError(
            f"{path} has a column {column!r}, which names the patients, and data.patient_regex would too: leave out "
            "data.patient_regex, or rename that column if the image paths know better."
        )
    return column


def _label_columns(cfg: CsvConfig, cells: pd.DataFrame, path: Path) -> tuple[str, ...]:
    if cfg.labels:
        for label in cfg.labels:
            need_column(cells, label, path, "data.labels")
            if label in COLUMNS:
                raise UserError(f"{path}: a label may not be called {label!r}; rename the column.")
        return tuple(cfg.labels)
    found = [c for c in LABEL_COLUMNS if c in cells.columns]
    if found:
        return (found[0],)
    raise UserError(
        f"{path} has no label column: data.labels is empty and no column is called label or target; "
        f"its columns are {named(list(cells.columns), 30)}. Set data.labels=[{_likely_label(cfg, cells)}]."
    )


def _likely_label(cfg: CsvConfig, cells: pd.DataFrame) -> str:
    """The first column that holds zeros and ones and nothing else but blanks and -1, for an example."""
    legal = {"0", "1", "0.0", "1.0", "-1", "-1.0", "true", "false", *BLANK}
    for column in cells.columns:
        if column in COLUMNS or column in cfg.image_column or not re.fullmatch(r"[\w .-]+", column):
            continue
        words = set(cells[column].str.strip().str.lower())
        if words <= legal and words - BLANK:
            return str(column)
    return "NAME"


def _optional(column: str | None, usual: tuple[str, ...], cells: pd.DataFrame, path: Path, key: str) -> str | None:
    if column is not None:
        return need_column(cells, column, path, key)
    return next((c for c in usual if c in cells.columns), None)


def _split_words(cells: pd.Series, path: Path) -> pd.Series:
    text = cells.str.strip().str.lower()
    text = text.mask(text.isin(BLANK), "")
    unknown = np.flatnonzero(~text.isin(["", *SPLIT_WORDS]).to_numpy())
    if len(unknown):
        raise UserError(
            f"{path}, row {unknown[0] + 2}, column {cells.name!r}: {cells.iloc[int(unknown[0])]!r} is no split; "
            "write train, val or test, or leave it blank."
        )
    return text.replace(SPLIT_WORDS).astype(str)


def _metadata(cfg: CsvConfig, cells: pd.DataFrame, taken: list[str], path: Path) -> list[str]:
    for column in cfg.metadata:
        need_column(cells, column, path, "data.metadata")
        if column in COLUMNS and column not in taken:
            raise UserError(f"{path}: metadata may not be called {column!r}; rename the column.")
    chosen = cfg.metadata or list(cells.columns)
    return [c for c in chosen if c not in taken and c not in COLUMNS and not c.startswith("Unnamed:")]
