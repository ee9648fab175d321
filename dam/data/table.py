"""The table of images that every dataset becomes, and the checks a table must pass before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from dam.errors import UserError

COLUMNS = ("image", "patient", "study", "split")
SPLITS = ("train", "val", "test")
EXTRA = "extra"  # external rows that only ever train; `splits.join_extra` makes them training rows after all cuts
UNCERTAIN = -1.0
NAMED = 10  # examples in a message


@dataclass(frozen=True)
class ImageTable:
    """One row an image.

    ``frame`` has a RangeIndex, the string columns ``image`` (a locator relative to ``root``: a file, or
    ``container::item``), ``patient``, ``study`` and ``split`` (``train``, ``val``, ``test``; empty while not yet
    assigned; ``extra`` for rows that only ever train), one float column a label (1, 0, NaN unknown, fractions soft, -1
    uncertain until the label policy has run), and metadata in the columns that remain. ``notes`` say, a line a step,
    what was done to how many rows. ``sources``: the text files it was read from, each with its SHA-256.
    """

    frame: pd.DataFrame
    labels: tuple[str, ...]
    root: Path
    name: str
    notes: tuple[str, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def metadata(self) -> tuple[str, ...]:
        """Names of the columns that are neither one of the four fixed ones nor a label."""
        return tuple(c for c in self.frame.columns if c not in COLUMNS and c not in self.labels)

    def with_frame(self, frame: pd.DataFrame, *notes: str) -> ImageTable:
        """The same table with other rows or values; each note tells what changed."""
        return replace(self, frame=frame.reset_index(drop=True), notes=self.notes + tuple(n for n in notes if n))

    def split(self, name: str) -> np.ndarray:
        """Positions of the rows of a split, int64, ascending."""
        return np.flatnonzero(self.frame["split"].to_numpy() == name)

    def targets(self, positions: np.ndarray | None = None) -> np.ndarray:
        """Label values, float32 (rows, labels); all rows, or those at ``positions``."""
        values = self.frame[list(self.labels)].to_numpy(dtype=np.float32)
        return values if positions is None else values[positions]

    def counts(self) -> pd.DataFrame:
        """One row a split and label: n, positives (targets of at least .5), negatives, unknown, and
        imratio = positives / known (NaN where nothing is known)."""
        rows = []
        for split in (*SPLITS, EXTRA, ""):
            positions = self.split(split)
            if split not in SPLITS and len(positions) == 0:
                continue
            values = self.targets(positions)
            known = ~np.isnan(values) & (values >= 0)
            positive = known & (values >= 0.5)
            for k, label in enumerate(self.labels):
                n_known, n_pos = int(known[:, k].sum()), int(positive[:, k].sum())
                rows.append(
                    {
                        "split": split,
                        "label": label,
                        "n": len(positions),
                        "positives": n_pos,
                        "negatives": n_known - n_pos,
                        "unknown": len(positions) - n_known,
                        "imratio": n_pos / n_known if n_known else float("nan"),
                    }
                )
        return pd.DataFrame(rows)


class Naming(str):
    """A note that names images, patients or studies; ``plain`` says the same without their names."""

    plain: str

    def __new__(cls, plain: str, names: str) -> Naming:
        note = super().__new__(cls, plain + names)
        note.plain = plain
        return note


def without_names(note: str, names: Collection[str]) -> str:
    """A note as it may be shown where nobody may be named: without any of ``names``."""
    plain = note.plain if isinstance(note, Naming) else note
    if any(len(name) > 3 and not name.isdecimal() and name in plain for name in names):
        return "a step whose note named images or patients"
    return plain


def check_rows(
    table: ImageTable, on_missing: Literal["refuse", "skip"] = "refuse", labelled: bool = True
) -> ImageTable:
    """Check a table as it was read: it has rows and labels, no image twice, label values that can be understood,
    and its files exist. With ``on_missing="skip"`` rows without a file are left out (and noted) unless all are.
    ``labelled=False``: it may be without labels.

    Raises ``UserError``.
    """
    _check_columns(table, labelled)
    _check_duplicates(table)
    _check_raw_values(table)
    return _check_files(table, on_missing)


def check(
    table: ImageTable,
    leakage: Literal["refuse", "allow"] = "refuse",
    validation: bool = True,
    labelled: bool = True,
) -> ImageTable:
    """Check a table that is ready for training: targets in [0, 1] or unknown, every row in a split, training and
    validation not empty and with both classes of every label, no patient in two splits (``extra`` counts as training).
    ``validation=False``: folds are still to be made of the training rows, so no validation rows are expected.
    ``labelled=False``: nothing will be learned from labels, so they and their classes may be missing.

    What is only worth knowing (no test rows, a class missing in test, patients shared under ``leakage="allow"``)
    becomes a note. Raises ``UserError``.
    """
    _check_columns(table, labelled)
    _check_targets(table)
    classes = _check_classes(table) if labelled else []
    notes = [*_check_splits(table, validation), *classes, *_check_patients(table, leakage)]
    return table.with_frame(table.frame, *notes)


def named(items: Sequence[object], limit: int = NAMED) -> str:
    """The first items joined by commas, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 row``, ``2 rows``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def _check_columns(table: ImageTable, labelled: bool) -> None:
    if labelled and table.name == "folder":
        raise UserError("data=folder has no labels, so nothing can be trained on it: it is for `dam pretrain`; use "
                        "data=csv for images with labels.")  # fmt: skip
    if labelled and not table.labels:
        raise UserError(
            f"The {table.name} table has no label column; its columns are {named(list(table.frame.columns), 30)}. "
            "Name the label columns with data.labels=[...]."
        )
    absent = [c for c in (*COLUMNS, *table.labels) if c not in table.frame.columns]
    if absent:
        raise UserError(f"The {table.name} table lacks the columns {named(absent)}.")
    if len(set(table.labels)) < len(table.labels):
        raise UserError(f"A label is named twice in data.labels={list(table.labels)}: name each once.")
    if len(table) == 0:
        raise UserError(f"No image was found for {table.name} under {table.root}: check data.root.")


