"""Whether an exported file says what the run says: the images it is tried on, the answers, and what they cost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dam.data.readers import FORMATS, ImageReader
from dam.data.store_build import fit_image, network_image
from dam.errors import UserError
from dam.evaluation.auc import roc_auc
from dam.evaluation.fitted import Fitted
from dam.evaluation.predictions import Predictions, merge_units, read_predictions
from dam.inference.export_graph import Recipe
from dam.inference.images import SUFFIXES
from dam.inference.run import BLEND, LoadedRun, Part
from dam.report.run_files import ANONYMIZED
from dam.training.module import Network

TOLERANCE = 1e-4
IMAGES = 100  # an export is checked on
MOST_VALIDATION = 2000  # images an AUC is measured on
BATCH = 16  # the last batch of 100 has 4 images: another size of batch is tried as well

Score = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # images -> logits, probabilities


@dataclass(frozen=True)
class Checked:
    """The comparison of an exported file with PyTorch: ``difference`` is the largest of any logit or probability."""

    source: str
    images: int
    difference: float
    seconds: float  # per image, of the file
    torch_seconds: float


# ---------------------------------------------------------------- images


def shape(run: LoadedRun) -> tuple[int, int, int]:
    """(S, S, C) of an image of the run."""
    return run.config.image_size, run.config.image_size, run.channels


def generated(run: LoadedRun, count: int = IMAGES) -> np.ndarray:
    """uint8 (count, S, S, C) of smooth random pictures from the seed 0, from flat to full contrast."""
    size, rng = run.config.image_size, np.random.default_rng(0)
    images = np.empty((count, size, size, run.channels), np.uint8)
    for i in range(count):
        coarse = rng.integers(0, 256, (rng.integers(2, 9), rng.integers(2, 9), run.channels), dtype=np.uint8)
        smooth = fit_image(coarse[..., 0] if run.channels == 1 else coarse, size, "squash")
        noise = rng.normal(0, rng.uniform(0, 40), images[i].shape)
        images[i] = np.clip(smooth.reshape(images[i].shape) + noise, 0, 255).astype(np.uint8)
    return images


def read_images(run: LoadedRun, locators: Sequence[str], root: Path) -> np.ndarray:
    """uint8 (n, S, S, C): images as the run's own store would hold them. Raises ``UserError`` for one unreadable."""
    reader = ImageReader(root, run.config.data.window)
    size = run.config.image_size
    images = np.empty((len(locators), size, size, run.channels), np.uint8)
    for i, locator in enumerate(locators):
        image = network_image(reader.read(locator), size, run.config.data.fit, run.channels)
        images[i] = image if image.ndim == 3 else image[..., None]
    return images


def folder_images(folder: Path) -> list[str]:
    """At most ``IMAGES`` image files of a folder and those in it, evenly spaced by name. Raises ``UserError``."""
    if not folder.is_dir():
        raise UserError(f"--images {folder}: there is no such folder")
    names = sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
    )
    if not names:
        raise UserError(f"--images {folder}: it holds no image ({', '.join(FORMATS)} or DICOM)")
    return [names[i] for i in _spaced(len(names), IMAGES)]


@dataclass(frozen=True)
class Validation:
    """The run's validation rows with the folder their images lie in; at most ``MOST_VALIDATION`` images."""

    table: Predictions
    root: Path

    @property
    def names(self) -> list[str]:
        """Locators of the images, in the order of the table."""
        return [str(image) for image in self.table.images]

    def some(self, count: int) -> list[str]:
        """At most ``count`` of the names, evenly spaced."""
        return [self.names[i] for i in _spaced(len(self.names), count)]


def find_validation(run: LoadedRun, root: str | None) -> Validation | str:
    """The run's validation images under ``root``, or where its dataset lay; else the reason in words.

    Raises ``UserError`` if ``root`` is given and does not hold them.
    """
    if run.folds:
        return "not measured: the validation scores of a cross-validation come each from one fold alone"
    file = run.path / "predictions" / "val.csv"
    if not file.is_file():
        return "not measured: the run has no predictions/val.csv"
    stored = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    if ANONYMIZED in stored:
        if root is not None:
            raise UserError(f"--val-images {root}: {run.path} holds pseudonyms, so its images cannot be found by name; "
                            "leave the flag out")  # fmt: skip
        return "not measured: the run holds pseudonyms, so its validation images cannot be found by name"
    table = read_predictions(file)
    rows = _spaced(len(table.images), MOST_VALIDATION)
    table = replace(
        table,
        images=table.images[rows],
        patients=table.patients[rows],
        studies=table.studies[rows],
        targets=table.targets[rows],
        scores={model: values[rows] for model, values in table.scores.items()},
    )
    folder = Path(root).expanduser() if root is not None else Path(str(stored.get("root") or ""))
    files = dict.fromkeys(folder / str(image).partition("::")[0] for image in table.images)
    absent = next((file for file in files if not file.is_file()), None)
    if absent is None:
        return Validation(table, folder)
    if root is not None:
        raise UserError(f"--val-images {root}: it does not hold {absent}, a validation image of {run.path}")
    return "not measured: the run's validation images are not where they were; name their folder by --val-images"


