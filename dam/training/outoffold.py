"""What the folds of a cross-validation have in common: out-of-fold and ensemble predictions, and AUC a fold."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dam.data.table import ImageTable
from dam.evaluation.predictions import MEAN, Predictions, make_predictions, read_predictions, write_predictions
from dam.files import atomic_write_text
from dam.training.rundir import RunDirectory, fold_folder
from dam.training.single import HEADLINE

log = logging.getLogger("dam")

COLUMNS = ("split", "fold", "label", "model", "auc")


def join(run: RunDirectory, folds: int, table: ImageTable) -> None:
    """Write the outer run's ``predictions/val.csv`` (every row by the fold that did not train on it), ``test.csv``
    (the mean of the folds' logits) and ``folds.csv``."""
    run.predictions.mkdir(exist_ok=True)
    folders = [fold_folder(run.path, fold) for fold in range(folds)]
    for split, merge in (("val", _out_of_fold), ("test", _mean)):
        files = [folder / "predictions" / f"{split}.csv" for folder in folders]
        if all(file.is_file() for file in files):
            merged = merge([_wide(read_predictions(file), table.labels) for file in files])
            write_predictions(run.predictions / f"{split}.csv", merged)
    rows = [row for fold, folder in enumerate(folders) for row in _auc_rows(fold, folder)]
    rows += _mean_rows(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_text(run.predictions / "folds.csv", text.getvalue())


def mean_val_auc(run: RunDirectory) -> float:
    """The mean over the folds of the mean validation AUC of the second part's model, else of the warm start."""
    with open(run.predictions / "folds.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["split"], row["label"]) == ("val", MEAN)]
    for model in HEADLINE:
        if values := [float(row["auc"]) for row in rows if row["model"] == model]:
            return float(np.mean(values))
    return math.nan


# ---------------------------------------------------------------- predictions


def _wide(table: Predictions, labels: tuple[str, ...]) -> Predictions:
    """The table with the run's labels in the run's order; NaN where it does not have one."""
    place = [labels.index(label) for label in table.labels]

    def spread_out(values: np.ndarray) -> np.ndarray:
        wide = np.full((len(values), len(labels)), np.nan)
        wide[:, place] = values
        return wide

    scores = {model: spread_out(values) for model, values in table.scores.items()}
    return Predictions(table.images, table.patients, table.studies, labels, spread_out(table.targets), scores)


def _models(tables: Sequence[Predictions]) -> list[str]:
    """The models that score the same labels in every fold. A blend may lack a label in the fold that could not
    calibrate it; it is then left out, for the mean over labels is of those that every model scores."""
    found = []
    for model in dict.fromkeys(model for table in tables for model in table.models):
        scored = [~np.isnan(table.scores[model]).all(axis=0) for table in tables if model in table.scores]
        if len(scored) == len(tables) and all(np.array_equal(one, scored[0]) for one in scored):
            found.append(model)
        else:
            log.info("%s: left out of the joined predictions, some folds lack it for some label", model)
    return found


def _out_of_fold(tables: Sequence[Predictions]) -> Predictions:
    images = np.concatenate([table.images for table in tables])
    _, first = np.unique(images.astype(str), return_index=True)  # debug=overfit may judge an image twice
    rows = np.sort(first)
    scores = {model: np.concatenate([table.scores[model] for table in tables])[rows] for model in _models(tables)}
    names = (np.concatenate([getattr(table, name) for table in tables])[rows] for name in ("patients", "studies"))
    targets = np.concatenate([table.targets for table in tables])[rows]
    return make_predictions(images[rows], tables[0].labels, targets, scores, *names)


def _mean(tables: Sequence[Predictions]) -> Predictions:
    first = tables[0]
    if any(list(table.images) != list(first.images) for table in tables):
        raise RuntimeError("the folds were tested on different images; they were not made by one run")
    scores = {model: np.mean([table.scores[model] for table in tables], axis=0) for model in _models(tables)}
    return make_predictions(first.images, first.labels, first.targets, scores, first.patients, first.studies)


def _auc_rows(fold: int, folder: Path) -> list[dict[str, Any]]:
    """What the fold's own report found, a row a label."""
    with open(folder / "report" / "auc.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] != MEAN]
    return [{**{name: row.get(name, "") for name in COLUMNS}, "fold": fold} for row in rows]


def _mean_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each split, fold and model the mean over the labels of which every model has its AUC in every fold.

    A model without a label in a fold where others have it, and with it in another fold (a blend), has no mean.
    """
    folds, every = (list(dict.fromkeys(row[name] for row in rows)) for name in ("fold", "label"))
    found: dict[str, dict[str, dict[tuple[str, int], float]]] = {}  # split -> model -> (label, fold) -> AUC
    for row in rows:
        if row["auc"]:
            found.setdefault(row["split"], {}).setdefault(row["model"], {})[row["label"], row["fold"]] = float(
                row["auc"]
            )
    means = []
    for split, models in found.items():
        known = {at for aucs in models.values() for at in aucs}
        steady = {m: aucs for m, aucs in models.items()
                  if {at for at in known if at[0] in {label for label, _ in aucs}} <= set(aucs)}  # fmt: skip
        labels = [name for name in every if all((name, fold) in aucs for aucs in steady.values() for fold in folds)]
        for model, aucs in steady.items():
            for fold in folds if labels else []:
                auc = repr(float(np.mean([aucs[name, fold] for name in labels])))
                means.append({"split": split, "fold": fold, "label": MEAN, "model": model, "auc": auc})
    return means
