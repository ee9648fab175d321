"""Further dermoscopy images for training beside SIIM-ISIC 2020: ISIC 2019 (with 2018 and 2017), more melanomas.

Their rows only train. Patients are unknown, so every image is its own. An image that the main table has, under any
split, is left out by its name.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import MelanomaConfig
from dam.data.datasets.melanoma_images import Images, find_images, plain
from dam.data.datasets.tables import folders, is_debris, label_values
from dam.data.datasets.text_tables import read_text_table
from dam.data.table import counted, named
from dam.errors import UserError

LABEL = "melanoma"
NAMES = ("image_name", "image", "image_id")
TARGETS = ("target", "MEL", "melanoma")  # one-hot tables of ISIC 2018 and 2019 have a column a class
WEBSITE = (15, 29)  # groups of the malignant sets (0 .. 59) that come from the ISIC website, of no year
SIDE_2019 = 1024  # pixels; the images that ISIC 2019 added are squares of this side
TORSO = {"anterior torso": "torso", "posterior torso": "torso", "lateral torso": "torso"}


def read_external(cfg: MelanomaConfig, root: Path, known: set[str], siim: bool) -> tuple[pd.DataFrame, list[str]]:
    """Rows of all ``data.external`` sets with the split ``extra``, and a note a set. ``known``: image names of the main
    table; ``siim``: whether that is SIIM-ISIC 2020, whose groups 0 .. 14 the malignant sets repeat."""
    parts: list[pd.DataFrame] = []
    notes: list[str] = []
    taken = set(known)
    for entry in cfg.external:
        folder, table = _place(entry, root)
        rows, images = _rows(folder, table, root, cfg.on_bad_image == "skip")
        keep, told = _kept(rows, cfg, taken, siim, entry)
        rows = rows[keep]
        if len(rows) == 0:
            raise UserError(f"data.external: {entry} adds no image ({'; '.join(told)}): leave it out.")
        taken |= set(rows["name"])
        located = pd.Series(images.locate(rows["file"]), dtype=str)
        frame = pd.DataFrame({"image": located, "patient": located, "study": located, "split": "extra"})
        for column in (LABEL, "sex", "age", "site"):
            frame[column] = rows[column].to_numpy()
        frame["site"] = frame["site"].replace(TORSO)
        frame["source"] = folder.name
        parts.append(frame)
        positives = int(frame[LABEL].sum())
        notes += images.notes
        notes.append("; ".join([f"{folder.name}: {len(frame)} images ({positives} melanoma) train only", *told]))
    return pd.concat(parts, ignore_index=True), notes


def _place(entry: str, root: Path) -> tuple[Path, Path | None]:
    """The folder of an entry of ``data.external``, and its table if it has one."""
    given = Path(entry).expanduser()
    found = next((place for place in (root / given, given) if place.exists()), None)
    if found is None:
        raise UserError(f"data.external: {entry} does not exist (looked in {root} and in the working folder).")
    found = Path(os.path.abspath(found))  # noqa: PTH100
    if found.is_file():
        return found.parent, found
    for folder in folders(found, 1):
        for pattern in ("train.csv", "*Training*GroundTruth*.csv", "*GroundTruth*.csv"):
            tables = sorted(path for path in folder.glob(pattern) if not is_debris(path.name))
            if tables:
                return found, tables[0]
    return found, None


def _rows(folder: Path, table: Path | None, root: Path, skip: bool) -> tuple[pd.DataFrame, Images]:
    """Rows with ``name``, ``file`` (the name as the images have it), label, metadata, ``group`` (NaN where unknown),
    ``width`` and ``height``; and the images."""
    if table is not None:
        rows = _table_rows(table)
        images = find_images(folder, root, "auto", set(rows["name"]), skip)
        if images is None:
            raise UserError(f"data.external: no image of {table} is under {folder}: give the folder that holds both.")
        return rows, images
    images = find_images(folder, root, "tfrecord", (), skip)
    if images is None:
        raise UserError(
            f"data.external: {folder} holds neither train.csv, nor a GroundTruth table, nor train*.tfrec: name a "
            "folder of images with their table."
        )
    names = [name for name in images.locators if name in images.targets]
    rows = pd.DataFrame({"name": names, "file": names, "sex": "", "age": np.nan, "site": ""})
    rows[LABEL] = [float(images.targets[name]) for name in names]
    rows["group"] = [float(images.groups[name]) for name in names]
    return rows.assign(width=np.nan, height=np.nan), images


def _table_rows(path: Path) -> pd.DataFrame:
    from dam.data.datasets.melanoma import metadata

    cells = read_text_table(path)
    name = next((c for c in NAMES if c in cells.columns), None)
    target = next((c for c in TARGETS if c in cells.columns), None)
    if name is None or target is None:
        raise UserError(
            f"data.external: {path} needs a column of names ({', '.join(NAMES)}) and one of the target "
            f"({', '.join(TARGETS)}); its columns are {named(list(cells.columns), 30)}."
        )
    rows = pd.DataFrame({"file": cells[name].str.strip(), LABEL: label_values(cells[target], path)})
    rows["name"] = rows["file"].map(plain)
    for column, values in metadata(_with_metadata(cells, name, path)).items():
        rows[column] = values.to_numpy()
    for column, source in (("group", "tfrecord"), ("width", "width"), ("height", "height")):
        values = cells[source] if source in cells.columns else pd.Series("", index=cells.index)
        rows[column] = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    return rows


def _with_metadata(cells: pd.DataFrame, name: str, path: Path) -> pd.DataFrame:
    """The table with the columns of the metadata table beside it, where it has none of its own."""
    if "sex" in cells.columns:
        return cells
    beside = sorted(p for p in path.parent.glob("*[Mm]etadata*.csv") if not is_debris(p.name) and "Test" not in p.name)
    if not beside:
        return cells
    more = read_text_table(beside[0])
    key = next((c for c in NAMES if c in more.columns), None)
    if key is None:
        return cells
    more = more.drop_duplicates(key).set_index(key)
    more = more[[column for column in more.columns if column not in cells.columns]]
    return cells.join(more, on=name).fillna("")


def _kept(
    rows: pd.DataFrame, cfg: MelanomaConfig, taken: set[str], siim: bool, entry: str
) -> tuple[np.ndarray, list[str]]:
    """Which rows stay, bool (n,), and what was left out for which reason."""
    group = rows["group"].to_numpy()
    malignant = np.nan_to_num(group).max(initial=0) > WEBSITE[1]
    repeats = rows["name"].isin(taken).to_numpy() | rows["name"].duplicated().to_numpy()
    if malignant and siim:
        repeats |= group < WEBSITE[0]
    reasons = [
        (group < 0, "removed by its makers (tfrecord below 0)"),
        (repeats, "in the main table or a set before"),
        (_wrong_year(rows, cfg.external_years, malignant, entry), f"by data.external_years={cfg.external_years}"),
    ]
    keep = np.ones(len(rows), dtype=bool)
    told = []
    for out, reason in reasons:
        number = int((keep & out).sum())
        keep &= ~out
        if number:
            told.append(f"{counted(number, 'row')} left out, {reason}")
    return keep, told


def _wrong_year(rows: pd.DataFrame, years: str, malignant: bool, entry: str) -> np.ndarray:
    """Rows of the part of ISIC 2019 that is not wanted: by the size of the image, else by the parity of its group."""
    if years == "all":
        return np.zeros(len(rows), dtype=bool)
    group, width, height = (rows[c].to_numpy() for c in ("group", "width", "height"))
    sized = width > 0
    if not (sized | (group >= 0)).all():
        raise UserError(
            f"data.external_years={years}: {entry} has neither width and height nor groups (tfrecord) that tell the "
            "year of an image; set data.external_years=all."
        )
    newest = np.where(sized, (width == SIDE_2019) & (height == SIDE_2019), group % 2 == 1)
    wrong = newest if years == "until_2018" else ~newest
    if malignant:
        wrong = wrong & ~((group >= WEBSITE[0]) & (group <= WEBSITE[1]))
    return np.asarray(wrong, dtype=bool)
