"""Predictions of any tool: a CSV table in long or wide form becomes a checked ``Predictions``.

Long: a row an image and label, columns ``label``, ``target`` and one score column a model. Wide: a row an image, a
target column a label and a score column a label and model. ``import_columns`` finds which column is what.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dam.errors import UserError
from dam.evaluation.auc import Array
from dam.evaluation.import_columns import Columns, TableForm, find_columns
from dam.evaluation.predictions import COLUMNS, MEAN, Names, Predictions, from_frame
from dam.evaluation.scale import as_logits

if TYPE_CHECKING:
    import pandas as pd

_DELIMITERS = (",", ";", "\t", "|")
_WORDS = {"true": "1", "false": "0", "nan": "", "na": "", "none": "", "null": ""}  # of targets; scores take none


@dataclass(frozen=True)
class Imported:
    """A foreign table, read.

    ``metadata``: one row an image (columns image, patient, study and what else the table says of it). ``notes``: how
    the table was understood, a sentence each. ``probabilities``: models whose scores were probabilities.
    """

    predictions: Predictions
    metadata: pd.DataFrame
    columns: Columns
    notes: tuple[str, ...]
    probabilities: tuple[str, ...]


def read_table(path: Path | str, form: TableForm, kind: str | Collection[str] = "auto") -> Imported:
    """Read and check a table; scores become logits (``scale.as_logits`` with ``kind``).

    Raises ``UserError`` of one sentence, naming file, line and column, for: no such file, no rows, columns missing or
    named twice, targets other than 0, 1, blank (true and false count as 1 and 0), scores that are no finite number, the
    same image and label twice, and no label with both classes.
    """
    path = Path(path)
    source = str(path)
    frame, delimiter = _read(path)
    columns = find_columns(frame, form, source)
    notes = [_understood(columns, delimiter)]
    read = _long if columns.layout == "long" else _wide
    table = read(frame, columns, source, notes)
    _check_classes(table, source)
    metadata = _metadata(frame, columns, table)
    table, said, turned = as_logits(table, kind, source)
    return Imported(table, metadata, columns, (*notes, *said), turned)


def add_metadata(imported: Imported, path: Path | str) -> Imported:
    """Add the columns of a second table, matched by ``image``, or else ``patient`` or ``study``, to the metadata."""
    source = str(path)
    frame, _ = _read(Path(path))
    metadata = imported.metadata
    shared = [c for c in ("image", "patient", "study") if c in frame.columns and (metadata[c] != "").any()]
    if not shared:
        raise UserError(
            f"{source} has no column image, patient or study to match it by (found: {', '.join(frame.columns[:12])})"
        )
    key = shared[0]
    rows = frame[frame[key] != ""].drop_duplicates()
    twice = rows[key][rows[key].duplicated()]
    if len(twice):
        raise UserError(f"{source}: {key} {twice.iloc[0]} comes with two different rows; leave one row a {key}")
    found = metadata[key].isin(rows[key])
    if not found.any():
        raise UserError(
            f"{source}: none of its {len(rows)} values of {key} is in the predictions (its first is "
            f"{rows[key].iloc[0]}, theirs {metadata[key].iloc[0]})"
        )
    new = [c for c in rows.columns if c not in (*COLUMNS, "split")]
    merged = metadata.drop(columns=[c for c in new if c in metadata]).merge(rows[[key, *new]], on=key, how="left")
    notes = [f"metadata {', '.join(new)} from {source}, matched by {key}"]
    if not found.all():
        notes.append(f"{int((~found).sum())} of {len(found)} images are not in {source}: their metadata is unknown")
    return Imported(imported.predictions, merged, imported.columns, (*imported.notes, *notes), imported.probabilities)


# ---------------------------------------------------------------- the file


def _read(path: Path) -> tuple[pd.DataFrame, str]:
    """All columns as text (an identifier "007" stays so), and the delimiter."""
    import pandas as pd

    header, delimiter = _header(path)
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two columns {twice!r}: rename one")
    try:
        frame = pd.read_csv(
            path, sep=delimiter, dtype="str", keep_default_na=False, encoding="utf-8-sig", low_memory=False
        )
    except (OSError, ValueError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as a CSV table: {' '.join(str(error).split())}") from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise UserError(f"{path}: its rows have more fields than its first line has columns")
    if not len(frame):
        raise UserError(f"{path} has a header and no rows: there is nothing to judge")
    frame.columns = pd.Index([str(c).strip() for c in frame.columns])
    return frame, delimiter


def _header(path: Path) -> tuple[list[str], str]:
    """The names of the columns, and the delimiter that gives most of them."""
    import gzip

    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"there is no file {path}{hint or '; give a table of predictions (CSV)'}")
    if path.is_dir():
        raise UserError(f"{path} is a directory, and a table of predictions is a CSV file")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            line = file.readline(1 << 20)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); give a CSV file in UTF-8") from error
    if not line.strip():
        raise UserError(f"{path} is empty; a table of predictions has a header and a row an image")
    delimiter = max(_DELIMITERS, key=line.count)
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter))], delimiter


def _understood(columns: Columns, delimiter: str) -> str:
    parts = [f"{columns.layout} form"]
    if columns.layout == "long":
        parts.append(f"labels in {columns.label}, targets in {columns.targets['']}")
    else:
        parts.append(f"{len(columns.targets)} label{'s' * (len(columns.targets) != 1)}")
    parts.append(f"scores of {', '.join(columns.scores)}")
    parts += [f"{what} in {c}" for what in ("image", "patient", "study") if (c := getattr(columns, what))]
    unknown = [what for what in ("image", "patient") if getattr(columns, what) is None]
    if unknown:
        parts.append(f"no column of {' or '.join(unknown)}s")
    if delimiter != ",":
        parts.append(f"separated by {'tab' if delimiter == chr(9) else delimiter}")
    told = ", ".join(parts)
    return f"{told}; guessed: {'; '.join(columns.guessed)}" if columns.guessed else told


# ---------------------------------------------------------------- long


def _long(frame: pd.DataFrame, columns: Columns, source: str, notes: list[str]) -> Predictions:
    import pandas as pd

    label = frame[columns.label or ""].str.strip()
    target = _target_text(frame[columns.targets[""]])
    _refuse_text_targets(frame, columns.targets[""], target, source)
    images = frame[columns.image] if columns.image else _numbered(label, source, notes)
    content = {
        "image": images,
        "patient": frame[columns.patient] if columns.patient else "",
        "study": frame[columns.study] if columns.study else "",
        "label": label,
        "target": target,
    }
    scores = {model: frame[one[""]] for model, one in columns.scores.items()}
    clash = next((model for model in scores if model in COLUMNS), None)
    if clash is not None:
        raise UserError(f"a score may not be called {clash}: rename it with --score NAME={clash}")
    table: Predictions = from_frame(pd.DataFrame({**content, **scores}), source)
    return table


def _numbered(label: pd.Series, source: str, notes: list[str]) -> pd.Series:
    """Names for images where the table has none: the n-th row of every label is the same image."""
    counts = label.value_counts()
    if counts.nunique() > 1:
        raise UserError(
            f"{source} has no image column and not the same number of rows for every label ({counts.index[0]} "
            f"{counts.iloc[0]}, {counts.index[-1]} {counts.iloc[-1]}): name the column of the images with --image"
        )
    if len(counts) > 1:
        notes.append("no image column: the n-th row of every label is taken as the same image")
    return (label.groupby(label, sort=False).cumcount() + 1).astype("str")


# ---------------------------------------------------------------- wide


def _wide(frame: pd.DataFrame, columns: Columns, source: str, notes: list[str]) -> Predictions:
    labels = tuple(columns.targets)
    if MEAN in labels:
        raise UserError(f'{source}: no label may be called "{MEAN}", the name of the mean over labels; rename it')
    images = _text(frame[columns.image]) if columns.image else np.arange(1, len(frame) + 1).astype(str).astype(object)
    _check_images(images, columns.image or "", source)
    targets = np.full((len(frame), len(labels)), np.nan)
    for k, label in enumerate(labels):
        text = _target_text(frame[columns.targets[label]])
        _refuse_text_targets(frame, columns.targets[label], text, source)
        targets[:, k] = np.where(text == "", "nan", text).astype(np.float64)
    scores = {}
    for model, one in columns.scores.items():
        scores[model] = np.full(targets.shape, np.nan)
        for label, column in one.items():
            scores[model][:, labels.index(label)] = _scores(frame, column, images, source)
        lacking = [label for label in labels if label not in one]
        if lacking:
            notes.append(f"{model} has no scores for {', '.join(lacking)}")
    blank: Names = np.full(len(frame), "", dtype=object)
    return Predictions(
        images,
        _text(frame[columns.patient]) if columns.patient else blank,
        _text(frame[columns.study]) if columns.study else blank,
        labels,
        targets,
        scores,
    )


def _text(column: pd.Series) -> Names:
    return np.asarray(column.to_numpy(dtype=object), dtype=object)


def _check_images(images: Names, column: str, source: str) -> None:
    import pandas as pd

    if (images == "").any():
        raise UserError(f"{source}, line {int(np.argmax(images == '')) + 2}, column {column}: the image is blank")
    repeated = pd.Series(images).duplicated().to_numpy()
    if repeated.any():
        row = int(np.argmax(repeated))
        raise UserError(
            f"{source}, line {row + 2}: image {images[row]} comes a second time ({int(repeated.sum())} such rows); "
            "a wide table has one row an image (a long one names its label in a column: --label NAME)"
        )


def _scores(frame: pd.DataFrame, column: str, images: Names, source: str) -> Array:
    text = _text(frame[column])
    try:
        values = text.astype(np.float64)  # Python's float: to the last bit
        bad = ~np.isfinite(values)
    except ValueError:
        bad = np.array([not _is_finite(v) for v in text])
        values = np.zeros(len(text))
    if bad.any():
        row = int(np.argmax(bad))
        said = "is blank" if text[row] == "" else f"{text[row]} is no finite number"
        more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
        raise UserError(f"{source}, line {row + 2}, column {column}: the score of image {images[row]} {said}{more}; a "
                        "score that is missing has no rank")  # fmt: skip
    return np.asarray(values, dtype=np.float64)


def _is_finite(text: object) -> bool:
    try:
        return bool(np.isfinite(float(str(text))))
    except ValueError:
        return False


# ---------------------------------------------------------------- targets, classes, metadata


def _target_text(column: pd.Series) -> Names:
    """Targets as text, true and false as 1 and 0, unknown as blank."""
    text = column.str.strip()
    return _text(text.where(~text.str.lower().isin(list(_WORDS)), text.str.lower().map(_WORDS)))


def _refuse_text_targets(frame: pd.DataFrame, column: str, text: Names, source: str) -> None:
    import pandas as pd

    values = pd.unique(pd.Series(text, dtype=object))
    bad = [v for v in values if v != "" and not (_is_finite(v) and float(v) in (0.0, 1.0))]
    if not bad:
        return
    row = int(np.argmax(text == bad[0]))
    said = "uncertain labels must be decided first; " if _is_finite(bad[0]) and float(bad[0]) == -1 else ""
    raise UserError(
        f"{source}, line {row + 2}, column {column}: the target {frame[column].iloc[row]} is none of 0, 1 or blank "
        f"(unknown); {said}write them as 0 and 1, or name another column with --target"
    )


def _check_classes(table: Predictions, source: str) -> None:
    """At least one label must have both classes. Labels that have one only are marked by the report."""
    both = (table.targets == 1).any(axis=0) & (table.targets == 0).any(axis=0)
    if both.any():
        return
    found = {0.0: "negatives only", 1.0: "positives only"}
    classes = np.unique(table.targets[~np.isnan(table.targets)])
    what = found[float(classes[0])] if len(classes) == 1 else "one class only" if len(classes) else "no known target"
    labels = ", ".join(table.labels[:5])
    raise UserError(f"{source}: {labels} hold{'s' * (len(table.labels) == 1)} {what}, and an AUC needs positives "
                    "and negatives; check the target column")  # fmt: skip


def _metadata(frame: pd.DataFrame, columns: Columns, table: Predictions) -> pd.DataFrame:
    """One row an image, in the order of the table; a column that differs between an image's rows is left out."""
    import pandas as pd

    result = pd.DataFrame({"image": table.images, "patient": table.patients, "study": table.studies})
    names = [c for c in columns.metadata if c not in result.columns]
    if columns.layout == "wide" or not names:
        return result.assign(**{c: frame[c].to_numpy() for c in names})
    if columns.image is None:
        first = (frame[columns.label or ""].str.strip() == table.labels[0]).to_numpy()
        return result.assign(**{c: frame[c].to_numpy()[first] for c in names})
    by_image = frame.groupby(columns.image, sort=False)
    rows = by_image[names].first()
    for name in names:
        if (by_image[name].nunique() > 1).any():
            rows = rows.drop(columns=name)
    return result.merge(rows, left_on="image", right_index=True, how="left")