def _check_duplicates(table: ImageTable) -> None:
    image = table.frame["image"]
    repeated = np.flatnonzero(image.duplicated().to_numpy())
    if len(repeated) == 0:
        return
    first = image.iloc[int(repeated[0])]
    rows = [int(i) + 1 for i in np.flatnonzero((image == first).to_numpy())]
    raise UserError(
        f"{counted(len(repeated), 'row')} of the {table.name} table repeat{'s' * (len(repeated) == 1)} an image that "
        f"another row has: {first} is in the data rows {named(rows, 5)}. Leave one row an image."
    )


def _check_raw_values(table: ImageTable) -> None:
    values = table.targets()
    bad = ~(np.isnan(values) | (values == UNCERTAIN) | ((values >= 0) & (values <= 1)))
    if bad.any():
        row, k = np.argwhere(bad)[0]
        raise UserError(
            f"Label {table.labels[k]!r} is {values[row, k]:g} for {table.frame['image'].iloc[row]} "
            f"(data row {row + 1}, one of {int(bad.sum())}): a target is 1, 0, a fraction between, "
            "-1 for uncertain, or blank."
        )
    for k, label in enumerate(table.labels):
        present = set(np.unique(values[~np.isnan(values[:, k]), k]).tolist())
        if present == {UNCERTAIN, 1.0}:
            raise UserError(
                f"Label {label!r} holds only -1 and 1; -1 means uncertain here. Write negatives as 0, "
                "or leave the label out of data.labels."
            )


def _check_files(table: ImageTable, on_missing: Literal["refuse", "skip"]) -> ImageTable:
    files = [image.split("::", 1)[0] for image in table.frame["image"]]
    root = str(table.root)
    exists = {file: os.path.exists(os.path.join(root, file)) for file in dict.fromkeys(files)}  # noqa: PTH110, PTH118
    present = np.array([exists[file] for file in files])
    if present.all():
        return table
    missing = table.frame["image"].to_numpy()[~present].tolist()
    if not present.any():
        raise UserError(
            f"None of the {counted(len(files), 'image')} of the {table.name} table is under {table.root} (the first is "
            f"{missing[0]}): data.root is probably another folder."
        )
    if on_missing == "skip":
        note = Naming(f"left out {counted(len(missing), 'row')} without a file", f": {named(missing)}")
        return table.with_frame(table.frame[present], note)
    raise UserError(
        f"{len(missing)} of the {counted(len(files), 'image')} of the {table.name} table "
        f"{'is' if len(missing) == 1 else 'are'} not under {table.root}: "
        f"{named(missing)}. Put them there, correct data.root, or leave them out with data.on_bad_image=skip."
    )


