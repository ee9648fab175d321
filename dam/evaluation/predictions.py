"""The predictions table: one row an image and label, one score column a model; read, checked, merged to units.

It is the only thing evaluation needs, so it judges the predictions of any tool. In memory it is wide, (images, labels).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dam.errors import UserError, in_a_line
from dam.evaluation.auc import Array
from dam.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("image", "patient", "study", "label", "target")
UNITS = ("image", "study", "patient")
MERGES = ("mean", "max")
MEAN = "mean"  # the row of the macro mean in every table, so no label may be called so

Names = NDArray[np.object_]


@dataclass(frozen=True)
class Predictions:
    """Scores of one or more models on N images and K labels.

    ``images``, ``patients``, ``studies``: (N,) strings, patient and study "" where unknown. ``targets``: (N, K) of 0, 1
    or NaN (unknown). ``scores``: model -> (N, K) float64, higher = more positive; a column that is NaN throughout is a
    label this model does not have.
    """

    images: Names
    patients: Names
    studies: Names
    labels: tuple[str, ...]
    targets: Array
    scores: dict[str, Array]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the score columns, in the table's order."""
        return tuple(self.scores)

    def with_scores(self, model: str, scores: ArrayLike) -> Predictions:
        """The same table with one more (or a replaced) model; scores (N, K)."""
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != self.targets.shape:
            raise ValueError(f"scores of {model} have shape {values.shape}, the table has {self.targets.shape}")
        return replace(self, scores={**self.scores, model: values})


@dataclass(frozen=True)
class Units:
    """What is judged: U images, studies or patients. Fields as in ``Predictions``, with patients as codes."""

    unit: str
    merge: str
    labels: tuple[str, ...]
    patients: NDArray[np.intp]  # (U,) codes 0..; a unit of unknown patient has a code of its own
    targets: Array  # (U, K)
    scores: dict[str, Array]  # model -> (U, K)
    images: int  # how many images went in
    notes: tuple[str, ...] = field(default=())


def make_predictions(
    images: ArrayLike,
    labels: tuple[str, ...],
    targets: ArrayLike,
    scores: Mapping[str, ArrayLike],
    patients: ArrayLike | None = None,
    studies: ArrayLike | None = None,
) -> Predictions:
    """A checked table from arrays: images (N,), targets (N, K), scores model -> (N, K); blank patients when None.

    Raises ``UserError`` as ``read_predictions`` does, naming image and label.
    """
    names = _names(images)
    blank = _names(np.full(len(names), ""))
    table = Predictions(
        names,
        blank if patients is None else _names(patients),
        blank if studies is None else _names(studies),
        labels,
        np.asarray(targets, dtype=np.float64),
        {model: np.asarray(values, dtype=np.float64) for model, values in scores.items()},
    )
    shape = (len(names), len(labels))
    for what, values in {"targets": table.targets, **table.scores}.items():
        if values.shape != shape:
            raise ValueError(f"{what} have shape {values.shape}, but there are {shape[0]} images and {shape[1]} labels")
    return from_frame(to_frame(table, all_rows=True), "the predictions")


def read_predictions(path: Path | str) -> Predictions:
    """Read ``image,patient,study,label,target,<model columns>``; every float comes back to the last bit.

    Raises ``UserError`` naming file and line for: missing columns, no model column, targets other than 0, 1 or blank,
    scores that are no finite number (a model's column may be blank for a whole label only: it does not have it),
    duplicated (image, label) rows, an image with two patients or studies.
    """
    import pandas as pd

    path = Path(path)
    try:
        # As text: a patient "007" stays so, and numpy parses floats to the last bit, which pandas 2 does not.
        frame = pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no predictions file {path}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a CSV table ({in_a_line(error)}); put back a copy of it") from error
    return from_frame(frame, str(path))


def write_predictions(path: Path | str, table: Predictions) -> None:
    """Write the table atomically as CSV, floats in full precision, unknown targets blank."""
    with atomic_path(path) as temporary:
        to_frame(table).to_csv(temporary, index=False, lineterminator="\n")


