"""STL-10 (Coates et al. 2011) in its binary files, as two classes; positive by default are dog to truck.

``train_X.bin``, ``train_y.bin``, ``test_X.bin``, ``test_y.bin``, at most two folders below ``data.root``; images are
read by position (``dam.data.containers.stl``). Labels in the files are 1 to 10. ``unlabeled_X.bin`` is not needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dam.config import ImbalancedConfig
from dam.data.containers.stl import count_images
from dam.data.datasets.imbalanced import Part, check_labels, fewer, two_classes
from dam.data.datasets.tables import folders, root_folder
from dam.data.table import ImageTable
from dam.errors import UserError

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_WHOLE = {"train": 5000, "test": 8000}


def read(cfg: ImbalancedConfig) -> ImageTable:
    """Training and test images in the files' order; locators are ``stl10_binary/train_X.bin::17``. ``UserError``."""
    root = root_folder(cfg.root, "stl10_binary")
    check_labels(cfg)
    folder = _find(root)
    names = _class_names(folder / "class_names.txt")
    parts, notes = [], []
    for split, whole in _WHOLE.items():
        images = folder / f"{split}_X.bin"
        if not images.is_file():
            notes.append(f"{images.name} is absent")
            continue
        classes = _classes(folder / f"{split}_y.bin", count_images(images), len(names))
        place = images.relative_to(root).as_posix()
        parts.append(Part(split, [f"{place}::{i}" for i in range(len(classes))], classes))
        notes += fewer(len(classes), whole, images.name)
    return two_classes(cfg, root, parts, names, notes)


def _find(root: Path) -> Path:
    for folder in folders(root, 2):
        if (folder / "train_X.bin").is_file():
            return folder
        if (folder / "train.mat").is_file():
            raise UserError(
                f"{folder} holds the Matlab version of STL-10, which is not read: unpack stl10_binary.tar.gz instead."
            )
    raise UserError(f"No train_X.bin was found under data.root={root}: unpack stl10_binary.tar.gz there.")


def _classes(path: Path, count: int, classes: int) -> np.ndarray:
    try:
        labels = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): unpack stl10_binary.tar.gz again.") from error
    if len(labels) != count:
        raise UserError(
            f"{path} has {len(labels)} labels for {count} images: one of the two was cut short; unpack "
            "stl10_binary.tar.gz again."
        )
    bad = np.flatnonzero((labels < 1) | (labels > classes))
    if len(bad):
        raise UserError(f"{path}, byte {bad[0]}: {labels[bad[0]]} is no class; STL-10's are 1 to {classes}.")
    return labels.astype(np.int64) - 1


def _class_names(path: Path) -> list[str]:
    if not path.is_file():
        return list(CLASSES)
    names = path.read_text("utf-8", "replace").split()
    if len(names) != len(CLASSES):
        raise UserError(f"{path} holds {len(names)} class names, not {len(CLASSES)}: unpack stl10_binary.tar.gz again.")
    return names
