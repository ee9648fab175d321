"""PatchCamelyon (Veeling et al. 2018): 96-pixel patches of lymph nodes in HDF5, official train, valid and test parts.

Official names (``camelyonpatch_level_2_split_train_x.h5``, plain or ``.gz``) or those of Kaggle ``andrewmvd``
(``training_split.h5``), in any folders at most three levels below ``data.root``. Gzipped images are unpacked once,
beside the image store. The label ``tumor`` is the centre criterion of the ``y`` files. Slides (``wsi`` of the meta
tables) serve as patients.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import PcamConfig
from dam.data.containers.hdf5 import count_images, read_numbers, unpack_once
from dam.data.datasets.imbalanced import fewer
from dam.data.datasets.tables import folders, root_folder
from dam.data.datasets.text_tables import read_text_table
from dam.data.store import default_store_dir
from dam.data.table import ImageTable, counted
from dam.errors import UserError

LABEL = "tumor"
PUBLISHED = {"train": 262_144, "valid": 32_768, "test": 32_768}
_KAGGLE = {"train": "training_split.h5", "valid": "validation_split.h5", "test": "test_split.h5"}
_DEPTH = 3
_TRUE = {"true": 1, "1": 1, "false": 0, "0": 0}


@dataclass(frozen=True)
class _Files:
    """Files of one part; ``images`` and ``labels`` may be gzipped, ``meta`` may be absent."""

    images: Path
    labels: Path
    meta: Path | None


def read(cfg: PcamConfig) -> ImageTable:
    """All parts that are there, in the files' order. With ``official_valid=train`` (the paper) the validation part
    joins training. Locators are ``camelyonpatch_level_2_split_train_x.h5::x/17``. Raises ``UserError``."""
    root = root_folder(cfg.root, "camelyonpatch_level_2_split_train_x.h5")
    if list(cfg.labels) not in ([], [LABEL]):
        raise UserError(f"data.labels={list(cfg.labels)}: pcam has one label, {LABEL!r}; leave data.labels=[{LABEL}].")
    parts = _find(root)
    unpacked = _unpack_folder(cfg, root)
    # Where all images are unpacked by us their folder is the root: the rows are then named as those of plain files.
    base = unpacked if all(files.images.suffix == ".gz" for files in parts.values()) else root
    frames: list[pd.DataFrame] = []
    notes: list[str] = []
    for part, files in parts.items():
        split = {"train": "train", "valid": cfg.official_valid, "test": "test"}[part]
        frames.append(_part(files, part, split, base, unpacked, notes))
    absent = [part for part in PUBLISHED if part not in parts]
    notes += [f"the {part} part is absent" for part in absent]
    return ImageTable(pd.concat(frames, ignore_index=True), (LABEL,), base, cfg.name, tuple(notes))


def _unpack_folder(cfg: PcamConfig, root: Path) -> Path:
    store = Path(cfg.store).expanduser() if cfg.store else default_store_dir()
    return store.absolute() / f"pcam-{hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest()}"


def _find(root: Path) -> dict[str, _Files]:
    there: dict[str, Path] = {}
    for folder in folders(root, _DEPTH):
        for path in sorted(folder.iterdir()):
            if path.suffix in (".h5", ".gz", ".csv"):
                there.setdefault(path.name, path)
    parts = {}
    for part in PUBLISHED:
        prefix = f"camelyonpatch_level_2_split_{part}"
        images = _first(there, f"{prefix}_x.h5", _KAGGLE[part], f"{prefix}_x.h5.gz", f"{_KAGGLE[part]}.gz")
        if images is None:
            continue
        labels = _first(there, f"{prefix}_y.h5", f"{prefix}_y.h5.gz")
        if labels is None:
            raise UserError(f"{images} has no labels: {prefix}_y.h5 is not under data.root={root}; put it there.")
        parts[part] = _Files(images, labels, _first(there, f"{prefix}_meta.csv"))
    if "train" not in parts:
        raise UserError(
            f"No camelyonpatch_level_2_split_train_x.h5 (or .h5.gz, or training_split.h5) was found under data.root="
            f"{root}: get PatchCamelyon from https://github.com/basveeling/pcam."
        )
    return parts


def _first(there: dict[str, Path], *names: str) -> Path | None:
    return next((there[name] for name in names if name in there and there[name].is_file()), None)


def _part(files: _Files, part: str, split: str, base: Path, unpacked: Path, notes: list[str]) -> pd.DataFrame:
    images, labels = _plain(files.images, unpacked), _plain(files.labels, unpacked)
    count = count_images(images, "x")
    values = read_numbers(labels, "y")
    if len(values) != count:
        raise UserError(
            f"{labels} has {len(values)} labels for the {count} images of {images.name}: they do not belong together."
        )
    bad = np.flatnonzero((values < 0) | (values > 1))
    if len(bad):
        raise UserError(f"{labels}, row {bad[0]}: {values[bad[0]]} is no label; PatchCamelyon's are 0 and 1.")
    place = images.relative_to(base).as_posix() if images.is_relative_to(base) else str(images)
    names = [f"{place}::x/{i}" for i in range(count)]
    frame = pd.DataFrame({"image": names, "patient": names, "study": names, "split": split})
    frame[LABEL] = values.astype(np.float64)
    notes += fewer(count, PUBLISHED[part], f"the {part} part")
    meta = _meta(files.meta, values, notes)
    if meta is None:
        notes.append(f"slides are unknown in the {part} part: every patch counts as a patient of its own")
        return frame
    frame["patient"] = frame["study"] = meta["wsi"].to_numpy()
    if "tumor_patch" in meta:
        frame["tumor_patch"] = meta["tumor_patch"].to_numpy()
    return frame


def _plain(path: Path, unpacked: Path) -> Path:
    return unpack_once(path, unpacked) if path.suffix == ".gz" else path


def _meta(path: Path | None, values: np.ndarray, notes: list[str]) -> pd.DataFrame | None:
    """The meta table if it has slides and its rows are those of the labels."""
    if path is None:
        return None
    table = read_text_table(path)
    if "wsi" not in table.columns:
        notes.append(f"{path.name} has no column wsi and is not used")
        return None
    fault = f"has {counted(len(table), 'row')} for {len(values)} labels" if len(table) != len(values) else ""
    if not fault and "center_tumor_patch" in table.columns:
        centre = table["center_tumor_patch"].str.strip().str.lower().map(_TRUE)
        differing = int((centre.to_numpy() != values).sum())
        fault = f"has another center_tumor_patch than {counted(differing, 'label')}" if differing else ""
    if fault:
        notes.append(f"{path.name} {fault} and is not used")
        return None
    return table
