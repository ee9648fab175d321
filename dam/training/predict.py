"""The predictions of all models of a run on validation and test: their blend, their augmented copies, their mixes with
the metadata network."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dam.evaluation.calibration import blend_tables
from dam.evaluation.predictions import Predictions, make_predictions, write_predictions as write_table
from dam.files import atomic_path, atomic_write_text
from dam.models.metadata import mix_scores
from dam.training import distributed, tta
from dam.training.inputs import Inputs
from dam.training.loop import StageTools
from dam.training.metadata import tools_of
from dam.training.module import Network, infer
from dam.training.networks import trained_network
from dam.training.plan import METADATA, WARM_START, PlannedStage
from dam.training.rundir import RunDirectory

log = logging.getLogger("dam")

Scores = dict[str, dict[str, np.ndarray]]  # split -> model column -> (rows, labels)


def write_images(run: RunDirectory, inputs: Inputs) -> None:
    """``predictions/images.csv``: every image of the run with patient, study, split and metadata."""
    if not distributed.is_main():
        return
    run.predictions.mkdir(exist_ok=True)
    table = inputs.table
    columns = ["image", "patient", "study", "split", *table.metadata]
    with atomic_path(run.predictions / "images.csv") as temporary:
        table.frame[columns].to_csv(temporary, index=False)


def write_predictions(plan: list[PlannedStage], tools: StageTools) -> None:
    """Write ``predictions/val.csv``, ``test.csv`` (where there is a test split) and ``blend.json``.

    All processes score; the first writes.
    """
    run = tools.run
    labels = tools.inputs.table.labels
    splits = {split: rows for split in ("val", "test") if len(rows := tools.inputs.splits[split])}
    plain: Scores = {split: {} for split in splits}
    others: Scores = {split: {} for split in splits}  # they take no part in the blend and stand behind it
    for planned in plan:
        own = tools_of(planned, tools)
        network = trained_network(planned, own)
        columns = [labels.index(label) for label in planned.spec.labels]
        for split, rows in splits.items():
            into = others if planned.reads_metadata else plain
            logits = infer(network, own.inputs.loader(rows, labels), len(rows), 2 * tools.cfg.batch_size)
            _put(into[split], planned.column, logits, columns, len(labels))
            if tools.cfg.tta.copies and not planned.reads_metadata:
                make = partial(_with_copies, planned, tools, network, rows, split)
                logits = _kept(_copies_file(planned, split), make)
                _put(others[split], f"{planned.column}_tta", logits, columns, len(labels))
    distributed.barrier()  # the others have read the copies, too
    if not distributed.is_main():
        return
    tables = {split: _table(tools, rows, plain[split]) for split, rows in splits.items()}
    tables = _with_blend(run, plan, tables)
    for split, table in tables.items():
        more = others[split] | _mixes(plan, tools, plain[split] | others[split])
        write_table(run.predictions / f"{split}.csv", replace(table, scores=table.scores | more))
    for planned in plan:
        for split in splits:
            _copies_file(planned, split).unlink(missing_ok=True)


def _put(scores: dict[str, np.ndarray], column: str, logits: np.ndarray, columns: list[int], labels: int) -> None:
    """Fill the labels of one network in its model's (rows, labels) array; the others' stay NaN until theirs come."""
    scores.setdefault(column, np.full((len(logits), labels), np.nan))[:, columns] = logits


def _with_copies(
    planned: PlannedStage, tools: StageTools, network: Network, rows: np.ndarray, split: str
) -> np.ndarray:
    cfg = tools.cfg
    loader = tta.copies_of(cfg, tools.inputs, rows)
    title = f"{planned.spec.title} on {split}, augmented"
    return tta.averaged(network, loader, len(rows), 2 * cfg.batch_size, cfg.tta.copies, cfg.tta.average, title)


def _kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What ``make`` gives, or gave before a stop: with many copies a stop then costs those of one model at most."""
    if file.exists():
        try:
            kept: np.ndarray = np.load(file, allow_pickle=False)
            return kept
        except (OSError, ValueError, EOFError):  # damaged, or no plain array: they are made again
            log.warning("%s cannot be used: its scores are computed again", file)
    scores = make()
    if distributed.is_main():
        with atomic_path(file) as temporary, open(temporary, "wb") as handle:
            np.save(handle, scores)
    return scores


def _copies_file(planned: PlannedStage, split: str) -> Path:
    return planned.spec.folder / f"copies_{split}.npy"


def _mixes(plan: list[PlannedStage], tools: StageTools, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``<model>_meta`` and ``<model>_tta_meta``: each second-part model with the metadata network of its objective."""
    if tools.cfg.metadata is None:
        return {}
    by_stage = {planned.spec.name: planned.column for planned in plan}
    pairs = {
        by_stage[name.removeprefix(f"{METADATA}/")]: column
        for name, column in by_stage.items()
        if name.startswith(f"{METADATA}/")
    }
    return {
        f"{image}{copies}_meta": mix_scores(scores[f"{image}{copies}"], scores[metadata], tools.cfg.metadata.weight)
        for copies in ("", "_tta")
        for image, metadata in pairs.items()
        if f"{image}{copies}" in scores
    }


def _table(tools: StageTools, rows: np.ndarray, scores: dict[str, np.ndarray]) -> Predictions:
    table = tools.inputs.table
    frame = table.frame.iloc[rows]
    targets = tools.inputs.targets(rows, table.labels)
    return make_predictions(frame["image"], table.labels, targets, scores, frame["patient"], frame["study"])


def _with_blend(run: RunDirectory, plan: list[PlannedStage], tables: dict[str, Predictions]) -> dict[str, Predictions]:
    """Add the mean of the calibrated logits of the AUC model and of the control, or of the warm start without one."""
    columns = list(dict.fromkeys(planned.column for planned in plan if not planned.reads_metadata))
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
