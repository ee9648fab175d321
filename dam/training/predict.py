"""The predictions of all models of a run on validation and test, and their blend."""

from __future__ import annotations

import json
import logging

import numpy as np

from dam.evaluation.calibration import blend_tables
from dam.evaluation.predictions import Predictions, make_predictions
from dam.evaluation.predictions import write_predictions as write_table
from dam.files import atomic_path, atomic_write_text
from dam.training.inputs import Inputs
from dam.training.module import infer
from dam.training.networks import trained_network
from dam.training.plan import WARM_START, PlannedStage
from dam.training.rundir import RunDirectory
from dam.training.stage import StageTools

log = logging.getLogger("dam")


def write_images(run: RunDirectory, inputs: Inputs) -> None:
    """``predictions/images.csv``: every image of the run with patient, study, split and metadata."""
    run.predictions.mkdir(exist_ok=True)
    table = inputs.table
    columns = ["image", "patient", "study", "split", *table.metadata]
    with atomic_path(run.predictions / "images.csv") as temporary:
        table.frame[columns].to_csv(temporary, index=False)


def write_predictions(plan: list[PlannedStage], tools: StageTools) -> None:
    """Write ``predictions/val.csv``, ``test.csv`` (where there is a test split) and ``blend.json``."""
    run = tools.run
    labels = tools.inputs.table.labels
    splits = {split: rows for split in ("val", "test") if len(rows := tools.inputs.splits[split])}
    scores: dict[str, dict[str, np.ndarray]] = {split: {} for split in splits}
    for planned in plan:
        network = trained_network(planned, tools)
        columns = [labels.index(label) for label in planned.spec.labels]
        for split, rows in splits.items():
            loader = tools.inputs.loader(rows, labels)
            into = scores[split].setdefault(planned.column, np.full((len(rows), len(labels)), np.nan))
            into[:, columns] = infer(network, loader, len(rows), 2 * tools.cfg.batch_size)
    tables = {split: _table(tools, rows, scores[split]) for split, rows in splits.items()}
    tables = _with_blend(run, plan, tables)
    for split, table in tables.items():
        write_table(run.predictions / f"{split}.csv", table)


def _table(tools: StageTools, rows: np.ndarray, scores: dict[str, np.ndarray]) -> Predictions:
    table = tools.inputs.table
    frame = table.frame.iloc[rows]
    targets = tools.inputs.targets(rows, table.labels)
    return make_predictions(frame["image"], table.labels, targets, scores, frame["patient"], frame["study"])


def _with_blend(run: RunDirectory, plan: list[PlannedStage], tables: dict[str, Predictions]) -> dict[str, Predictions]:
    """Add the mean of the calibrated logits of the AUC model and of the control, or of the warm start without one."""
    columns = list(dict.fromkeys(planned.column for planned in plan))
    second = [column for column in columns if column != WARM_START]
    pair = second if len(second) > 1 else columns
    if len(pair) != 2:
        return tables
    tables, blends, notes = blend_tables(tables["val"], tables, pair)
    for note in notes:
        log.info("%s", note)
    content = {label: blend.as_dict() for label, blend in blends.items()}
    atomic_write_text(run.predictions / "blend.json", json.dumps(content, indent=2) + "\n")
    return tables
