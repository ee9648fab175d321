"""From scores to the rows that are written: labels that were trained, calibrated probability, decision."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dam.errors import UserError
from dam.evaluation.fitted import Fitted, LabelFit
from dam.inference.run import LoadedRun, Scores
from dam.report.tables import main_models

FIRST = ("image", "label")
LAST = ("probability", "decision")


@dataclass(frozen=True)
class Judge:
    """What turns the scores of ``model`` into probabilities and decisions, label by label, with the run's own fits."""

    run: LoadedRun
    columns: tuple[str, ...]
    model: str
    fits: dict[str, LabelFit]
    notes: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that get rows: those that were trained."""
        return self.run.trained

    def probabilities(self, scores: Scores) -> np.ndarray:
        """float64 (n, K) in the order of ``labels``; NaN without a calibration."""
        values = self._of(scores[self.model])
        result = np.full(values.shape, math.nan)
        for k, label in enumerate(self.labels):
            fit = self.fits.get(label)
            if fit is not None and fit.usable:
                result[:, k] = fit.probabilities(values[:, k])
        return result

    def decisions(self, scores: Scores) -> np.ndarray:
        """float64 (n, K): 1 where score >= threshold, else 0; NaN without a threshold or score."""
        values = self._of(scores[self.model])
        result = np.full(values.shape, math.nan)
        for k, label in enumerate(self.labels):
            fit = self.fits.get(label)
            if fit is not None and not math.isnan(fit.threshold):
                result[:, k] = np.where(np.isnan(values[:, k]), math.nan, values[:, k] >= fit.threshold)
        return result

    def kept(self, scores: Scores) -> dict[str, np.ndarray]:
        """Every column, (n, K) in the order of ``labels``."""
        return {column: self._of(scores[column]) for column in self.columns}

    def _of(self, values: np.ndarray) -> np.ndarray:
        return values[:, [self.run.labels.index(label) for label in self.labels]]

    def rows(self, names: Sequence[str], scores: Scores) -> Iterable[list[str]]:
        """The rows of a block as text: image, label, every column, probability, decision; blank where NaN."""
        kept = self.kept(scores)
        probability, decision = self.probabilities(scores), self.decisions(scores)
        for i, name in enumerate(names):
            for k, label in enumerate(self.labels):
                values = [_text(kept[column][i, k]) for column in self.columns]
                told = "" if math.isnan(decision[i, k]) else str(int(decision[i, k]))
                yield [name, label, *values, _text(probability[i, k]), told]


def make_judge(run: LoadedRun, columns: tuple[str, ...], model: str | None) -> Judge:
    """The judge of ``model`` (None: ``ensemble`` or ``auc`` where there is one, else the report's first model).

    Raises ``UserError`` for a model that is not among ``columns``.
    """
    chosen = model or next((name for name in ("ensemble", "auc") if name in columns), None) or main_models(columns)[0]
    if chosen not in columns:
        raise UserError(f"--model {chosen}: the scores here are {', '.join(columns)}")
    fits = read_calibration(run.path).fits.get(chosen, {})
    return Judge(run, columns, chosen, fits, tuple(_notes(run, chosen, fits)))


def read_calibration(path: Path) -> Fitted:
    """``predictions/calibration.json`` of a run; empty where it has none. Raises ``UserError`` for a damaged one."""
    file = path / "predictions" / "calibration.json"
    if not file.is_file():
        return Fitted()
    try:
        return Fitted.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); make it anew with `dam report {path}`") from error


def _notes(run: LoadedRun, model: str, fits: dict[str, LabelFit]) -> Iterable[str]:
    never = [label for label in run.labels if label not in run.trained]
    if never:
        yield f"left out, since no network was trained on {'it' if len(never) == 1 else 'them'}: {', '.join(never)}"
    if not fits:
        yield (
            f"{model} has no calibration in this run (predictions/calibration.json): probability and decision stay "
            "blank; `dam report` makes it from validation, for the models that the run's own predictions have"
        )
        return
    uncalibrated = [label for label in run.trained if label not in fits or not fits[label].usable]
    if uncalibrated:
        yield f"no calibrated probability of {', '.join(uncalibrated)}: {model} could not be calibrated for it"
    few = [label for label in run.trained if label in fits and "fewer than" in fits[label].note]
    if few:
        yield f"calibrated on few positives, read with care: {', '.join(few)}"
    prevalence = next((fit.prevalence for fit in fits.values() if fit.prevalence is not None), None)
    if prevalence is not None:
        yield f"probabilities are for the prevalence {prevalence:g} that the run's evaluation states"
    unit = run.config.data.unit
    if unit != "image":
        yield (
            f"calibration and thresholds were fitted on {'studies' if unit == 'study' else 'patients'} "
            f"({run.config.data.merge} of their images); here each image is judged on its own"
        )


def _text(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