def _check_targets(table: ImageTable) -> None:
    values = table.targets()
    bad = ~(np.isnan(values) | ((values >= 0) & (values <= 1)))
    if bad.any():
        row, k = np.argwhere(bad)[0]
        raise UserError(
            f"The target of {table.labels[k]!r} is {values[row, k]:g} for {table.frame['image'].iloc[row]} "
            f"({counted(int(bad.sum()), 'such value')}), outside [0, 1]: choose a policy with "
            "data.uncertain.default=..."
        )


def _check_splits(table: ImageTable, validation: bool) -> list[str]:
    words = set(table.frame["split"].unique()) - {*SPLITS, EXTRA}
    if words:
        raise UserError(f"The split column holds {sorted(words)}; a split is one of {list(SPLITS)}.")
    patients = table.frame["patient"].nunique()
    has_test = len(table.split("test")) > 0
    for split, way_out in (
        ("train", "give some rows the split 'train'"),
        ("val", "set data.val_fraction=0.1 or give some rows the split 'val'"),
    ):
        if len(table.split(split)) or (split == "val" and not validation):
            continue
        few = f"it has {counted(patients, 'patient')}, each in one split; give more, or correct data.patient_column"
        told = few if patients < 2 + has_test else way_out
        raise UserError(f"The {table.name} table has no rows in the split {split!r}: {told}.")
    if not has_test:
        return ["no test rows: nothing will be reported on test (data.test_fraction=0.2 would cut some)"]
    return []


def _check_classes(table: ImageTable) -> list[str]:
    counts = table.counts()
    nowhere, faults, notes = [], [], []
    for row in counts[counts["n"] > 0].to_dict("records"):
        label, split = row["label"], row["split"]
        absent = [kind for kind in ("positive", "negative") if row[f"{kind}s"] == 0]
        if not absent:
            continue
        everywhere = counts[counts["label"] == label]
        gone = [kind for kind in absent if everywhere[f"{kind}s"].sum() == 0]
        text = f"has no {'known value' if len(absent) == 2 else absent[0]} in {split} ({counted(row['n'], 'image')})"
        if split == "test":
            notes.append(f"label {label!r} {text}: its test AUC is undefined")
        elif gone:
            nowhere.append(f"label {label!r} has no {gone[0]} at all ({counted(len(table), 'image')})")
        else:
            faults.append(f"label {label!r} {text}")
    if nowhere:
        raise UserError(
            f"AUC needs both classes, but {'; '.join(dict.fromkeys(nowhere))}. Check its column and what "
            "data.uncertain and data.blank make of it, or leave the label out with data.labels=[...]"
        )
    if faults:
        raise UserError(
            f"AUC needs both classes in training and validation, but {'; '.join(faults)}. Leave the label out with "
            "data.labels=[...], or give validation more patients (a larger data.val_fraction, or fewer "
            "data.folds)"
        )
    return notes


def _check_patients(table: ImageTable, leakage: Literal["refuse", "allow"]) -> list[str]:
    trained = table.frame["split"].replace(EXTRA, "train")
    pairs = table.frame[["patient"]].assign(split=trained).drop_duplicates()
    shared = pairs["patient"][pairs["patient"].duplicated()].unique().tolist()
    if not shared:
        return []
    splits = pairs["split"][pairs["patient"] == shared[0]].tolist()
    told = f"{counted(len(shared), 'patient')} {'is' if len(shared) == 1 else 'are'} in more than one split"
    if leakage == "allow":
        return [Naming(f"{told} (allowed by data.leakage=allow)", f": {named(shared, 5)}")]
    raise UserError(
        f"{told}: {named(shared, 5)} ({shared[0]} is in "
        f"{' and '.join(splits)}), so the result would flatter the model. Give each patient one split, "
        "or accept it with data.leakage=allow."
    )
