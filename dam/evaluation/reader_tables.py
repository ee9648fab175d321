"""Tables of human readers, who said what about which study: long, or one wide file a reader."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dam.errors import UserError
from dam.evaluation.auc import Array

if TYPE_CHECKING:
    import pandas as pd

LONG = ("study", "reader", "label", "value")
_KEY = re.compile(r"patient\d+/study\d+")
_PATIENT = re.compile(r"patient\d+/")


@dataclass(frozen=True)
class ReaderTable:
    """Answers of readers: ``values[reader]`` is (S, K) of 0, 1, NaN (not judged), by study and label."""

    studies: tuple[str, ...]  # keys as ``study_key`` makes them
    labels: tuple[str, ...]
    values: dict[str, Array]
    source: str


def study_key(name: str) -> str:
    """The name a study is joined by: "patientNNNNN/studyN" of CheXpert's paths, else the name itself.

    A path that has "patientNNNNN/" but no "studyN" after it is taken from there on.
    """
    text = str(name).strip()
    if found := _KEY.search(text):
        return found.group()
    found = _PATIENT.search(text)
    return text[found.start() :] if found else text


def read_readers(where: str | Path) -> ReaderTable:
    """Read readers from one file, several separated by commas, or a folder of CSV files.

    A file with the columns study, reader, label, value (0 or 1) is long; any other is the wide table of one reader,
    named as the file, with a column ``study`` (upper or lower case) and one column a label. Columns go by name: files
    may order them differently. Raises ``UserError`` naming file, line and column for missing files and columns, values
    other than 0, 1 and blank, and a study judged twice by one reader.
    """
    import pandas as pd

    answers: dict[str, dict[tuple[str, str], float]] = {}
    for path in _paths(where):
        try:
            frame = pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as a CSV table of readers: {error}") from error
        frame.columns = [str(c).strip() for c in frame.columns]
        lower = {c.lower(): c for c in frame.columns}
        if all(c in lower for c in LONG):
            long = frame[[lower[c] for c in LONG]].set_axis(list(LONG), axis=1)
        elif {"reader", "value"} & set(lower) and "study" in lower:
            missing = [c for c in LONG if c not in lower]
            raise UserError(f"{path} has no column {', '.join(missing)}; a long table has {', '.join(LONG)}")
        else:
            long = _melt(frame, lower, path)
        _collect(long, path, answers)
    studies = tuple(dict.fromkeys(study for given in answers.values() for study, _ in given))
    labels = tuple(dict.fromkeys(label for given in answers.values() for _, label in given))
    row, column = {s: i for i, s in enumerate(studies)}, {name: k for k, name in enumerate(labels)}
    values = {}
    for reader, given in answers.items():
        values[reader] = np.full((len(studies), len(labels)), np.nan)
        for (study, label), value in given.items():
            values[reader][row[study], column[label]] = value
    return ReaderTable(studies, labels, values, str(where))


def _paths(where: str | Path) -> list[Path]:
    found: list[Path] = []
    for part in [p.strip() for p in str(where).split(",") if p.strip()]:
        path = Path(part)
        if path.is_dir():
            files = sorted(path.glob("*.csv"))
            if not files:
                raise UserError(f"the folder of readers {path} holds no .csv file")
            found += files
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(
                f"there is no table of readers {path}; evaluation.readers is a CSV file, several, or a folder"
            )
    if not found:
        raise UserError("evaluation.readers is blank; give a CSV file, several separated by commas, a folder, or null")
    return found


def _melt(frame: pd.DataFrame, lower: dict[str, str], path: Path) -> pd.DataFrame:
    if "study" not in lower or len(lower) < 2:
        raise UserError(
            f"{path} is no table of readers: it has neither {', '.join(LONG)} nor study with one column a label"
        )
    long = frame.melt(id_vars=[lower["study"]], var_name="label", value_name="value", ignore_index=False)
    return long.rename(columns={lower["study"]: "study"}).assign(reader=path.stem)


def _collect(long: pd.DataFrame, path: Path, answers: dict[str, dict[tuple[str, str], float]]) -> None:
    allowed = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
    rows = zip(long.index, long["study"], long["reader"], long["label"], long["value"], strict=True)
    for line, study, reader, label, text in rows:
        if not text.strip():
            continue
        at = f"{path}, line {int(line) + 2}"
        value = allowed.get(text.strip())
        if value is None:
            raise UserError(
                f"{at}: reader {reader} has {text!r} for {label}; a reader's answer is 0, 1 or blank (not judged)"
            )
        if not study.strip() or not str(reader).strip() or not str(label).strip():
            raise UserError(f"{at}: study, reader or label is blank")
        given = answers.setdefault(str(reader).strip(), {})
        key = (study_key(study), str(label).strip())
        if key in given:
            raise UserError(f"{at}: reader {reader} judges {label} of study {key[0]} a second time")
        given[key] = value


def join_readers(table: ReaderTable, studies: ArrayLike, labels: tuple[str, ...]) -> dict[str, Array]:
    """Answers of each reader in the order of ``studies`` (U,) and ``labels``: (U, K), NaN where not judged.

    Raises ``UserError`` where no study or no label is shared, where a study of the readers is not among ``studies``,
    and where a reader lacks a label that another reader has judged.
    """
    keys = [study_key(s) for s in np.asarray(studies, dtype=object)]
    row = {key: i for i, key in enumerate(keys)}
    if len(row) < len(keys):
        twice = next(k for i, k in enumerate(keys) if row[k] != i)
        raise UserError(
            f"the predictions have study {twice} more than once: readers can only be joined to single studies"
        )
    shared = [label for label in table.labels if label in labels]
    if not shared:
        raise UserError(
            f"{table.source}: no label of the readers ({', '.join(table.labels)}) is one of the predictions "
            f"({', '.join(labels)}); labels are joined by name"
        )
    unknown = [s for s in table.studies if s not in row]
    if unknown:
        raise UserError(
            f"{table.source}: {len(unknown)} of {len(table.studies)} studies are not in the predictions, the first is "
            f"{unknown[0]} (the predictions have studies such as {keys[0]}); readers must judge the same studies"
        )
    rows = [row[s] for s in table.studies]
    result = {}
    for reader, values in table.values.items():
        result[reader] = np.full((len(keys), len(labels)), np.nan)
        for label in shared:
            column = values[:, table.labels.index(label)]
            if np.isnan(column).all():
                raise UserError(
                    f"{table.source}: reader {reader} has no answer for {label}, which other readers judged"
                )
            result[reader][rows, labels.index(label)] = column
    return result
