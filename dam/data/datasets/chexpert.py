"""CheXpert (Irvin et al. 2019): the small and the full release, the AIMI batches, CheXlocalize, the test labels.

Paths in its CSV files seldom match the disk (prefixes, folders without ``train/``, ``val`` for ``valid``). So the
images on disk are indexed once by ``patientNNNNN/studyN/viewN_frontal``, and rows find theirs by that key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import ChexpertConfig
from dam.data.datasets import FIVE
from dam.data.datasets.tables import (
    IMAGES,
    find_table,
    is_debris,
    label_values,
    need_column,
    root_folder,
)
from dam.data.datasets.text_tables import read_text_table
from dam.data.table import ImageTable
from dam.errors import UserError

DEPTH = 4  # levels above the patient folders: container, batch, release, split
_PATIENT = re.compile(r"patient\d+$")
_STUDY = re.compile(r"study\d+$")
_KEY = r"(patient\d+)/(study\d+)/([^/]+?)(?:\.[A-Za-z]+)?$"
_STUDY_KEY = r"(patient\d+/study\d+)"
VALID_NAMES = ("valid.csv", "val_labels.csv", "val.csv", "valid_labels.csv")
TEST_NAMES = ("test_labels.csv", "groundtruth.csv")


@dataclass(frozen=True)
class _Index:
    """Images on disk: key -> locators that hold it (more than one where a release is there twice)."""

    files: dict[str, list[str]]
    tables: dict[str, list[str]]  # name of a CSV file -> its places, nearest to the root first

    def locate(self, keys: pd.Series, folder: str) -> pd.Series:
        """Locator of each key, that below ``folder`` first; NaN where there is none."""
        prefix = f"{folder}/" if folder else ""

        def choose(key: str) -> str | None:
            found = self.files.get(key)
            if not found:
                return None
            return next((f for f in found if f.startswith(prefix)), found[0])

        return keys.map(choose, na_action="ignore")


def read(cfg: ChexpertConfig) -> ImageTable:
    """Read whatever release lies under ``data.root``; policies, views and splits come later.

    Training rows come from ``data.csv`` or train.csv; the official validation set gets the split
    ``data.official_valid``; test labels from ``data.test_csv`` (an image table, or a study table such as
    groundtruth.csv whose row serves all images of the study), or from a test_labels.csv or groundtruth.csv found under
    the root when the official validation set is used as validation.
    """
    root = root_folder(cfg.root, "CheXpert")
    index = _index(root)
    labels = tuple(cfg.labels) or FIVE
    parts = [_part(_train_table(cfg, root, index), "train", labels, root, index)]
    notes = []
    valid = _first(index, VALID_NAMES)
    if valid is not None:
        parts.append(_part(root / valid, cfg.official_valid, labels, root, index))
        notes.append(f"the official validation set ({len(parts[-1])} images) is used as {cfg.official_valid}")
    test = _test_table(cfg, root, index, valid is not None)
    if test is not None:
        parts.append(_part(test, "test", labels, root, index))
        notes.append(f"{len(parts[-1])} test images from {test.name}")
    twice = sum(len(found) > 1 for found in index.files.values())
    if twice:
        notes.append(f"{twice} images lie under the root more than once; the copy beside the CSV file is used")
    frame = pd.concat(parts, ignore_index=True)
    return ImageTable(frame, labels, root, cfg.name, tuple(notes))


def _train_table(cfg: ChexpertConfig, root: Path, index: _Index) -> Path:
    if cfg.csv is not None:
        found = index.tables.get(cfg.csv)
        return root / found[0] if found else find_table(cfg.csv, root, "data.csv")
    train = _first(index, ("train.csv",))
    if train is None:
        raise UserError(
            f"No train.csv was found under data.root={root} (searched {DEPTH} levels): "
            "give the folder CheXpert was unpacked to, or name the table with data.csv=PATH."
        )
    return root / train


def _test_table(cfg: ChexpertConfig, root: Path, index: _Index, has_valid: bool) -> Path | None:
    if cfg.test_csv is not None:
        if has_valid and cfg.official_valid == "test":
            raise UserError(
                "data.test_csv names a test set, but data.official_valid=test makes the official validation set the "
                "test set too: set data.official_valid=val, or data.test_csv=null."
            )
        found = index.tables.get(cfg.test_csv)
        return root / found[0] if found else find_table(cfg.test_csv, root, "data.test_csv")
    if cfg.official_valid == "test":
        return None
    found_test = _first(index, TEST_NAMES)
    return None if found_test is None else root / found_test


def _first(index: _Index, names: tuple[str, ...]) -> str | None:
    return next((index.tables[name][0] for name in names if name in index.tables), None)


def _part(path: Path, split: str, labels: tuple[str, ...], root: Path, index: _Index) -> pd.DataFrame:
    """Rows of one CSV file in the columns of a table."""
    cells = read_text_table(path)
    for label in labels:
        need_column(cells, label, path, "data.labels")
    if "Path" in cells.columns:
        named_by = "Path"
    elif "Study" in cells.columns:
        cells, named_by = _images_of_studies(cells, path, index), "Path"
    else:
        raise UserError(f"{path} has no column 'Path' (or 'Study'): it is no CheXpert table.")
    paths = cells[named_by].str.strip().str.replace("\\", "/", regex=False)
    pieces = paths.str.extract(_KEY)
    bad = np.flatnonzero(pieces[0].isna().to_numpy())
    if len(bad):
        raise UserError(
            f"{path}, row {bad[0] + 2}: {paths.iloc[int(bad[0])]!r} is no CheXpert path "
            "(.../patientNNNNN/studyN/viewN_frontal.jpg)."
        )
    key = pieces[0] + "/" + pieces[1] + "/" + pieces[2]
    folder = path.parent.relative_to(root).as_posix() if path.parent.is_relative_to(root) else "."
    located = index.locate(key, "" if folder == "." else folder)
    values = {label: label_values(cells[label], path) for label in labels}
    frame = pd.DataFrame(
        {
            # A row whose image is not there keeps its own path, so that it is named as missing.
            "image": located.where(located.notna(), paths).astype(str),
            "patient": pieces[0].astype(str),
            "study": (pieces[0] + "/" + pieces[1]).astype(str),
            "split": split,
            **values,
            "sex": _column(cells, "Sex").str.strip().replace({"Unknown": ""}),
            "age": _age(_column(cells, "Age")),
            "view": _view(cells, pieces[2]),
            "projection": _column(cells, "AP/PA").str.strip(),
        }
    )
    return frame


def _images_of_studies(cells: pd.DataFrame, path: Path, index: _Index) -> pd.DataFrame:
    """One row an image of a table with one row a study; a study without images keeps a path that is not there."""
    studies = cells["Study"].str.extract(_STUDY_KEY)[0]
    bad = np.flatnonzero(studies.isna().to_numpy())
    if len(bad):
        raise UserError(f"{path}, row {bad[0] + 2}: {cells['Study'].iloc[int(bad[0])]!r} is no CheXpert study.")
    wanted = set(studies)
    images: dict[str, list[str]] = {}
    for key in index.files:
        study = key.rsplit("/", 1)[0]
        if study in wanted:
            images.setdefault(study, []).append(key)
    keys = studies.map(lambda study: sorted(images.get(study, [f"{study}/view1_frontal.jpg"])))
    return cells.assign(Path=keys).explode("Path", ignore_index=True)


def _column(cells: pd.DataFrame, name: str) -> pd.Series:
    return cells[name] if name in cells.columns else pd.Series("", index=cells.index, dtype=str)


def _age(cells: pd.Series) -> pd.Series:
    age = pd.to_numeric(cells.str.strip(), errors="coerce").astype(float)
    return age.mask(age <= 0)  # 0 stands for missing


def _view(cells: pd.DataFrame, names: pd.Series) -> pd.Series:
    """frontal or lateral, from the column where there is one, else from the file name."""
    from_name = names.str.extract(r"_(frontal|lateral)", flags=re.IGNORECASE)[0].str.lower().fillna("")
    told = _column(cells, "Frontal/Lateral").str.strip().str.lower()
    return told.where(told.isin(["frontal", "lateral"]), from_name).astype(str)


def _index(root: Path) -> _Index:
    """One walk over the folders: images by key, and CSV files above the patient folders by name."""
    files: dict[str, list[str]] = {}
    tables: dict[str, list[str]] = {}
    level = [""]
    for _ in range(DEPTH + 1):
        following: list[str] = []
        for folder in level:
            for entry in _entries(root, folder):
                place = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.lower().endswith(".csv"):
                    tables.setdefault(entry.name, []).append(place)
                elif _PATIENT.match(entry.name):
                    _add_patient(root, place, entry.name, files)
                elif entry.is_dir():
                    following.append(place)
        level = following
    return _Index(files, tables)


def _add_patient(root: Path, place: str, patient: str, files: dict[str, list[str]]) -> None:
    for study in _entries(root, place):
        if not _STUDY.match(study.name):
            continue
        for image in _entries(root, f"{place}/{study.name}"):
            stem, dot, suffix = image.name.rpartition(".")
            if dot and f".{suffix.lower()}" in IMAGES:
                key = f"{patient}/{study.name}/{stem}"
                files.setdefault(key, []).append(f"{place}/{study.name}/{image.name}")


def _entries(root: Path, folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(f"{root}/{folder}" if folder else root) as found:
        entries = sorted(found, key=lambda e: e.name)
    return (e for e in entries if not is_debris(e.name) and not e.name.startswith("."))
