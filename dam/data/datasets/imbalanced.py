"""CIFAR-10 as a two-class benchmark (Yuan et al. 2021, section 4.1): some classes are positive, the others negative.

``data.imratio`` then makes the training set imbalanced. The python version is read through stand-ins, never by plain
``pickle`` (see ``cifar_pickle``); the binary version is preferred when both are present.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import ImbalancedConfig
from dam.data.datasets.cifar_pickle import load_batch, load_class_names
from dam.data.datasets.tables import folders, root_folder
from dam.data.table import ImageTable, named
from dam.errors import UserError

LABEL = "positive"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read(cfg: ImbalancedConfig) -> ImageTable:
    """CIFAR-10's official files: training batches in order 1..5, then the test batch.

    Locators are ``<folder>/data_batch_1::17``. The label is called ``positive``; the class name is metadata. Positive
    are ``data.positive_classes`` (names or ids), else the upper half of the class ids. There are no patients: every
    image is its own.
    """
    root = root_folder(cfg.root, "cifar-10-batches-py or cifar-10-batches-bin")
    if list(cfg.labels) not in ([], [LABEL]):
        raise UserError(f"data.labels={list(cfg.labels)}: {cfg.name} has one label, {LABEL!r}; choose its classes with "
                        "data.positive_classes=[...].")  # fmt: skip
    files, meta = _find(root)
    names = load_class_names(meta) if meta.is_file() else list(CLASSES)
    positive = _positive_classes(cfg.positive_classes, names)
    parts, notes = [], []
    for split, path in files:
        classes = load_batch(path)["labels"]
        place = path.relative_to(root).as_posix()
        if classes.max(initial=0) >= len(names):
            raise UserError(f"{path} holds class {classes.max()}, but there are {len(names)} class names.")
        parts.append(
            pd.DataFrame(
                {
                    "image": [f"{place}::{i}" for i in range(len(classes))],
                    "split": split,
                    LABEL: np.isin(classes, positive).astype(np.float64),
                    "class": np.array(names)[classes],
                }
            )
        )
    absent = 6 - len(files)
    if absent:
        notes.append(f"{absent} of CIFAR-10's six files are absent")
    notes.append(f"positive classes: {', '.join(names[i] for i in positive)}")
    frame = pd.concat(parts, ignore_index=True)
    frame.insert(1, "patient", frame["image"])
    frame.insert(2, "study", frame["image"])
    return ImageTable(frame, (LABEL,), root, cfg.name, tuple(notes))


def _find(root: Path) -> tuple[list[tuple[str, Path]], Path]:
    """The batches present, with their splits, and the file of class names."""
    for suffix, meta in ((".bin", "batches.meta.txt"), ("", "batches.meta")):
        wanted = [*(("train", f"data_batch_{i}{suffix}") for i in range(1, 6)), ("test", f"test_batch{suffix}")]
        for folder in folders(root, 2):
            found = [(split, folder / name) for split, name in wanted if (folder / name).is_file()]
            if found:
                if found[0][0] == "test":
                    raise UserError(f"{folder} holds CIFAR-10's test batch but no training batch (data_batch_1..5).")
                return found, folder / meta
    raise UserError(
        f"No CIFAR-10 batch (data_batch_1 or data_batch_1.bin) was found under data.root={root}: "
        "unpack cifar-10-python.tar.gz there."
    )


def _positive_classes(chosen: list[str], names: list[str]) -> list[int]:
    if not chosen:
        return list(range(len(names) // 2, len(names)))
    ids = []
    for item in map(str, chosen):
        if item in names:
            ids.append(names.index(item))
        elif item.isdecimal() and int(item) < len(names):
            ids.append(int(item))
        else:
            raise UserError(f"data.positive_classes: {item!r} is no class; the classes are {named(names)}.")
    if len(set(ids)) == len(names):
        raise UserError("data.positive_classes names every class: leave at least one negative.")
    return sorted(set(ids))
