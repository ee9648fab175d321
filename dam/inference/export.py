"""A run's model as one file that other programs run: written, then compared with the run, and removed if it differs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dam import __version__
from dam.data.datasets import DATASETS
from dam.errors import UserError
from dam.evaluation.fitted import Fitted
from dam.files import atomic_write_text
from dam.inference import export_check, export_formats
from dam.inference.export_check import TOLERANCE, Checked, Validation
from dam.inference.export_graph import ExportGraph, Recipe, models_of, recipe_of
from dam.inference.predict_table import read_calibration
from dam.inference.run import LoadedRun, load_run
from dam.models.normalization import normalization_facts

FOLDER = "export"  # in the run's directory, where --out is not given


class ExportDiffers(RuntimeError):
    """The file does not say what the run says; it was removed. Exit code 1."""


@dataclass(frozen=True)
class Wish:
    """What the user asked for; ``precision`` is fp32, fp16 or int8."""

    form: str
    model: str | None
    precision: str
    out: Path | None
    images: Path | None = None
    val_images: str | None = None


@dataclass(frozen=True)
class Export:
    """The files made, ``files[0]`` the model, with how they compare and further lines to print."""

    files: tuple[Path, ...]
    model: str
    labels: tuple[str, ...]
    networks: int
    checked: Checked
    lines: tuple[str, ...]


def export(path: Path, wish: Wish) -> Export:
    """Export a finished run (of a cross-validation: the mean over its folds) on the CPU, in float32 unless asked.

    The file is compared with the run's own networks; beyond ``TOLERANCE`` in float32 it is removed and
    ``ExportDiffers`` raised. Raises ``UserError`` for what cannot be exported.
    """
    export_formats.check_installed(wish.form)
    run = load_run(path, "cpu", "fp32")
    recipe = recipe_of(run, wish.model or models_of(run)[0])
    calibration = read_calibration(path)
    out = _out(path, run, recipe, wish)
    validation = export_check.find_validation(run, wish.val_images)
    images, source = _images(run, wish, validation)
    facts = describe(run, recipe, calibration, wish.precision)
    work = out.parent / f".{out.name}.{os.getpid()}.partial"
    fresh = not out.parent.exists()
    work.mkdir(parents=True)
    try:
        graph = ExportGraph(recipe, calibration, half=wish.precision == "fp16")
        files = export_formats.write(wish.form, work / out.name, graph, recipe, facts)
        if wish.precision == "int8":
            export_formats.quantize(files[0], images)
        score = export_formats.open_score(wish.form, files[0], graph, recipe)
        expected = export_check.torch_answers(run, recipe, calibration, images)
        checked = export_check.compare(score, images, expected, source)
        if wish.precision == "fp32" and not checked.difference <= TOLERANCE:
            raise ExportDiffers(
                f"the exported file differs from PyTorch by {checked.difference:.2g} on {source}, more than "
                f"{TOLERANCE:g}; it was removed"
            )
        lines = [] if wish.precision == "fp32" else _cost(run, recipe, score, validation)
        files = [_moved(file, out.parent / file.name) for file in files]
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if fresh and not any(out.parent.iterdir()):  # nothing came of it
            out.parent.rmdir()
    if wish.form == "onnx":
        files.append(_write_runner(out))
    return Export(tuple(files), recipe.model, recipe.labels, len(recipe.parts), checked, tuple(lines))


def _cost(run: LoadedRun, recipe: Recipe, score: export_check.Score, validation: Validation | str) -> list[str]:
    if isinstance(validation, str):
        return [f"AUC on validation: {validation}"]
    return export_check.auc_loss(run, recipe, score, validation)


def _moved(file: Path, target: Path) -> Path:
    file.replace(target)
    return target


def _out(path: Path, run: LoadedRun, recipe: Recipe, wish: Wish) -> Path:
    suffix = f".{wish.form}"
    if wish.out is None:
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{run.config.name}_{recipe.model}")
        stem += "" if wish.precision == "fp32" else f"_{wish.precision}"
        return path / FOLDER / f"{stem}{suffix}"
    if wish.out.is_dir() or wish.out.suffix != suffix:
        raise UserError(f"--out {wish.out}: name a file that ends in {suffix}")
    return wish.out


def _images(run: LoadedRun, wish: Wish, validation: Validation | str) -> tuple[np.ndarray, str]:
    """``IMAGES`` images to compare on: a folder's, else validation's where they can be read, the rest generated.

    For int8, which takes its ranges from them, there are real images only. Raises ``UserError`` where there are none.
    """
    real, source = np.empty((0, *export_check.shape(run)), np.uint8), ""
    if wish.images is not None:
        names = export_check.folder_images(wish.images)
        real, source = export_check.read_images(run, names, wish.images), f"{len(names)} images of {wish.images}"
    elif isinstance(validation, Validation):
        names = validation.some(export_check.IMAGES)
        real, source = export_check.read_images(run, names, validation.root), f"{len(names)} validation images"
    lacking = export_check.IMAGES - len(real)
    if wish.precision == "int8" and not len(real):
        raise UserError(
            "--int8 takes its ranges from real images, and the run's validation images were not found; give some by "
            "--val-images FOLDER (as the run names them) or --images FOLDER"
        )
    if wish.precision == "int8" or not lacking:
        return real, source
    drawn = f"{lacking} generated images (seed 0)"
    both = np.concatenate([real, export_check.generated(run, lacking)])
    return both, f"{source} and {drawn}" if source else drawn


def describe(run: LoadedRun, recipe: Recipe, calibration: Fitted, precision: str) -> dict[str, Any]:
    """What a program must know to use the file: plain values for JSON."""
    config = run.config
    fits = {label: calibration.get(recipe.model, label) for label in recipe.labels}
    facts = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    dataset = str(facts.get("dataset", config.data.name))
    stored = {label: None if fit is None else fit.as_dict() for label, fit in fits.items()}
    return {
        "format": 1,
        "dam": __version__,
        "run": config.name,
        "config_sha256": hashlib.sha256((run.path / "config.yaml").read_bytes()).hexdigest(),
        "model": recipe.model,
        "network": " + ".join(dict.fromkeys(one.config.model.name for one, _ in recipe.parts)),
        "networks": [
            {"name": name, "column": part.column, "labels": list(part.labels), **_own_network(one, run)}
            for name, (one, part) in zip(export_formats.prefixes(recipe), recipe.parts, strict=True)
        ],
        "sum": [asdict(term) for term in recipe.terms],
        "labels": list(recipe.labels),
        "left_out": [label for label in run.labels if label not in recipe.labels],
        "precision": precision,
        "input": {
            "name": "images",
            "type": "uint8",
            "layout": "NHWC",
            "size": config.image_size,
            "channels": run.channels,
            "colour": "gray" if run.channels == 1 else "RGB",
            "fit": config.data.fit,
            "window": config.data.window,
            "normalization": normalization_facts(config.model, run.channels),
        },
        "outputs": ["logits", "probabilities"],
        "calibration": stored,
        "thresholds": {label: fit and fit["threshold"] for label, fit in stored.items()},
        "thresholds_are": "of logits; positive where logit >= threshold",
        "shift": {label: fit.shift for label, fit in fits.items() if fit is not None and not math.isnan(fit.shift)},
        "judged": {"unit": config.data.unit, "merge": config.data.merge},
        "data": {
            "dataset": dataset,
            "licence": DATASETS[dataset].licence if dataset in DATASETS else "",
            "images_sha256": facts.get("images_sha256", ""),
        },
    }


def _own_network(one: LoadedRun, run: LoadedRun) -> dict[str, Any]:
    """Network and normalization of an ensemble's member, which may be its own."""
    if not run.members:
        return {}
    return {"network": one.config.model.name, "normalization": normalization_facts(one.config.model, one.channels)}


def _write_runner(out: Path) -> Path:
    """``<name>_run.py`` beside the model: it needs numpy, Pillow and onnxruntime, and nothing of dam."""
    script = out.with_name(f"{out.stem}_run.py")
    atomic_write_text(script, resources.files("dam.inference").joinpath("export_runner.py").read_text(encoding="utf-8"))
    return script
