"""DDSM+ (positives of CBIS-DDSM, negatives of DDSM): TFRecords and npy of Kaggle ``skooch/ddsm-mammography``.

``training10_0 .. 4`` (TFRecords) train; ``cv10`` and ``test10`` (npy) are together the test set: cv10 holds nearly only
calcifications and test10 only masses, so either alone measures half of the task. Files lie in folders of their own
name or flat. All labels are the five-class code: 0 normal, 1 benign calcification, 2 benign mass, 3 malignant
calcification, 4 malignant mass. Images are raw uint8, 299 x 299.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from dam.config import DdsmConfig
from dam.data.containers.npy import NpyImages, load_numbers
from dam.data.containers.tfrecord import TFRecordFile, Values
from dam.data.datasets.tables import folders, root_folder
from dam.data.table import ImageTable, counted, named
from dam.errors import UserError

CODES = ("normal", "benign calcification", "benign mass", "malignant calcification", "malignant mass")
SHARDS = tuple(f"training10_{i}" for i in range(5))
TESTS = ("cv10", "test10")
_NORMAL = "NORMAL"
_PATIENT = re.compile(r"P_\d{5}")  # CBIS-DDSM's patients, within names such as Mass-Training_P_00044_RIGHT_CC_2


def read(cfg: DdsmConfig) -> ImageTable:
    """Training shards, then cv10 and test10, which are ``test``. The label is the task: ``abnormal`` (codes 1 to 4) or
    ``malignant`` (3, 4 against 1, 2; normal images are left out). The finding is metadata.

    Patients are those of the ``filename`` feature where the records have it; negatives are nobody's. Locators are
    ``training10_0/training10_0.tfrecords::17`` and ``cv10_data/cv10_data.npy::17``. Raises ``UserError``.
    """
    root = root_folder(cfg.root, "training10_0 .. training10_4, cv10_data and test10_data")
    if list(cfg.labels) not in ([], [cfg.task]):
        raise UserError(f"data.labels={list(cfg.labels)}: ddsm's one label is its task, {cfg.task!r}; choose it with "
                        "data.task=abnormal or data.task=malignant.")  # fmt: skip
    files = _find(root)
    notes: list[str] = []
    frames = [_shard(files[name], root, cfg.on_bad_image, notes) for name in SHARDS if name in files]
    frames += [_test(files, name, root, notes) for name in TESTS if f"{name}_data" in files]
    frame = pd.concat(frames, ignore_index=True)
    codes = frame.pop("code").to_numpy()
    frame["finding"] = np.array(CODES)[codes]
    frame.insert(4, cfg.task, (codes >= (1 if cfg.task == "abnormal" else 3)).astype(np.float64))
    notes = [*_absent(files), *notes, *_patients(frame)]
    if cfg.task == "malignant":
        notes.append(f"malignant against benign: left out {counted(int((codes == 0).sum()), 'normal image')}")
        frame = frame[codes > 0].reset_index(drop=True)
    return ImageTable(frame, (cfg.task,), root, cfg.name, tuple(notes))


def _find(root: Path) -> dict[str, Path]:
    """Stem of a file's name -> where it is, for those of the release that are there."""
    endings = {**dict.fromkeys(SHARDS, ".tfrecords")}
    endings |= {f"{name}_{kind}": ".npy" for name in TESTS for kind in ("data", "labels")}
    found: dict[str, Path] = {}
    for folder in folders(root, 2):
        for stem, ending in endings.items():
            path = folder / f"{stem}{ending}"
            if stem not in found and path.is_file():
                found[stem] = path
    if not any(shard in found for shard in SHARDS):
        raise UserError(
            f"No training10_0.tfrecords .. training10_4.tfrecords was found under data.root={root}: unpack Kaggle's "
            "skooch/ddsm-mammography there."
        )
    return found


def _absent(files: dict[str, Path]) -> list[str]:
    notes = []
    shards = [name for name in SHARDS if name not in files]
    if shards:
        notes.append(f"{len(shards)} of the 5 training shards are absent: {named(shards)}")
    tests = [name for name in TESTS if f"{name}_data" not in files]
    if len(tests) == 1:
        kind = "calcifications" if tests == ["test10"] else "masses"
        notes.append(f"{tests[0]} is absent, so nearly all test positives are {kind}")
    elif tests:
        notes.append("cv10 and test10 are absent: a test set can only be cut from training (data.test_fraction)")
    return notes


def _shard(path: Path, root: Path, damaged: Literal["refuse", "skip"], notes: list[str]) -> pd.DataFrame:
    shard = TFRecordFile(path)
    place = path.relative_to(root).as_posix()
    rows = []
    unlabelled = []
    for number, features in enumerate(shard.scan("label", "filename", damaged=damaged)):
        code = _code(features)
        if code is not None:
            rows.append((f"{place}::{number}", _name(features), code))
        elif damaged == "skip":
            unlabelled.append(number)
        else:
            raise UserError(
                f"{path}, record {number}, has no label 0 to 4: it is no DDSM+ record; get the file again, or leave "
                "such records out with data.on_bad_image=skip."
            )
    if shard.problem:  # not refused, so left out
        notes.append(f"left out all after the first {counted(len(shard), 'record')} of {place}: {shard.problem}")
    if unlabelled:
        notes.append(f"left out {counted(len(unlabelled), 'record')} of {place} without a label: {named(unlabelled)}")
    images = [image for image, _, _ in rows]
    patients = [name or image for image, name, _ in rows]
    return _frame(images, patients, "train", np.array([code for _, _, code in rows], np.int64))


def _code(features: dict[str, Values]) -> int | None:
    values = features.get("label", [])
    if len(values) == 1 and isinstance(values[0], int) and 0 <= values[0] < len(CODES):
        return values[0]
    return None


def _name(features: dict[str, Values]) -> str:
    """Whose image it is by its ``filename``, which numpy wrote as UTF-32; empty if it does not say."""
    values = features.get("filename", [])
    if not values or not isinstance(values[0], bytes):
        return ""
    raw = values[0]
    try:
        text = raw.decode("utf-32-le")
    except UnicodeDecodeError:
        text = raw.decode("latin1")
    text = text.strip("\0 ")
    patient = _PATIENT.search(text)
    return patient.group() if patient else "" if text.upper() == _NORMAL else text


def _test(files: dict[str, Path], name: str, root: Path, notes: list[str]) -> pd.DataFrame:
    path = files[f"{name}_data"]
    if f"{name}_labels" not in files:
        raise UserError(f"{path} is there, but not {name}_labels.npy: put it beside.")
    count = len(NpyImages(path))
    codes = load_numbers(files[f"{name}_labels"], count, largest=len(CODES) - 1)
    if count and codes.max() <= 1:
        notes.append(f"{name}_labels.npy holds only 0 and 1; in the release it holds the five-class code")
    place = path.relative_to(root).as_posix()
    images = [f"{place}::{i}" for i in range(count)]
    return _frame(images, images, "test", codes)


def _frame(images: list[str], patients: list[str], split: str, codes: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"image": images, "patient": patients, "study": images, "split": split, "code": codes})


def _patients(frame: pd.DataFrame) -> list[str]:
    training = frame[frame["split"] == "train"]
    known = training["patient"] != training["image"]
    if not known.any():
        return [
            "patients are unknown: each positive was cropped three times, so crops of one lesion may be in both "
            "training and validation"
        ]
    told = f"patients are known for {counted(int(known.sum()), 'training image')} by their file names"
    return [f"{told}; the other {int((~known).sum())} and the test images count as a patient each"]
