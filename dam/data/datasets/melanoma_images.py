"""Where the images of a dermoscopy set are: JPEG files, DICOM files or TFRecords, found by image name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from dam.data.datasets.tables import folders, is_debris
from dam.data.table import counted, named
from dam.errors import UserError

SUFFIXES = {"jpeg": (".jpg", ".jpeg", ".png"), "dicom": (".dcm", ".dicom")}
DEPTH = 2
_SHARD = re.compile(r"train(\d+)-(\d+)\.tfrec(?:ords?)?$")
Kind = Literal["auto", "jpeg", "dicom", "tfrecord"]


@dataclass(frozen=True)
class Images:
    """Locators by image name, relative to the root; of TFRecords also the number of the file and the target."""

    kind: str
    folder: str  # where they are, for a word about those that are absent
    locators: dict[str, str]
    groups: dict[str, int] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def locate(self, names: pd.Series) -> list[str]:
        """Locator of each name; where there is none a path that does not exist, so that it is named as missing."""
        suffix = ".dcm" if self.kind == "dicom" else ".jpg"
        prefix = "" if self.folder == "." else f"{self.folder}/"
        return [self.locators.get(plain(name)) or f"{prefix}{name}{suffix}" for name in names]


def plain(name: str) -> str:
    """An image's name without what ISIC 2019 puts after it."""
    return name.removesuffix("_downsampled")


def find_images(base: Path, root: Path, kind: Kind, wanted: Collection[str], skip: bool) -> Images | None:
    """Images below ``base`` of which at least one is ``wanted`` (names as ``plain`` gives them; empty: any), or None.

    Looked for in jpeg/train, train, the folder itself, then two levels down; ``auto`` takes JPEG files before TFRecords
    before DICOM. With ``skip`` damaged records are left out. Raises ``UserError`` where two folders would do.
    """
    for one in ("jpeg", "tfrecord", "dicom") if kind == "auto" else (kind,):
        found = _records(base, root, wanted, skip) if one == "tfrecord" else _files(base, root, one, wanted)
        if found is not None:
            return found
    return None


def relative(path: Path, root: Path) -> str:
    """A path as a locator: relative to the root, also of a folder beside it."""
    return os.path.relpath(path, root).replace(os.sep, "/")


# ---------------------------------------------------------------- files


def _files(base: Path, root: Path, kind: str, wanted: Collection[str]) -> Images | None:
    usual = [base / "jpeg" / "train", base / "train", base] if kind == "jpeg" else [base / "train", base]
    for folder in usual:
        names = _stems(folder, SUFFIXES[kind], wanted)
        if names:
            return _images(kind, folder, names, root)
    found = [(folder, names) for folder in folders(base, DEPTH) if (names := _stems(folder, SUFFIXES[kind], wanted))]
    if len(found) > 1:
        places = named([relative(folder, root) for folder, _ in found], 5)
        raise UserError(
            f"Images of this set are in several folders below {base} ({places}): set data.root (or the entry of "
            "data.external) to the one to use, and data.csv to its table if that lies above it."
        )
    return _images(kind, *found[0], root) if found else None


def _images(kind: str, folder: Path, names: dict[str, str], root: Path) -> Images:
    place = relative(folder, root)
    prefix = "" if place == "." else f"{place}/"
    return Images(kind, place, {stem: prefix + name for stem, name in names.items()})


def _stems(folder: Path, suffixes: tuple[str, ...], wanted: Collection[str]) -> dict[str, str]:
    """File names by image name, of a folder that holds a wanted one."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(suffixes) and not is_debris(e.name)]
    stems = {plain(name.rpartition(".")[0]): name for name in sorted(names)}
    return stems if any(stem in wanted for stem in stems) else {}


# ---------------------------------------------------------------- TFRecords


def _records(base: Path, root: Path, wanted: Collection[str], skip: bool) -> Images | None:
    for folder in dict.fromkeys([base, base / "tfrecords", *folders(base, DEPTH)]):
        shards = _shards(folder)
        if shards:
            found = _read_shards(shards, root, skip)
            if not wanted or any(name in wanted for name in found.locators):
                return found
    return None


def _shards(folder: Path) -> list[tuple[int, int, Path]]:
    """Number, stated count of records and path of the training files of a folder."""
    if not folder.is_dir():
        return []
    found = ((_SHARD.match(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), int(match[2]), path) for match, path in found if match)


def _read_shards(shards: list[tuple[int, int, Path]], root: Path, skip: bool) -> Images:
    from dam.data.containers.tfrecord import TFRecordFile

    images = Images("tfrecord", relative(shards[0][2].parent, root), {})
    notes = []
    for group, stated, path in shards:
        place, read = relative(path, root), 0
        records = TFRecordFile(path).scan("image_name", "target", damaged="skip" if skip else "refuse")
        for number, features in enumerate(records):
            name = _name(features.get("image_name", []), path, number, skip)
            if not name:
                continue
            read += 1
            images.locators[name] = f"{place}::{number}"
            images.groups[name] = group
            target = _target(features.get("target", []), path, number, skip)
            if target is not None:
                images.targets[name] = target
        if read != stated:
            told = f"{place} holds {counted(read, 'image')}, but its name says {stated}"
            if not skip:
                raise UserError(f"{told}: get it again, or go on without the rest with data.on_bad_image=skip.")
            notes.append(told)
    return Images("tfrecord", images.folder, images.locators, images.groups, images.targets, tuple(notes))


def _target(values: list[bytes] | list[int] | list[float], path: Path, number: int, skip: bool) -> int | None:
    if not values:
        return None
    if len(values) == 1 and values[0] in (0, 1):
        return int(values[0])
    if skip:
        return None
    raise UserError(f"{path}, record {number}, has a target that is neither 0 nor 1: the file is damaged, or another.")


def _name(values: list[bytes] | list[int] | list[float], path: Path, number: int, skip: bool) -> str:
    if len(values) == 1 and isinstance(values[0], bytes):
        return plain(values[0].decode("utf-8", "replace"))
    if skip:
        return ""
    raise UserError(f"{path}, record {number}, has no feature image_name: these are no TFRecords of the melanoma set.")
