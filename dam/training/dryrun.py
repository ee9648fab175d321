"""``dry_run=true``: everything checked, one batch through every stage and back, and what the run would cost."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from dam.config import Config
from dam.data import load_table
from dam.data.store import open_store
from dam.data.table import ImageTable
from dam.training import tracking
from dam.training.device import Device
from dam.training.inputs import on_paper
from dam.training.interrupt import StopRequest
from dam.training.loop import StageTools
from dam.training.metadata import tools_of
from dam.training.networks import new_network, untrained_network
from dam.training.plan import WARM_START, PlannedStage, make_plan
from dam.training.rundir import RunDirectory
from dam.training.stage import Stage

_STEPS = 3  # the first pays for warming up


def dry_run(cfg: Config, table: ImageTable, device: Device) -> str:
    """The plan as text. Only a sample of the images is decoded; nothing is left on disk. Raises ``UserError``.

    Of ``data.fold=all``, whose ``table`` is that of all folds, fold 0 is tried; the other ones are like it.
    """
    folds = cfg.data.folds if cfg.data.fold == "all" else None
    if folds is not None:
        cfg = replace(cfg, data=replace(cfg.data, fold=0))
        table = load_table(cfg.data)
    with tempfile.TemporaryDirectory(prefix="dam-dry-run-") as folder:
        run = RunDirectory(Path(folder) / "run")
        real = make_plan(cfg, on_paper(cfg, table), run)
        if cfg.warm_start is not None and cfg.warm_start.run is not None:
            real = [planned for planned in real if planned.spec.name != WARM_START]
        tools, read_seconds = _sample_tools(replace(cfg, data=replace(cfg.data, store=folder)), table, device, run)
        seconds = [_timed_step(planned, tools, Path(folder)) for planned in real]
        parameters = sum(p.numel() for p in new_network(1, tools, None).parameters())
    lines = _plan_lines(cfg, table, real, seconds)
    images = len(table)
    store_bytes = images * cfg.image_size**2 * tools.inputs.store.channels
    total = sum(step * planned.spec.steps for planned, step in zip(real, seconds, strict=True)) * (folds or 1)
    if folds is not None:
        lines.insert(1, f"{folds} folds in one run directory, each as fold 0 below; test is predicted by all of them")
    if cfg.tta.copies:
        steps = [step for planned, step in zip(real, seconds, strict=True) if not planned.reads_metadata]
        judged = len(table.split("val")) + len(table.split("test"))
        most = sum(steps) / cfg.batch_size * cfg.tta.copies * judged * (folds or 1)  # a training step costs more
        lines.append(
            f"tta: {cfg.tta.copies} augmented copies of {judged} validation and test images for each of {len(steps)} "
            f"networks, their {cfg.tta.average}s averaged, at most {_time(most)}{' for all folds' if folds else ''}"
        )
    lines += [
        f"image store: {images} images, {store_bytes / 1e6:.1f} MB, about {_time(read_seconds * images)} to build",
        f"training: about {_time(total)}{' for all folds' if folds else ''} on {device.device}, validation, "
        "predictions and report not counted",
        f"{cfg.model.name}: {parameters / 1e6:.2f} million parameters, {parameters * 4 / 1e6:.1f} MB a weights file, "
        f"{_memory(device)}",
        f"{len(tools.inputs.table)} of {images} images were decoded; `dam data check --images` reads all of them",
        "nothing was written; leave out dry_run=true to start",
    ]
    return "\n".join(lines)


def _sample_tools(cfg: Config, table: ImageTable, device: Device, run: RunDirectory) -> tuple[StageTools, float]:
    """Inputs of a few batches of real images, and the seconds it took to read one."""
    rows = _sample_rows(cfg, table)
    sample = table.with_frame(table.frame.iloc[rows])
    began = time.perf_counter()
    store, sample = open_store(sample, cfg.data, cfg.image_size, max(1, cfg.workers), progress=False)
    seconds = (time.perf_counter() - began) / len(rows)
    splits = {split: sample.split(split) for split in ("train", "val", "test")}
    inputs = replace(on_paper(cfg, sample), store=store, store_rows=store.rows_for(sample), splits=splits)
    return StageTools(cfg, run, inputs, device, StopRequest(), tracking.Trackers([])), seconds


def _sample_rows(cfg: Config, table: ImageTable) -> np.ndarray:
    """For every label and class some training rows, a batch in all, and two validation rows a label and class."""
    chosen: list[np.ndarray] = []
    for split, count in (("train", max(2, cfg.batch_size // (2 * len(table.labels)))), ("val", 2)):
        rows = table.split(split)
        targets = table.targets(rows)
        for k in range(len(table.labels)):
            chosen += [rows[targets[:, k] >= 0.5][:count], rows[targets[:, k] < 0.5][:count]]
        chosen.append(rows[: cfg.batch_size if split == "train" else 2])
    return np.unique(np.concatenate(chosen))


def _timed_step(planned: PlannedStage, tools: StageTools, folder: Path) -> float:
    """Seconds of one training step of this stage, measured on real images."""
    spec = replace(planned.spec, steps=_STEPS, eval_every=_STEPS + 1, folder=folder / planned.spec.name)
    tools = tools_of(planned, tools)
    stage = Stage(spec, tools, untrained_network(planned, tools))
    return stage.time_steps()


def _plan_lines(cfg: Config, table: ImageTable, plan: list[PlannedStage], seconds: list[float]) -> list[str]:
    lines = [f"plan of {cfg.name}: {cfg.model.name}, {cfg.image_size} x {cfg.image_size}, batch {cfg.batch_size}"]
    lines += [f"data: {note}" for note in table.notes]
    lines.append(table.counts().to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    for planned, step in zip(plan, seconds, strict=True):
        spec = planned.spec
        lines.append(
            f"{spec.name}: {spec.objective.loss.name} with {spec.objective.optimizer.name}, {spec.steps} steps = "
            f"{spec.steps / spec.steps_per_epoch:.2f} epochs, {spec.steps * cfg.batch_size} images, "
            f"evaluated every {spec.eval_every}, about {_time(step * spec.steps)}"
        )
    return lines


def _memory(device: Device) -> str:
    if device.is_cuda:
        import torch

        return f"peak GPU memory {torch.cuda.max_memory_allocated(device.device) / 1e9:.1f} GB"
    try:
        import resource
    except ImportError:
        return "peak memory unknown on this system"
    return f"peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
