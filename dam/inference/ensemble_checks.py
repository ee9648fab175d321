"""Which runs may be mixed: those judged on the same images and targets, none of them trained on these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dam.errors import UserError
from dam.evaluation.predictions import Predictions
from dam.report.run_files import ANONYMIZED

if TYPE_CHECKING:
    from dam.inference.ensemble_make import Source

NAMES = {"val": "validation", "test": "test"}


def named(items: Sequence[str], most: int = 3) -> str:
    """The first of a list: "a, b, c and 4 more"."""
    more = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {more} more" if more > 0 else "")


def check_same_images(sources: Sequence[Source]) -> list[Source]:
    """The runs with their tables in the order of the first run's images.

    Raises ``UserError`` if their validation or test images, or the targets of these, differ.
    """
    first = sources[0]
    result = [first]
    for source in sources[1:]:
        tables = {}
        for split, what in NAMES.items():
            ours, theirs = first.tables.get(split), source.tables.get(split)
            if ours is None and theirs is None:
                continue
            if ours is None or theirs is None:
                has, lacks = (first, source) if theirs is None else (source, first)
                raise UserError(f"{has.path} has {what} predictions and {lacks.path} has none: these runs were "
                                "not made on the same splits")  # fmt: skip
            _check_images(first, source, split)
            order = {image: row for row, image in enumerate(theirs.images)}
            tables[split] = _taken(theirs, np.array([order[image] for image in ours.images]))
            _check_targets(first, replace(source, tables=tables), split)
        result.append(replace(source, tables=tables))
    return result


def _taken(table: Predictions, rows: np.ndarray) -> Predictions:
    scores = {model: values[rows] for model, values in table.scores.items()}
    return Predictions(
        table.images[rows], table.patients[rows], table.studies[rows], table.labels, table.targets[rows], scores
    )


def _check_images(first: Source, source: Source, split: str) -> None:
    ours, theirs = set(first.tables[split].images), set(source.tables[split].images)
    if ours == theirs:
        return
    folds = {first.config.data.fold, source.config.data.fold}
    what = f"{first.path} and {source.path} have different {NAMES[split]} images"
    parts = [
        f"{len(only)} in {who.path.name} only, such as {min(only)}"
        for who, only in ((first, ours - theirs), (source, theirs - ours))
        if only
    ]
    way = "train them with the same data and data.split_seed"
    if first.facts.get(ANONYMIZED) != source.facts.get(ANONYMIZED):
        way = "their names are not of one kind: train both with report.anonymize=true and the same key, or both without"
    elif split == "val" and folds - {None, "all"}:
        way = "they are folds of a cross-validation: train with data.fold=all, whose run is the mean of its folds and "
        way += "can be a member itself"
    raise UserError(f"{what} ({'; '.join(parts)}); {way}")


def _check_targets(first: Source, source: Source, split: str) -> None:
    ours, theirs = first.tables[split].targets, source.tables[split].targets
    differ = (ours != theirs) & ~(np.isnan(ours) & np.isnan(theirs))
    if not differ.any():
        return
    i, k = (int(n) for n in np.argwhere(differ)[0])
    table = first.tables[split]
    values = ["unknown" if np.isnan(t[i, k]) else f"{t[i, k]:g}" for t in (ours, theirs)]
    raise UserError(
        f"{first.path} and {source.path} have different {NAMES[split]} targets in {int(differ.sum())} places, such as "
        f"{table.labels[k]} of {table.images[i]} ({values[0]} and {values[1]}): train them with the same labels and "
        "label policy"
    )


def check_leaks(sources: Sequence[Source]) -> list[str]:
    """Refuse runs that were trained on images or patients that the ensemble is validated or tested on.

    A patient is known by any run's predictions/images.csv; one that has its image's own name is no known patient. In a
    cross-validation every validation score comes from a network that was not trained on that patient, so its training
    is compared with the test images alone. Notes instead where all runs say ``data.leakage=allow``.
    """
    every = pd.concat([source.images[["image", "patient"]] for source in sources]).drop_duplicates()
    owners = every[(every["patient"] != "") & (every["patient"] != every["image"])]
    allowed = all(source.config.data.leakage == "allow" for source in sources)
    notes = []
    for source in sources:
        splits = ("test",) if source.config.data.fold == "all" else ("val", "test")
        held = {str(image) for split in splits if split in source.tables for image in source.tables[split].images}
        seen = set(source.images["image"][source.images["split"] == "train"])
        patients = [set(owners["patient"][owners["image"].isin(images)]) for images in (seen, held)]
        for what, shared in (("image", seen & held), ("patient", patients[0] & patients[1])):
            if not shared:
                continue
            plural = what if len(shared) == 1 else f"{what}s"
            said = f"{source.path} was trained on {len(shared)} {plural} that the ensemble is "
            said += f"{'tested' if splits == ('test',) else 'validated or tested'} on (such as {min(shared)})"
            if not allowed:
                raise UserError(f"{said}: train all runs with the same data and data.split_seed")
            notes.append(f"{said}; allowed by data.leakage=allow")
    return notes
