"""SIIM-ISIC Melanoma 2020 (Rotemberg et al. 2021): Kaggle's tree, ISIC's archive, C. Deotte's resized sets.

They hold the same 33,126 images as JPEG, DICOM or TFRecords. Deotte's tables have a column ``tfrecord``: a leak-free
group 0 .. 14, or -1 for a duplicate. The labels of the official test set were never published.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import MelanomaConfig
from dam.data.datasets.melanoma_external import read_external
from dam.data.datasets.melanoma_images import Images, find_images, plain
from dam.data.datasets.tables import BLANK, find_table, folders, label_values, need_column, root_folder
from dam.data.datasets.text_tables import read_text_table
from dam.data.table import ImageTable, counted, named
from dam.errors import UserError

LABEL = "melanoma"
GROUP = "fold_group"  # metadata column along which folds are cut
TABLES = ("train.csv", "ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv")
DUPLICATES = "ISIC_2020_Training_Duplicates.csv"
GROUPS = 15  # of Deotte's sets


def read(cfg: MelanomaConfig) -> ImageTable:
    """The training table ``data.csv``, or that found under ``data.root``; ``data.external`` as rows that only train.

    One label, ``melanoma`` (column ``target``); metadata ``sex``, ``age``, ``site`` (blank where unknown),
    ``fold_group`` where the groups are known, and with external sets ``source``. Raises ``UserError``.
    """
    root = root_folder(cfg.root, "SIIM-ISIC Melanoma 2020")
    if list(cfg.labels) not in ([], [LABEL]):
        raise UserError(f"data.labels={list(cfg.labels)}: {cfg.name} has one label, {LABEL!r}.")
    path, notes = _table(cfg, root)
    cells = read_text_table(path)
    names = cells[need_column(cells, "image_name", path, "data.csv")].str.strip()
    images = _images(cfg, path, root, {plain(name) for name in names})
    frame = _frame(cells, names, images, path)
    notes += images.notes
    place = f"images as {images.kind} in {images.folder}" if images.locators else "no image of which was found"
    notes.append(f"{counted(len(frame), 'row')} of {path.name}, {place}")
    group = _groups(cells, frame, images)
    drop, told = _removed(cfg, cells, names, images, path)
    notes += told
    if group is not None:
        frame[GROUP] = group
    frame["split"] = _test_groups(cfg, group, len(frame))
    frame = frame[~drop]
    if cfg.external:
        known = {plain(name) for name in names}
        outside, more = read_external(cfg, root, known, bool(names.size and _is_siim(frame["patient"])))
        frame = pd.concat([frame.assign(source=f"{cfg.name} 2020"), outside], ignore_index=True)
        frame[GROUP] = frame[GROUP].fillna("") if GROUP in frame else ""
        notes += more
    return ImageTable(frame.reset_index(drop=True), (LABEL,), root, cfg.name, tuple(notes))


def _is_siim(patients: pd.Series) -> bool:
    return bool(patients.str.startswith("IP_").any())


# ---------------------------------------------------------------- files


def _table(cfg: MelanomaConfig, root: Path) -> tuple[Path, list[str]]:
    """The training table, and a word about the external sets that lie beside it unused."""
    if cfg.csv is not None:
        return find_table(cfg.csv, root, "data.csv"), []
    external: list[Path] = []
    for depth in (0, 1, 2):
        below = [folder for folder in folders(root, depth) if len(folder.relative_to(root).parts) == depth]
        found = [path for folder in below if (path := _table_in(folder)) is not None]
        external += [path for path in found if _has_no_patients(path)]
        own = [path for path in found if path not in external]
        if len(own) > 1:
            places = named([path.parent.relative_to(root) for path in own], 5)
            raise UserError(f"data.root={root} holds several releases ({places}): set data.root to one of them.")
        if own:
            unused = [path.parent.relative_to(root) for path in external if not cfg.external]
            told = f"{named(unused, 5)} under the root is not used (to train with it: data.external=[...])"
            return own[0], [told] if unused else []
    raise UserError(
        f"No {' or '.join(TABLES)} with patients was found under data.root={root} (searched 2 levels): TFRecords and "
        "images need the table of their release beside them; put it there, or name it with data.csv=PATH."
    )


def _table_in(folder: Path) -> Path | None:
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _has_no_patients(path: Path) -> bool:
    """Whether a table is one of the external sets, whose patients are all -1."""
    try:
        head = pd.read_csv(path, dtype=str, nrows=50, keep_default_na=False, encoding_errors="replace")
    except (ValueError, OSError):
        return False  # what is wrong with it is told when it is read
    return "patient_id" in head.columns and bool((head["patient_id"] == "-1").all())


def _images(cfg: MelanomaConfig, path: Path, root: Path, wanted: set[str]) -> Images:
    bases = [path.parent, root] if path.is_relative_to(root) else [root]
    for base in dict.fromkeys(bases):
        found = find_images(base, root, cfg.images, wanted, cfg.on_bad_image == "skip")
        if found is not None:
            return found
    if cfg.images != "auto":
        raise UserError(
            f"data.images={cfg.images}, but no such images of {path.name} were found under data.root={root}: correct "
            "one of the two, or set data.images=auto."
        )
    return Images("jpeg", "jpeg/train", {})


# ---------------------------------------------------------------- rows


def _frame(cells: pd.DataFrame, names: pd.Series, images: Images, path: Path) -> pd.DataFrame:
    target = label_values(cells[need_column(cells, "target", path, "data.csv")], path)
    located = pd.Series(images.locate(names), dtype=str)
    recorded = np.array([images.targets.get(plain(name), -1) for name in names])
    wrong = np.flatnonzero((recorded >= 0) & (recorded != target))
    if len(wrong):
        raise UserError(
            f"{path}, row {wrong[0] + 2}: {names.iloc[int(wrong[0])]} has another target in the TFRecords (one of "
            f"{len(wrong)}): table and records are of different sets."
        )
    patient = text_column(cells, "patient_id")
    return pd.DataFrame(
        {
            "image": located,
            "patient": patient.where(~patient.isin(["", "-1"]), located).astype(str),
            "study": located,
            "split": "",
            LABEL: target,
            **metadata(cells),
        }
    )


def metadata(cells: pd.DataFrame) -> dict[str, pd.Series]:
    """Columns ``sex`` and ``site`` (blank where unknown) and ``age`` (years, NaN where unknown)."""
    age = text_column(cells, "age_approx", "age_approximate", "age")
    return {
        "sex": text_column(cells, "sex").str.lower(),
        "age": pd.to_numeric(age, errors="coerce").astype(float),
        "site": text_column(cells, "anatom_site_general_challenge", "anatom_site_general").str.lower(),
    }


def text_column(cells: pd.DataFrame, *names: str) -> pd.Series:
    """The first of the columns that is there, blanks as empty strings; all blank where none is."""
    for name in names:
        if name in cells.columns:
            text = cells[name].str.strip()
            return text.mask(text.str.lower().isin(BLANK), "").astype(str)
    return pd.Series("", index=cells.index, dtype=str)


def _groups(cells: pd.DataFrame, frame: pd.DataFrame, images: Images) -> pd.Series | None:
    """The leak-free group of each row as text, from the column ``tfrecord`` or the number of the TFRecord file; a
    duplicate has that of its patient. None where there is none, or where a patient is in two."""
    if "tfrecord" in cells.columns:
        group = pd.to_numeric(cells["tfrecord"], errors="coerce")
    elif images.groups:
        names = cells["image_name"].str.strip()
        group = pd.Series([images.groups.get(plain(name), -1) for name in names], dtype=float)
    else:
        return None
    group = group.where(group >= 0)
    of_patient = group.groupby(frame["patient"])
    if (of_patient.nunique() > 1).any():  # the official TFRecords are no groups
        return None
    group = group.fillna(of_patient.transform("first"))
    if group.isna().any():
        return None
    return group.astype(int).astype(str)


def _removed(
    cfg: MelanomaConfig, cells: pd.DataFrame, names: pd.Series, images: Images, path: Path
) -> tuple[np.ndarray, list[str]]:
    """Rows to leave out as duplicates, bool (n,), and which list says so."""
    nothing = np.zeros(len(cells), dtype=bool)
    official = next((p for p in (path.parent / DUPLICATES, path.parent.parent / DUPLICATES) if p.is_file()), None)
    absent = names.map(lambda name: plain(name) not in images.locators).to_numpy(dtype=bool)
    if "tfrecord" in cells.columns:
        drop = (pd.to_numeric(cells["tfrecord"], errors="coerce") < 0).to_numpy()
        source = "the tfrecord column (C. Deotte's list)"
    elif official is not None:
        table = read_text_table(official)
        twice = table[need_column(table, "image_name_2", official, "data.csv")].str.strip()
        drop, source = names.isin(twice).to_numpy(), f"{DUPLICATES} (the official list)"
    elif set(images.groups.values()) == set(range(GROUPS)):  # Deotte's files hold no duplicate
        drop, source = absent, "their absence from the TFRecords (C. Deotte's list)"
    elif _is_siim(text_column(cells, "patient_id")):
        return nothing, [f"no list of duplicates is here (a tfrecord column, or {DUPLICATES}): none is left out"]
    else:
        return nothing, []
    if cfg.duplicates == "keep":
        return nothing, [f"kept {counted(int(drop.sum()), 'duplicate')} by {source}"]
    return drop, [f"left out {counted(int(drop.sum()), 'duplicate')} by {source}"]


def _test_groups(cfg: MelanomaConfig, group: pd.Series | None, rows: int) -> np.ndarray:
    """The split of each row: test for ``data.test_groups``, otherwise not yet assigned."""
    split = np.full(rows, "", dtype=object)
    if not cfg.test_groups:
        return split
    if group is None:
        raise UserError(
            "data.test_groups needs the leak-free groups of a tfrecord column, which this table lacks: use a train.csv "
            "of C. Deotte's sets, or set data.test_groups=[] and data.test_fraction."
        )
    unknown = sorted(set(map(str, cfg.test_groups)) - set(group))
    if unknown:
        there = sorted(set(group), key=int)
        raise UserError(f"data.test_groups names {named(unknown)}, but this table's groups are {named(there, 15)}.")
    split[group.isin(map(str, cfg.test_groups)).to_numpy()] = "test"
    return split
