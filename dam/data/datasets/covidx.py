"""COVIDx8B (Pavlova et al. 2022; github lindawangg/COVID-Net), and the COVIDx lists of other versions.

A list names patient, file, class and source of an image, separated by spaces, and leaves out its folder. Patient names
may hold spaces and the source may be absent, so lines are read from their end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import CovidxConfig
from dam.data.datasets.tables import find_table, folders, inside, is_debris, root_folder
from dam.data.datasets.text_tables import read_text
from dam.data.table import ImageTable, Naming, counted, named
from dam.errors import UserError

LABEL = "COVID-19"
CLASSES = {"negative": 0.0, "positive": 1.0, "normal": 0.0, "pneumonia": 0.0, "covid-19": 1.0}
OTHER_CLASSES = frozenset({"level1", "level2"})  # COVIDx severity
DEPTH = 2
# Positives and lines of the training list, lines of the test list, as counted in COVID-Net's labels/.
VERSIONS = {
    (2158, 15952, 400): "8B",
    (2158, 15599, 400): "8A",
    (1670, 15464, 200): "7B",
    (16490, 30482, 400): "9B",
}


@dataclass(frozen=True)
class _Line:
    patient: str
    file: str
    word: str  # class, in small letters
    source: str


def read(cfg: CovidxConfig) -> ImageTable:
    """The lists named by ``data.train_list`` and ``data.test_list``, else those found under ``data.root`` (train.txt or
    train_COVIDx8B.txt, beside the images or in labels/, also ``.gz``), over the images in train/ and test/.

    One label, ``COVID-19``: positive against negative, or COVID-19 against normal and pneumonia. A patient is source
    and id; ``source`` and, for three classes, ``class`` are metadata. Raises ``UserError``.
    """
    root = root_folder(cfg.root, "train/, test/ and the lists of COVIDx8B")
    if list(cfg.labels) not in ([], [LABEL]):
        raise UserError(f"data.labels={list(cfg.labels)}: {cfg.name} has one label, {LABEL!r}.")
    lists = _lists(cfg, root)
    parts, notes = [], [f"{path.name} is the {split} list" for split, path in lists.items()]
    for split, path in lists.items():
        lines = _parse(path)
        parts.append(_part(lines, split, _image_folder(root, split, lines, path), root, path))
    frame = pd.concat(parts, ignore_index=True)
    if frame["class"].isin(["negative", "positive"]).all():
        frame = frame.drop(columns="class")
    notes += [_version(frame), _shared(frame), _lettered(frame), *_confounded(frame)]
    if "test" not in lists:
        notes.append("there is no test list")
    return ImageTable(frame, (LABEL,), root, cfg.name, tuple(n for n in notes if n))


# ---------------------------------------------------------------- finding


def _lists(cfg: CovidxConfig, root: Path) -> dict[str, Path]:
    """The list of each split that has one, train first."""
    given = {"train": cfg.train_list, "test": cfg.test_list}
    found = {split: find_table(name, root, f"data.{split}_list") for split, name in given.items() if name is not None}
    if "train" not in found:
        found["train"] = _train_list(root)
    folder, name = found["train"].parent, found["train"].name
    for split in ("val", "test"):  # the names differ by this word only
        beside = folder / name.replace("train", split, 1)
        if split not in found and name.startswith("train") and beside.is_file():
            found[split] = beside
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _train_list(root: Path) -> Path:
    others: list[Path] = []
    for folder in folders(root, DEPTH):
        for stem in ("train", "train_COVIDx8B"):
            for name in (f"{stem}.txt", f"{stem}.txt.gz"):
                if (folder / name).is_file():
                    return folder / name
        others += sorted(p for p in folder.glob("train_COVIDx*.txt*") if p.is_file() and not is_debris(p.name))
    if len(others) == 1:
        return others[0]
    if others:
        raise UserError(
            f"No train_COVIDx8B.txt was found under data.root={root}, but {counted(len(others), 'other list')}: choose "
            f"one with data.train_list={others[0].relative_to(root)} (also {named([p.name for p in others[1:]], 4)})."
        )
    raise UserError(
        f"No train.txt or train_COVIDx8B.txt was found under data.root={root} (searched {DEPTH} levels): give the "
        "folder that holds train/, test/ and the lists, or name them with data.train_list=PATH data.test_list=PATH."
    )


def _image_folder(root: Path, split: str, lines: Sequence[_Line], path: Path) -> Path:
    """The folder whose ``train`` (or ``test``) holds images of a list, the list's own first."""
    first = [path.parent] if path.is_relative_to(root) else []
    for folder in [*first, *folders(root, DEPTH)]:
        on_disk = _names(folder / split)
        if any(line.file.lower() in on_disk for line in lines):
            return folder
    return root


