"""The user's own images: a table of paths and labels, or one folder a class."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from shlex import quote

import numpy as np
import pandas as pd

from dam.config import CsvConfig
from dam.data.datasets.tables import (
    BLANK,
    IMAGES,
    find_table,
    inside,
    is_debris,
    label_values,
    need_column,
    root_folder,
    subfolders,
)
from dam.data.datasets.text_tables import read_text_table
from dam.data.table import COLUMNS, ImageTable, counted, named
from dam.errors import UserError

SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# With two classes and no data.positive_class, a folder called so is the negative one.
NEGATIVE_WORDS = frozenset({"normal", "negative", "neg", "benign", "healthy", "control", "controls", "0", "no"})
LABEL_COLUMNS = ("label", "target")
PATIENT_COLUMNS = ("patient", "patient_id")
STUDY_COLUMNS = ("study", "study_id")


def read(cfg: CsvConfig) -> ImageTable:
    """The table named by ``data.csv``; without one, the class folders under ``data.root``."""
    return _from_table(cfg) if cfg.csv is not None else _from_folders(cfg)


# ---------------------------------------------------------------- a table


def _from_table(cfg: CsvConfig) -> ImageTable:
    root = root_folder(cfg.root, "the images") if cfg.root is not None else None
    path = find_table(str(cfg.csv), root, "data.csv")
    root = root or path.parent
    cells = read_text_table(path)
    image = need_column(cells, cfg.image_column, path, "data.image_column")
    labels = _label_columns(cfg, cells, path)
    taken = [image, *labels]
    frame = pd.DataFrame({"image": _image_names(cells[image], cfg, root, path)})
    notes: list[str] = []
    patient = _patient_column(cfg, cells, path)
    frame["patient"] = _patients(cfg, cells, patient, frame["image"], notes)
    study = _optional(cfg.study_column, STUDY_COLUMNS, cells, path, "data.study_column")
    frame["study"] = frame["image"] if study is None else _filled(cells[study], frame["image"])
    split = _optional(cfg.split_column, ("split",), cells, path, "data.split_column")
    frame["split"] = "" if split is None else _split_words(cells[split], path)
    for label in labels:
        frame[label] = label_values(cells[label], path)
    taken += [c for c in (patient, study, split) if c is not None]
    for column in _metadata(cfg, cells, taken, path):
        frame[column] = cells[column].to_numpy()
    return ImageTable(frame, labels, root, cfg.name, tuple(notes))


def _image_names(cells: pd.Series, cfg: CsvConfig, root: Path, path: Path) -> list[str]:
    names = [name.strip() for name in cells]
    if cfg.image_suffix is not None:
        return inside([name and name + cfg.image_suffix for name in names], root, path)
    located = inside(names, root, path)
    if not any((root / name).exists() for name in located[:20]):
        _look_around(located[0], root, path)
    return located


def _look_around(name: str, root: Path, path: Path) -> None:
    """The first images are not there: say so if one is with an ending, or in a folder below the root."""
    endings = ["", *(ending for suffix in IMAGES for ending in (suffix, suffix.upper()))]
    for folder in [root, *subfolders(root)[:50]]:
        for ending in endings:
            if (folder / (name + ending)).is_file():
                settings = [f"data.root={folder}"] if folder != root else []
                settings += [f"data.image_suffix={ending}"] if ending else []
                raise UserError(
                    f"{path}, row 2: there is no image {name} in {root}, but {folder / (name + ending)} is one. "
                    f"Set {' '.join(map(quote, settings))}."
                )


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
        if column in COLUMNS or column == cfg.image_column or not re.fullmatch(r"[\w .-]+", column):
            continue
        words = set(cells[column].str.strip().str.lower())
        if words <= legal and words - BLANK:
            return str(column)
    return "NAME"


def _optional(column: str | None, usual: tuple[str, ...], cells: pd.DataFrame, path: Path, key: str) -> str | None:
    if column is not None:
        return need_column(cells, column, path, key)
    return next((c for c in usual if c in cells.columns), None)


def _filled(cells: pd.Series, images: pd.Series) -> pd.Series:
    text = cells.str.strip()
    return text.mask(text.str.lower().isin(BLANK), images).astype(str)


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


def _patients(
    cfg: CsvConfig, cells: pd.DataFrame | None, column: str | None, images: pd.Series, notes: list[str]
) -> pd.Series:
    """Patient of each image: a column, ``data.patient_regex`` on the path, or the image itself."""
    if column is not None and cells is not None:
        blank = int(cells[column].str.strip().str.lower().isin(BLANK).sum())
        if blank:
            have = "have no patient: each counts" if blank > 1 else "has no patient: it counts"
            notes.append(f"{counted(blank, 'row')} {have} as a patient of its own")
        return _filled(cells[column], images)
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
        notes.append(
            f"data.patient_regex does not match {counted(len(unmatched), 'image')}, each counts as a patient: "
            f"{named(unmatched, 5)}"
        )
    return found.where(found.notna(), images).astype(str)


# ---------------------------------------------------------------- class folders


def _from_folders(cfg: CsvConfig) -> ImageTable:
    top = root_folder(cfg.root, "the class folders, or name a table with data.csv=PATH")
    root, splits = _layout(top)
    images: list[str] = []
    words: list[str] = []
    classes: list[str] = []
    for split, folder in splits:
        for class_folder in subfolders(folder):
            found = _images(class_folder, root)
            images += found
            words += [split] * len(found)
            classes += [class_folder.name] * len(found)
    names = sorted(set(classes))
    if len(names) < 2:
        raise UserError(_too_few_classes(top))
    cfg = _with_positive_class(cfg, names)
    columns = [cfg.positive_class] if cfg.positive_class is not None else names
    wanted = tuple(cfg.labels) or tuple(columns)
    unknown = [label for label in wanted if label not in columns]
    if unknown:
        raise UserError(f"data.labels names {unknown}, but the labels from the folders are {named(columns)}.")
    frame = pd.DataFrame({"image": images})
    notes = [f"classes from folders: {named(names)}; label {named(wanted)}"]
    frame["patient"] = _patients(cfg, None, None, frame["image"], notes)
    frame["study"] = frame["image"]
    frame["split"] = words
    for label in wanted:
        frame[label] = (np.array(classes) == label).astype(np.float64)
    if len(names) > 2:
        frame["class"] = classes
    return ImageTable(frame, wanted, root, cfg.name, tuple(notes))


def _too_few_classes(top: Path) -> str:
    """What was found instead of at least two class folders."""
    images = _images(top, top)
    holders = sorted({name.rpartition("/")[0].removeprefix("./") for name in images})
    if not images:
        found = f"data.root={top} holds no image ({', '.join(IMAGES[:3])}, ...)"
    elif holders in ([""], ["."]):
        found = f"data.root={top} holds {counted(len(images), 'image')} and no class folder"
    else:
        where = f"{counted(len(holders), 'folder')} ({named(holders, 4)})"
        found = f"data.root={top} holds {counted(len(images), 'image')} in {where}, of fewer than two classes"
    beside = [folder.name for folder in subfolders(top.parent) if folder != top]
    above = f", perhaps {top.parent} (it also holds {named(beside, 3)})" if images and 0 < len(beside) < 20 else ""
    return (
        f"{found}; expected {{train,val,test}}/CLASS/* or CLASS/* with at least two classes. Set data.root to the "
        f"folder that holds them{above}, or name a table with data.csv=PATH."
    )


def _layout(top: Path) -> tuple[Path, list[tuple[str, Path]]]:
    """The folder that holds the class folders or the split folders, and the (split, folder) pairs in it.

    Archives often unpack into a folder of their own name, so single folders are entered, two levels at most.
    """
    folder = top
    for _ in range(3):
        below = subfolders(folder)
        splits = [(SPLIT_WORDS[b.name.lower()], b) for b in below if b.name.lower() in SPLIT_WORDS]
        if splits:
            return top, splits
        if len(below) != 1:
            break
        folder = below[0]
    return top, [("", folder)]


def _images(folder: Path, root: Path) -> list[str]:
    found = []
    for place, below, files in os.walk(folder, followlinks=True):
        below[:] = sorted(b for b in below if not is_debris(b) and not b.startswith("."))
        relative = Path(place).relative_to(root).as_posix()
        found += [
            f"{relative}/{name}"
            for name in sorted(files)
            if name.lower().endswith(IMAGES) and not is_debris(name) and not name.startswith(".")
        ]
    return found


def _with_positive_class(cfg: CsvConfig, names: list[str]) -> CsvConfig:
    """Decide which class is positive; of more than two classes none need be (one label each)."""
    if cfg.positive_class is not None:
        if cfg.positive_class not in names:
            raise UserError(f"data.positive_class={cfg.positive_class} is no folder; the classes are {named(names)}.")
        return cfg
    if len(names) > 2:
        return cfg
    if len(cfg.labels) == 1 and cfg.labels[0] in names:
        return replace(cfg, positive_class=cfg.labels[0])
    positive = [name for name in names if name.lower() not in NEGATIVE_WORDS]
    if len(positive) != 1:
        raise UserError(
            f"Which class is positive? Set data.positive_class={names[0]} or data.positive_class={names[1]}."
        )
    return replace(cfg, positive_class=positive[0])
