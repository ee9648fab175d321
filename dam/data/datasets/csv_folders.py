"""One folder a class, on disk or inside an archive: ``{train,val,test}/CLASS/*`` or ``CLASS/*``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import CsvConfig
from dam.data.containers.archive import open_archive
from dam.data.datasets.csv_patients import SPLIT_WORDS, patients
from dam.data.datasets.csv_roots import Root, parse_root
from dam.data.datasets.tables import IMAGES, is_debris, subfolders
from dam.data.table import ImageTable, Naming, counted, named
from dam.errors import UserError

# With two classes and no data.positive_class, a folder called so is the negative one.
NEGATIVE_WORDS = frozenset({"normal", "negative", "neg", "benign", "healthy", "control", "controls", "0", "no"})


def read_folders(cfg: CsvConfig) -> ImageTable:
    """The class folders under ``data.root``. Raises ``UserError``."""
    root = parse_root(cfg.root, "the class folders, or name a table with data.csv=PATH")
    found, notes = images_below(root)
    splits = _layout(found)
    names = sorted({name for name, _ in splits.values()})
    if len(names) < 2:
        raise UserError(_too_few_classes(root, found))
    cfg = _with_positive_class(cfg, names)
    columns = [cfg.positive_class] if cfg.positive_class is not None else names
    wanted = tuple(cfg.labels) or tuple(columns)
    unknown = [label for label in wanted if label not in columns]
    if unknown:
        raise UserError(f"data.labels names {unknown}, but the labels from the folders are {named(columns)}.")
    frame = pd.DataFrame({"image": [*map(root.locators(root.folder), splits)]})
    notes.append(f"classes from folders: {named(names)}; label {named(wanted)}")
    frame["patient"] = patients(cfg, None, None, frame["image"], notes)
    frame["study"] = frame["image"]
    frame["split"] = [split for _, split in splits.values()]
    classes = np.array([name for name, _ in splits.values()])
    for label in wanted:
        frame[label] = (classes == label).astype(np.float64)
    if len(names) > 2:
        frame["class"] = classes
    return ImageTable(frame, wanted, root.folder, cfg.name, tuple(notes))


def images_below(root: Root) -> tuple[list[str], list[str]]:
    """Names of the images below the root, folder by folder in order, and notes."""
    if not root.archive:
        return _walk(root.path), []
    archive = open_archive(root.path)
    prefix = f"{root.inner}/" if root.inner else ""
    inside = [name[len(prefix) :] for name in (*archive.names, *archive.refused) if name.startswith(prefix)]
    hidden = [name for name, reason in archive.refused.items() if "leads out" in reason or "link" in reason]
    told = f"left out {counted(len(hidden), 'member')} of {root.path.name}, links or names that lead out of the archive"
    notes: list[str] = [Naming(told, f": {named(hidden, 3)}")] if hidden else []
    if archive.damage:
        raise UserError(f"{root.path}: {archive.damage}: fetch it again.")
    left_out = {name[len(prefix) :] for name in hidden}
    chosen = [name for name in inside if _is_image(name) and name not in left_out]
    return sorted(chosen, key=lambda name: (name.rpartition("/")[0], name)), notes


def _raise(error: OSError) -> None:
    raise error  # `os.walk` would pass over a folder that it may not read


def _walk(top: Path) -> list[str]:
    found = []
    for place, below, files in os.walk(top, onerror=_raise, followlinks=True):
        below[:] = sorted(b for b in below if not is_debris(b) and not b.startswith("."))
        relative = Path(place).relative_to(top).as_posix().removeprefix(".")
        found += [f"{relative}/{name}".removeprefix("/") for name in sorted(files) if _is_image(name)]
    return found


def _is_image(name: str) -> bool:
    parts = name.split("/")
    return name.lower().endswith(IMAGES) and not any(is_debris(part) or part.startswith(".") for part in parts)


def _layout(found: list[str]) -> dict[str, tuple[str, str]]:
    """Class and split of each image that lies in a class folder.

    Archives often unpack into a folder of their own name, so single folders are entered, two levels at most.
    """
    depth = 0
    for _ in range(3):
        tops = {parts[depth] for name in found if len(parts := name.split("/")) > depth + 1}
        if any(top.lower() in SPLIT_WORDS for top in tops):
            return _classes(found, depth + 1)
        if len(tops) != 1:
            break
        depth += 1
    else:
        depth -= 1
    return _classes(found, depth)


def _classes(found: list[str], depth: int) -> dict[str, tuple[str, str]]:
    """``depth`` is that of the class folders; where splits are above them, other folders beside those are no split."""
    placed = {}
    for name in found:
        parts = name.split("/")
        if len(parts) < depth + 2:
            continue
        above = parts[depth - 1].lower() if depth else ""
        placed[name] = (parts[depth], SPLIT_WORDS.get(above, ""))
    splits = {split for _, split in placed.values()}
    return {name: place for name, place in placed.items() if place[1] or splits == {""}}


def _too_few_classes(root: Root, images: list[str]) -> str:
    """What was found instead of at least two class folders."""
    top = root.shown
    holders = sorted({name.rpartition("/")[0] for name in images})
    if not images:
        found = f"data.root={top} holds no image ({', '.join(IMAGES[:3])}, ...)"
    elif holders == [""]:
        found = f"data.root={top} holds {counted(len(images), 'image')} and no class folder"
    else:
        where = f"{counted(len(holders), 'folder')} ({named(holders, 4)})"
        found = f"data.root={top} holds {counted(len(images), 'image')} in {where}, of fewer than two classes"
    beside = [] if root.archive else [f.name for f in subfolders(root.path.parent) if f != root.path]
    above = (
        f", perhaps {root.path.parent} (it also holds {named(beside, 3)})" if images and 0 < len(beside) < 20 else ""
    )
    return (
        f"{found}; expected {{train,val,test}}/CLASS/* or CLASS/* with at least two classes. Set data.root to the "
        f"folder that holds them{above}, or name a table with data.csv=PATH."
    )


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
