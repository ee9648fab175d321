"""Cat & Dog, positive = dog, in every layout it is passed around in.

- Kaggle "dogs-vs-cats" (2013): ``train/cat.0.jpg``, ``train/dog.0.jpg``, ...; its ``test1`` has no labels.
- Microsoft's PetImages: ``PetImages/{Cat,Dog}/0.jpg``, ...; a few of its files are broken, which ``data.on_bad_image``
  (skip by default here) leaves out when the images are decoded.
- Class folders below split folders: ``{train,test}/{cats,dogs}/*.jpg``, ``training_set/training_set/cats/...``.
- LibAUC's ``cat_vs_dog_data.npy`` and ``cat_vs_dog_label.npy``, whose last 5,000 rows are the test set.

Files come sorted by number (``cat.2`` before ``cat.10``), cats first. Where there is no labelled test set,
``data.test_fraction`` of the rows becomes one, stratified, drawn from ``data.split_seed``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dam.config import ImbalancedConfig
from dam.data.containers.npy import NpyImages, load_numbers
from dam.data.datasets.imbalanced import Part, check_labels, two_classes
from dam.data.datasets.tables import IMAGES, folders, is_debris, root_folder
from dam.data.table import ImageTable, counted
from dam.errors import UserError

CLASSES = ("cat", "dog")
SPLITS = {
    "train": "train", "training": "train", "training_set": "train",
    "val": "val", "valid": "val", "validation": "val", "validation_set": "val",
    "test": "test", "testing": "test", "test_set": "test",
}  # fmt: skip
LIBAUC_TEST = 5000
_DEPTH = 3
_FLAT = re.compile(r"(cat|dog)\.\d+\.\w+", re.IGNORECASE)
_ARRAY, _ARRAY_LABELS = "cat_vs_dog_data.npy", "cat_vs_dog_label.npy"


def read(cfg: ImbalancedConfig) -> ImageTable:
    """The images of the first layout found, in the order of the list above from its end. Raises ``UserError``."""
    root = root_folder(cfg.root, "train/cat.0.jpg, PetImages, or {train,test}/{cats,dogs}")
    check_labels(cfg)
    places = list(folders(root, _DEPTH))
    for layout in (_array, _class_folders, _flat):
        parts = layout(root, places)
        if parts:
            return two_classes(cfg, root, parts, CLASSES, _notes(cfg, parts))
    raise UserError(_nothing(root, places))


def _notes(cfg: ImbalancedConfig, parts: list[Part]) -> list[str]:
    splits = {part.split for part in parts}
    if "test" in splits:
        return []
    share = f"{cfg.test_fraction:g} of the images becomes one" if cfg.test_fraction else "there will be none"
    return [f"no labelled test set: {share} (data.test_fraction)"]


def _array(root: Path, places: list[Path]) -> list[Part]:
    folder = next((place for place in places if (place / _ARRAY).is_file()), None)
    if folder is None:
        return []
    if not (folder / _ARRAY_LABELS).is_file():
        raise UserError(f"{folder} holds {_ARRAY} but not its labels, {_ARRAY_LABELS}: put it beside.")
    count = len(NpyImages(folder / _ARRAY))
    classes = load_numbers(folder / _ARRAY_LABELS, count, largest=1)
    place = (folder / _ARRAY).relative_to(root).as_posix()
    cut = count - LIBAUC_TEST
    if cut <= 0:
        return [_rows("", place, classes, range(count))]
    return [_rows("train", place, classes, range(cut)), _rows("test", place, classes, range(cut, count))]


def _rows(split: str, place: str, classes: np.ndarray, rows: range) -> Part:
    return Part(split, [f"{place}::{i}" for i in rows], classes[rows.start : rows.stop])


def _class_folders(root: Path, places: list[Path]) -> list[Part]:
    parts = []
    for place in places:
        named = {folder.name.lower().removesuffix("s"): folder for folder in _below(place)}
        if not all(name in named for name in CLASSES):
            continue
        files = [[f"{_relative(named[name], root)}{file}" for file in _files(named[name])] for name in CLASSES]
        if any(files):
            parts.append(_of_names(_split_of(place, root), files))
    if any(part.split for part in parts):
        return parts
    return parts[:1]  # without split folders a second pair would be a copy


def _flat(root: Path, places: list[Path]) -> list[Part]:
    for place in places:
        files = [file for file in _files(place) if _FLAT.fullmatch(file)]
        if files:
            prefix = _relative(place, root)
            return [_of_names("", [[prefix + f for f in files if f.lower().startswith(name)] for name in CLASSES])]
    return []


def _of_names(split: str, files: list[list[str]]) -> Part:
    return Part(split, [*files[0], *files[1]], np.repeat([0, 1], [len(files[0]), len(files[1])]).astype(np.int64))


def _split_of(place: Path, root: Path) -> str:
    """By the nearest folder, from ``place`` up to ``root`` itself, that is called like a split."""
    for name in (place.name, *(parent.name for parent in place.parents if parent.is_relative_to(root))):
        if name.lower() in SPLITS:
            return SPLITS[name.lower()]
    return ""


def _below(place: Path) -> Iterator[Path]:
    with os.scandir(place) as entries:
        yield from [Path(entry.path) for entry in entries if entry.is_dir() and not is_debris(entry.name)]


def _files(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(IMAGES) and not is_debris(e.name)]
    return sorted(names, key=lambda name: ([int(n) for n in re.findall(r"\d+", name)], name))


def _relative(folder: Path, root: Path) -> str:
    return "" if folder == root else f"{folder.relative_to(root).as_posix()}/"


def _nothing(root: Path, places: list[Path]) -> str:
    packed = [place / name for place in places[:50] for name in ("train.zip", "cat_vs_dog.tar.gz")]
    found = next((path for path in packed if path.is_file()), None)
    if found is not None:
        return f"{found} is still packed: unpack it there."
    images = sum(len(_files(place)) for place in places[:50])
    return (
        f"No cats and dogs were found under data.root={root} ({counted(images, 'image')} of other names): give the "
        "folder that holds train/cat.0.jpg, PetImages/Cat, {train,test}/{cats,dogs} or cat_vs_dog_data.npy."
    )