def to_frame(table: Predictions, all_rows: bool = False) -> pd.DataFrame:
    """Long form: one row an image and label; rows with neither a known target nor a score are left out."""
    import pandas as pd

    n, k = table.targets.shape
    columns: dict[str, object] = {
        "image": np.repeat(table.images, k),
        "patient": np.repeat(table.patients, k),
        "study": np.repeat(table.studies, k),
        "label": np.tile(np.array(table.labels, dtype=object), n),
        "target": table.targets.ravel(),
    }
    columns |= {model: values.ravel() for model, values in table.scores.items()}
    frame = pd.DataFrame(columns)
    if all_rows:
        return frame
    known = frame[["target", *table.models]].notna().any(axis=1)
    # 0 and 1 rather than 0.0 and 1.0 in the file
    return frame[known].reset_index(drop=True).astype({"target": "Int8"})


def from_frame(frame: pd.DataFrame, source: str) -> Predictions:
    """Check the long form and make it wide; ``source`` names the table in errors (see ``read_predictions``)."""
    import pandas as pd

    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        raise UserError(
            f"{source} has no column {', '.join(missing)}; a predictions table has {', '.join(COLUMNS)} and one score "
            f"column a model (found: {', '.join(map(str, frame.columns)) or 'none'})"
        )
    models = [str(c) for c in frame.columns if c not in COLUMNS]
    if not models:
        raise UserError(f"{source} has no score column: add one column a model after {', '.join(COLUMNS)}")
    if not len(frame):
        raise UserError(f"{source} has no rows: there is nothing to judge")
    image, images = pd.factorize(frame["image"])
    label, labels = pd.factorize(frame["label"])
    _check_names(frame, source, labels, image, label)
    values = {c: _numbers(frame, source, c) for c in ("target", *models)}
    _check_targets(frame, source, values["target"])
    for model in models:
        _check_scores(frame, source, model, values[model], label)
    first = np.empty(len(images), dtype=np.intp)
    first[image[::-1]] = np.arange(len(frame))[::-1]
    owners = {c: _owner(frame, source, c, image, first) for c in ("patient", "study")}
    wide = {}
    for name, column in values.items():
        wide[name] = np.full((len(images), len(labels)), np.nan)
        wide[name][image, label] = column
    targets = wide.pop("target")
    return Predictions(_names(images), owners["patient"], owners["study"], tuple(map(str, labels)), targets, wide)


def merge_units(table: Predictions, unit: str = "image", merge: str = "mean") -> Units:
    """Merge images to what is judged: ``unit`` image, study (within its patient) or patient; scores by mean or max.

    A unit's target is the largest known target of its images, so one positive image makes it positive; how often
    images disagreed is in ``notes``. Images without a study (or patient) stay units of their own. A unit's scores
    merge all its images, also those whose own target is unknown.
    """
    if unit not in UNITS or merge not in MERGES:
        raise ValueError(f"unit is one of {', '.join(UNITS)} and merge one of {', '.join(MERGES)}, not {unit}, {merge}")
    n = len(table.images)
    patients = _codes([table.patients], table.patients == "")
    if unit == "image":
        return Units(unit, merge, table.labels, patients, table.targets, table.scores, n)
    blank = (table.studies if unit == "study" else table.patients) == ""
    codes = unit_of_images(table, unit)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(codes[order]) != 0))
    highest = _reduce(table.targets, order, starts, "max")
    notes = []
    if blank.any():
        notes.append(f"{int(blank.sum())} images have no {unit}: each is judged on its own")
    disagree = np.sum(highest != -_reduce(-table.targets, order, starts, "max"), axis=0) - np.isnan(highest).sum(axis=0)
    for name, count in zip(table.labels, disagree, strict=True):
        if count:
            plural = "study has" if unit == "study" else "patient has"
            if count > 1:
                plural = "studies have" if unit == "study" else "patients have"
            notes.append(f"{name}: {count} {plural} positive and negative images and count as positive")
    scores = {model: _reduce(values, order, starts, merge) for model, values in table.scores.items()}
    first = order[starts]
    return Units(unit, merge, table.labels, patients[first], highest, scores, n, tuple(notes))


def unit_of_images(table: Predictions, unit: str) -> NDArray[np.intp]:
    """Which unit each image (N,) belongs to: the row of ``merge_units``' tables."""
    if unit == "image":
        return np.arange(len(table.images))
    if unit == "study":
        return _codes([table.patients, table.studies], table.studies == "")
    return _codes([table.patients], table.patients == "")


# ---------------------------------------------------------------- checks


def _line(row: int) -> str:
    return f"line {row + 2}"  # the header is line 1


def _names(values: object) -> Names:
    return np.array([str(v) for v in np.asarray(values, dtype=object)], dtype=object)


