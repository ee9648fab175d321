"""Benchmarks of many classes as one label (Yuan et al. 2021, section 4.1): some classes are positive, the others not.

The one construction behind ``cifar10``, ``cifar100``, ``stl10`` and ``cats_dogs``: their readers give the files' images
and classes in the files' order; which rows stay in training is then decided by ``data.imratio`` and
``data.split_seed`` (``dam.data.splits.imbalance``), in that order and with LibAUC's random stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import ImbalancedConfig
from dam.data.table import ImageTable, named
from dam.errors import UserError

LABEL = "positive"


@dataclass(frozen=True)
class Part:
    """Images of one file or folder: their ``split`` (``""`` if the dataset leaves it open), locators and class ids
    0, 1, ..., int64 (n,); ``metadata`` columns as long."""

    split: str
    images: Sequence[str]
    classes: np.ndarray
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)


def check_labels(cfg: ImbalancedConfig) -> None:
    """Raises ``UserError`` if ``data.labels`` asks for anything but the one label."""
    if list(cfg.labels) not in ([], [LABEL]):
        raise UserError(f"data.labels={list(cfg.labels)}: {cfg.name} has one label, {LABEL!r}; choose its classes with "
                        "data.positive_classes=[...].")  # fmt: skip


def two_classes(
    cfg: ImbalancedConfig, root: Path, parts: Sequence[Part], names: Sequence[str], notes: Sequence[str] = ()
) -> ImageTable:
    """The table of a benchmark whose classes are called ``names``: label ``positive``, class names as metadata.

    Positive are ``data.positive_classes`` (names or ids), else the upper half of the class ids, as in LibAUC. There
    are no patients: every image is its own.
    """
    check_labels(cfg)
    positive = positive_ids(cfg.positive_classes, names)
    frames = []
    for part in parts:
        images = list(part.images)
        frame = pd.DataFrame({"image": images, "patient": images, "study": images, "split": part.split})
        frame[LABEL] = np.isin(part.classes, positive).astype(np.float64)
        frame["class"] = np.array(names)[part.classes]
        for column, values in part.metadata.items():
            frame[column] = list(values)
        frames.append(frame)
    told = f"positive classes: {named([names[i] for i in positive])}"
    return ImageTable(pd.concat(frames, ignore_index=True), (LABEL,), root, cfg.name, (*notes, told))


def positive_ids(chosen: Sequence[str], names: Sequence[str]) -> list[int]:
    """Ids of the classes chosen by name or id, ascending; without a choice the upper half of all. ``UserError``."""
    if not chosen:
        return list(range(len(names) // 2, len(names)))
    ids = set()
    for item in map(str, chosen):
        if item in names:
            ids.add(list(names).index(item))
        elif item.isdecimal() and int(item) < len(names):
            ids.add(int(item))
        else:
            raise UserError(f"data.positive_classes: {item!r} is no class; the classes are {named(names)}.")
    if len(ids) == len(names):
        raise UserError("data.positive_classes names every class: leave at least one negative.")
    return sorted(ids)


def class_range(classes: np.ndarray, count: int, path: Path) -> None:
    """Raises ``UserError`` for a class id that has no name."""
    if classes.max(initial=0) >= count:
        raise UserError(f"{path} holds class {classes.max()}, but there are {count} class names.")


def fewer(found: int, published: int, what: str) -> list[str]:
    """A note where there is not the published number of images: subsets are read like the whole."""
    return [] if found == published else [f"{what} holds {found} images, the published one {published}"]
