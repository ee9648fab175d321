"""What the finished cells of a study left: scores on validation and test, thresholds, who is a patient."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dam.compose import read_config
from dam.errors import UserError
from dam.evaluation.predictions import Units, merge_units, read_predictions
from dam.studies.run import is_finished
from dam.studies.study import Cell, Study

Array = np.ndarray


@dataclass(frozen=True)
class Result:
    """One arm of one finished cell. ``test`` and ``val`` hold its score column alone (logits), under the arm's name.

    ``thresholds``: label -> the logit stored with the kept weights (``select=accuracy``), empty where there is none.
    """

    arm: str
    replicate: str
    val: Units
    test: Units
    thresholds: dict[str, float]
    tested_on: str = ""  # digest of the test images' names


@dataclass(frozen=True)
class Results:
    """All that a reducer needs. ``arms``: rows of the tables in the study's order, those without a result too."""

    study: Study
    cells: tuple[Cell, ...]
    finished: tuple[str, ...]  # names of cells
    found: tuple[Result, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm for cell in self.cells for arm in cell.arms))

    def of(self, arm: str) -> tuple[Result, ...]:
        """The results of an arm, in the order of the matrix."""
        return tuple(result for result in self.found if result.arm == arm)

    def shared(self, a: str, b: str) -> list[tuple[Result, Result]]:
        """Pairs of results of two arms with the same replicate."""
        theirs = {result.replicate: result for result in self.of(b)}
        return [(result, theirs[result.replicate]) for result in self.of(a) if result.replicate in theirs]


def read_results(study: Study, folder: Path, cells: Sequence[Cell]) -> Results:
    """Read every finished cell. Raises ``UserError`` where two cells were judged on different test images."""
    finished = [cell for cell in cells if is_finished(folder / cell.name)]
    found = [result for cell in finished for result in _read(folder / cell.name, cell)]
    for result in found[1:]:
        first = found[0].test
        same = (result.test.labels, result.tested_on) == (first.labels, found[0].tested_on)
        if not same or not np.array_equal(result.test.targets, first.targets, equal_nan=True):
            raise UserError(
                f"{result.arm}, {result.replicate}, was tested on other images than {found[0].arm}: the cells of "
                f"{folder} do not belong together"
            )
    return Results(study, tuple(cells), tuple(cell.name for cell in finished), tuple(found))


def _read(run_dir: Path, cell: Cell) -> list[Result]:
    data = read_config(run_dir / "config.yaml").data
    units = {}
    for split in ("val", "test"):
        file = run_dir / "predictions" / f"{split}.csv"
        if not file.is_file():
            raise UserError(f"{run_dir} has no predictions on {split}: a study is judged on a test set of its own")
        table = read_predictions(file)
        missing = [column for column in cell.arms.values() if column not in table.models]
        if missing:
            raise UserError(f"{file} has no column {', '.join(missing)}; it has {', '.join(table.models)}")
        units[split] = merge_units(table, data.unit, data.merge)
    names = hashlib.sha256("\n".join(table.images).encode()).hexdigest()  # of test, which is read last
    return [
        Result(
            arm,
            cell.replicate,
            _alone(units["val"], column, arm),
            _alone(units["test"], column, arm),
            _thresholds(run_dir, column),
            names,
        )
        for arm, column in cell.arms.items()
    ]


def _alone(units: Units, column: str, arm: str) -> Units:
    return replace(units, scores={arm: units.scores[column]})


def _thresholds(run_dir: Path, column: str) -> dict[str, float]:
    """From the stage.json of the stages that fill this column."""
    found: dict[str, float] = {}
    for file in sorted(run_dir.glob("**/stage.json")):
        try:
            facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if facts.get("column") == column:
                found |= {label: float(value) for label, value in facts.get("threshold", {}).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is damaged; put back a copy of it, or remove the folder {run_dir}, and the same "
                            "command runs that cell again") from error  # fmt: skip
    return found