def _check_names(
    frame: pd.DataFrame, source: str, labels: pd.Index, image: NDArray[np.intp], label: NDArray[np.intp]
) -> None:
    for column in ("image", "label"):
        empty = ((frame[column] == "") | frame[column].isna()).to_numpy()
        if empty.any():
            raise UserError(f"{source}, {_line(int(np.argmax(empty)))}: the {column} is blank")
    if MEAN in labels:
        raise UserError(f'{source}: no label may be called "{MEAN}", the name of the mean over labels; rename it')
    repeated = frame[["image"]].assign(key=image * len(labels) + label)["key"].duplicated().to_numpy()
    if repeated.any():
        row = int(np.argmax(repeated))
        raise UserError(
            f"{source}, {_line(row)}: image {frame['image'].iloc[row]} and label {frame['label'].iloc[row]} "
            f"come a second time ({int(repeated.sum())} such rows); one row an image and label is needed"
        )


def _numbers(frame: pd.DataFrame, source: str, column: str) -> Array:
    """A column of numbers or of their text as float64, blank as NaN; anything else that is not finite is an error."""
    values = frame[column].to_numpy(dtype=object, na_value="")
    blank = values == ""
    try:
        numbers = np.where(blank, "nan", values).astype(np.float64)
        bad = ~np.isfinite(numbers) & ~blank
    except ValueError:
        bad = np.array([not _is_number(v) for v in values]) & ~blank
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{source}, {_line(row)}, column {column}: {values[row]!s} is no finite number "
            f"(image {frame['image'].iloc[row]}, label {frame['label'].iloc[row]})"
        )
    return np.asarray(numbers, dtype=np.float64)


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(str(value)))
    except ValueError:
        return False


def _check_targets(frame: pd.DataFrame, source: str, targets: Array) -> None:
    wrong = ~(np.isnan(targets) | (targets == 0) | (targets == 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"{source}, {_line(row)}: target {targets[row]:g} of image {frame['image'].iloc[row]}, label "
            f"{frame['label'].iloc[row]}; a target is 0, 1 or blank (unknown)"
        )


def _check_scores(frame: pd.DataFrame, source: str, model: str, scores: Array, label: NDArray[np.intp]) -> None:
    """NaN is allowed for whole labels only, and not for all of them."""
    missing = np.isnan(scores)
    if not missing.any():
        return
    if missing.all():
        raise UserError(f"{source}: column {model} holds no score at all; leave the column out")
    scored = np.bincount(label, weights=~missing) > 0
    bad = missing & scored[label]
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{source}, {_line(row)}, column {model}: image {frame['image'].iloc[row]} has no score (blank or NaN) for "
            f"label {frame['label'].iloc[row]} ({int(bad.sum())} such rows); a score that is missing has no rank"
        )


def _owner(frame: pd.DataFrame, source: str, column: str, image: NDArray[np.intp], first: NDArray[np.intp]) -> Names:
    import pandas as pd

    names = frame[column].fillna("").astype(str)
    codes, _ = pd.factorize(names)
    differs = codes != codes[first][image]
    if differs.any():
        row = int(np.argmax(differs))
        raise UserError(f"{source}, {_line(row)}: image {frame['image'].iloc[row]} belongs to two values of {column}")
    return names.to_numpy(dtype=object)[first]


# ---------------------------------------------------------------- merging


def _codes(keys: list[Names], alone: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Codes 0.. of equal keys in order of first appearance; rows marked ``alone`` share theirs with nobody."""
    import pandas as pd

    codes = np.zeros(len(alone), dtype=np.int64)
    for key in keys:
        part, names = pd.factorize(key)
        codes, _ = pd.factorize(codes * (len(names) + 1) + part)
    codes = np.where(alone, len(alone) + np.arange(len(alone)), codes)
    result, _ = pd.factorize(codes)
    return np.asarray(result, dtype=np.intp)


def _reduce(values: Array, order: NDArray[np.intp], starts: NDArray[np.intp], how: str) -> Array:
    """Mean or max of the (N, K) rows of each group, NaN cells left out (and NaN where nothing is left)."""
    ordered = values[order]
    known = ~np.isnan(ordered)
    count = np.add.reduceat(known.astype(np.int64), starts, axis=0)
    if how == "max":
        result = np.maximum.reduceat(np.where(known, ordered, -np.inf), starts, axis=0)
    else:
        result = np.add.reduceat(np.where(known, ordered, 0.0), starts, axis=0) / np.maximum(count, 1)
    return np.asarray(np.where(count > 0, result, np.nan), dtype=np.float64)