def _spaced(total: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.intp))


# ---------------------------------------------------------------- answers


def torch_answers(
    run: LoadedRun, recipe: Recipe, calibration: Fitted, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits, probabilities (n, K) and seconds per image of the run's own networks, one after the other.

    Nothing of the exported graph is used: blend, mean over folds and calibration are those of the run, in float64.
    """
    outputs: dict[tuple[Path, str], np.ndarray] = {}
    seconds = 0.0
    for owner, part in recipe.parts:
        network = owner.network(part)
        began = time.perf_counter()
        values = _forward(network, images)
        seconds += time.perf_counter() - began
        table = outputs.setdefault((owner.path, part.column), np.full((len(images), len(recipe.labels)), math.nan))
        _put(table, values, part, recipe.labels)
    if run.members:
        from dam.inference.ensemble_export import ensemble_logits

        logits = ensemble_logits(run, recipe, outputs)
    else:
        logits = np.mean([_one_run(one, recipe, outputs) for one in run.folds or (run,)], axis=0)
    return logits, probabilities(logits, recipe, calibration), seconds / len(images)


def _forward(network: Network, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        parts = [network(torch.from_numpy(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    return torch.cat(parts).numpy().astype(np.float64)


def _put(table: np.ndarray, values: np.ndarray, part: Part, labels: Sequence[str]) -> None:
    for i, label in enumerate(part.labels):
        if label in labels:
            table[:, labels.index(label)] = values[:, i]


def _one_run(run: LoadedRun, recipe: Recipe, outputs: dict[tuple[Path, str], np.ndarray]) -> np.ndarray:
    mine = {column: values for (path, column), values in outputs.items() if path == run.path}
    if recipe.model != BLEND:
        return mine[recipe.model]
    columns = [
        run.blends[label].apply({model: values[:, k] for model, values in mine.items()})
        for k, label in enumerate(recipe.labels)
    ]
    return np.stack(columns, axis=1)


def probabilities(logits: np.ndarray, recipe: Recipe, calibration: Fitted) -> np.ndarray:
    """Calibrated probabilities (n, K) by the run's own calibration; NaN for a label without one."""
    result = np.full(logits.shape, math.nan)
    for k, label in enumerate(recipe.labels):
        fit = calibration.get(recipe.model, label)
        if fit is not None and fit.usable:
            result[:, k] = fit.probabilities(logits[:, k])
    return result


def compare(score: Score, images: np.ndarray, expected: tuple[np.ndarray, np.ndarray, float], source: str) -> Checked:
    """The exported file's answers to ``images`` beside PyTorch's."""
    score(images[:1])  # the first call plans
    logits, chances, seconds = answers(score, images)
    if not np.isfinite(logits).all() or not np.array_equal(np.isnan(chances), np.isnan(expected[1])):
        return Checked(source, len(images), math.inf, seconds, expected[2])
    gap = float(np.abs(logits - expected[0]).max())
    known = ~np.isnan(chances)
    if known.any():
        gap = max(gap, float(np.abs(chances - expected[1])[known].max()))
    return Checked(source, len(images), gap, seconds, expected[2])


def answers(score: Score, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits, probabilities (n, K) and seconds per image of an exported file, in batches."""
    began = time.perf_counter()
    parts = [score(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    seconds = (time.perf_counter() - began) / len(images)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), seconds


def auc_loss(run: LoadedRun, recipe: Recipe, score: Score, validation: Validation) -> list[str]:
    """Lines with the validation AUC of the run's own scores and of the file's, by label and in the mean."""
    table, names = validation.table, validation.names
    parts = []
    for start in range(0, len(names), 8 * BATCH):  # bounded memory
        images = read_images(run, names[start : start + 8 * BATCH], validation.root)
        parts.append(answers(score, images)[0])
    logits = np.concatenate(parts)
    values = np.full(table.targets.shape, math.nan)
    values[:, [table.labels.index(label) for label in recipe.labels]] = logits
    units = merge_units(table.with_scores("exported", values), run.config.data.unit, run.config.data.merge)
    lines, before, after = [], [], []
    for label in recipe.labels:
        k = units.labels.index(label)
        known = ~np.isnan(units.targets[:, k])
        targets = units.targets[known, k]
        if len(set(targets.tolist())) < 2:
            continue
        before.append(roc_auc(targets, units.scores[recipe.model][known, k]))
        after.append(roc_auc(targets, units.scores["exported"][known, k]))
        lines.append(f"  {label:<28} {before[-1]:.4f} -> {after[-1]:.4f}  ({after[-1] - before[-1]:+.4f})")
    if not before:
        return ["AUC on validation: not measured, no label has both classes there"]
    one, two = float(np.mean(before)), float(np.mean(after))
    head = f"AUC on validation ({len(names)} images, {units.targets.shape[0]} of the unit {run.config.data.unit}): "
    return [f"{head}mean {one:.4f} -> {two:.4f} ({two - one:+.4f})", *lines]