def _names(folder: Path) -> dict[str, str]:
    """File names of a folder by their small letters; the names themselves too, so that an exact one comes first."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not is_debris(entry.name))
    return {name.lower(): name for name in names} | {name: name for name in names}


# ---------------------------------------------------------------- lines


def _parse(path: Path) -> list[_Line]:
    lines = []
    for row, text in enumerate(read_text(path).splitlines(), start=1):
        words = text.split()
        if words:
            lines.append(_line(words, path, row))
    if not lines:
        raise UserError(f"{path} is empty: a line of it is `patient file class source`.")
    return lines


def _line(words: list[str], path: Path, row: int) -> _Line:
    # Without a source the class comes last; the source itself is never a class word.
    sourceless = words[-1].lower() in CLASSES
    place = len(words) - (1 if sourceless else 2)
    word = words[place].lower() if place >= 0 else ""
    if word not in CLASSES or place < 2:
        severity = word in OTHER_CLASSES or words[-1].lower() in OTHER_CLASSES
        why = "is of COVIDx's severity lists, which hold no negatives" if severity else (
            "is not `patient file class source`, where the class is negative or positive (or normal, pneumonia, "
            "COVID-19)")  # fmt: skip
        raise UserError(f"{path}, row {row}: {' '.join(words)[:80]!r} {why}: give a COVIDx list.")
    return _Line(" ".join(words[: place - 1]), words[place - 1], word, "" if sourceless else words[-1])


def _part(lines: Sequence[_Line], split: str, images: Path, root: Path, path: Path) -> pd.DataFrame:
    on_disk = _names(images / split)
    files = [on_disk.get(line.file) or on_disk.get(line.file.lower()) or line.file for line in lines]
    prefix = (images / split).relative_to(root).as_posix()
    located = inside([f"{prefix}/{file}" for file in files], root, path)
    return pd.DataFrame(
        {
            "image": located,
            "patient": [f"{line.source}/{line.patient}" if line.source else line.patient for line in lines],
            "study": located,
            "split": split,
            LABEL: np.array([CLASSES[line.word] for line in lines]),
            "source": [line.source for line in lines],
            "class": [line.word for line in lines],
        }
    )


# ---------------------------------------------------------------- what a reader should know


def _version(frame: pd.DataFrame) -> str:
    train, test = frame[frame["split"] == "train"], frame[frame["split"] == "test"]
    positives = int(train[LABEL].sum())
    name = VERSIONS.get((positives, len(train), len(test)))
    if name == "8B":
        return "the lists are those of COVIDx8B"
    if name is not None:
        return f"the lists are those of COVIDx{name}, not COVIDx8B: results are not comparable"
    return (
        f"{len(train)} training lines ({positives} positive) and {len(test)} test lines are no COVIDx release known "
        "here (8B has 15952, 2158 and 400)"
    )


def _shared(frame: pd.DataFrame) -> str:
    train, test = (set(frame["patient"][frame["split"] == split]) for split in ("train", "test"))
    if not test:
        return ""
    both = sorted(train & test)
    if not both:
        return "no patient is in both the training and test list"
    return Naming("patients in both lists", f": {named(both, 5)}")


def _lettered(frame: pd.DataFrame) -> str:
    """A note where ids of training and test differ in a last letter only, as COVID-00015a and COVID-00015b do."""
    stems = frame["patient"].str.replace(r"(?<=\d)[a-z]$", "", regex=True)
    test = frame["split"] == "test"
    shared = set(stems[test]) & set(stems[~test])
    alike = sorted(stem for stem in shared if frame["patient"][stems == stem].nunique() > 1)
    if not alike:
        return ""
    told = f"{counted(len(alike), 'id')} of training and test with a last letter that differs, perhaps one patient each"
    return Naming(told, f": {named(alike, 5)}")


def _confounded(frame: pd.DataFrame) -> list[str]:
    """A note where the source alone tells the class of every test image."""
    test = frame[(frame["split"] == "test") & (frame["source"] != "")]
    shares = test.groupby("source")[LABEL].mean()
    if len(shares) < 2 or not shares.isin([0.0, 1.0]).all():
        return []
    told = ", ".join(f"{source} {'positive' if share else 'negative'}" for source, share in shares.items())
    return [f"in test the source alone tells the class ({told}): a high AUC there may mean little"]
