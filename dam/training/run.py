"""``dam train``: config -> table -> store -> warm start -> one model a disease -> predictions -> report."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from dam.compose import from_yaml, to_yaml
from dam.config import Config
from dam.data import fingerprint, load_table
from dam.data.augment import check_augment
from dam.data.store import open_store
from dam.data.table import ImageTable, check
from dam.errors import UserError
from dam.files import atomic_write_text
from dam.models.backbones import build_model, check_model
from dam.training import rundir, tracking, warmstart
from dam.training.device import Device, resolve
from dam.training.environment import describe
from dam.training.failures import explained
from dam.training.inputs import Inputs, on_paper
from dam.training.interrupt import Interrupted, StopRequest, terminated_as_interrupted
from dam.training.networks import disease_network
from dam.training.plan import WARM_START, PlannedStage, make_plan
from dam.training.predict import write_images, write_predictions
from dam.training.probe import probe_rate
from dam.training.progress import attach_log, detach_log
from dam.training.resume import accept_changes, check_same_data
from dam.training.rundir import RunDirectory, resume_command
from dam.training.stage import Stage, StageTools

OVERFIT_STEPS = 200  # of debug=overfit, where an epoch is one batch

log = logging.getLogger("dam")


@dataclass(frozen=True)
class RunResult:
    """Where the run is, what a sweeper may maximize, and the lines to end with."""

    run_dir: Path
    mean_val_auc: float
    table: str
    exit_code: int = 0


def start(cfg: Config, command: list[str], shared_warm_starts: Path | None = None) -> RunResult:
    """A new run. ``shared_warm_starts``: a sweep's folder in which jobs leave their warm starts to one another.

    The directory is made after everything that a user's mistake can stop, the image store included.
    """
    cfg = _with_debug(cfg)
    if cfg.run_dir is not None:
        rundir.check_free(Path(cfg.run_dir))
    with terminated_as_interrupted():
        device, table = _check(cfg)
        if cfg.dry_run:
            from dam.training.dryrun import dry_run

            return RunResult(Path(), math.nan, dry_run(cfg, table, device))
        inputs = _inputs(cfg, table, device)
        facts = _data_facts(inputs), describe(command, cfg.seed, str(device.device))
        run = rundir.create(cfg.run_dir, cfg.name, to_yaml(cfg))
        return _guarded(cfg, run, inputs, device, facts, shared_warm_starts)


def resume(run_dir: Path, overrides: list[str], command: list[str]) -> RunResult:
    """Go on with a run as if it had never stopped. ``overrides`` may only move it, or lengthen its open part."""
    run = rundir.open_run(run_dir)
    try:
        before = from_yaml(run.config_file.read_text(encoding="utf-8"))
        cfg = accept_changes(run, before, overrides)
        if run.finished():
            table = (run.path / "report" / "table.txt").read_text(encoding="utf-8")
            return RunResult(run.path, _mean_val_auc(run), _finished_words(run, table))
        with terminated_as_interrupted():
            device, table_of_images = _check(cfg, run)
            inputs = _inputs(cfg, table_of_images, device)
            facts = _data_facts(inputs), describe(command, cfg.seed, str(device.device))
            check_same_data(run, facts[0])
            if cfg != before:
                atomic_write_text(run.config_file, to_yaml(cfg))
            run.tidy()
            return _guarded(cfg, run, inputs, device, facts, None)
    finally:
        run.close()


def _check(cfg: Config, run: RunDirectory | None = None) -> tuple[Device, ImageTable]:
    """All that can be known before the first expensive step, and before a directory is made.

    What a resumed run has in its directory already is not asked for again from outside.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("this version trains in one process: start `dam train` without torchrun")
    device = resolve(cfg)
    check_augment(cfg.augment)
    tracking.make_trackers(cfg.tracking).close()
    table = load_table(cfg.data)
    make_plan(cfg, on_paper(cfg, table), run or RunDirectory(Path()))
    check_model(cfg.model, cfg.image_size)
    warmed = run is not None and run.stage_done(run.stage(WARM_START))
    if not warmed:
        warmstart.check_source(cfg, table)
        if cfg.model.weights is not None and (cfg.warm_start is None or cfg.warm_start.run is None):
            build_model(cfg.model, 1, 3, cfg.image_size, cfg.seed)  # fetches the weights before the store is built
    return device, table


def _guarded(
    cfg: Config,
    run: RunDirectory,
    inputs: Inputs,
    device: Device,
    facts: tuple[dict[str, Any], dict[str, Any]],
    shared: Path | None,
) -> RunResult:
    """Run, and leave in progress.json how it ended."""
    handlers = attach_log(run.path / "train.log")
    try:
        run.write_json("data.json", facts[0])
        if (run.path / "environment.json").exists():
            run.append_json("resumed.json", facts[1])
        else:
            run.write_json("environment.json", facts[1])
        return _run(cfg, run, inputs, device, shared)
    except (Interrupted, KeyboardInterrupt):
        run.progress("interrupted")
        message = f"interrupted; go on with: {resume_command(run.path)}"
        return RunResult(run.path, math.nan, message, exit_code=130)
    except BaseException as error:
        known = explained(error, cfg, run)
        _record_failure(run, known)
        if known is error:
            raise
        raise known from error
    finally:
        detach_log(handlers)
        run.close()


def _record_failure(run: RunDirectory, error: BaseException) -> None:
    try:
        run.progress("failed", reason=f"{type(error).__name__}: {error}")
        with open(run.path / "train.log", "a", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
    except OSError:  # a full disk takes no record either; the message on screen is all there is
        pass


def _run(cfg: Config, run: RunDirectory, inputs: Inputs, device: Device, shared: Path | None) -> RunResult:
    log.info("run directory: %s", run.path)
    for note in inputs.table.notes:
        log.info("data: %s", note)
    write_images(run, inputs)
    trackers = tracking.make_trackers(cfg.tracking)
    trackers.start(run.path, {"config": to_yaml(cfg)})
    plan = make_plan(cfg, inputs, run)
    try:
        with StopRequest() as stop:
            tools = StageTools(cfg, run, inputs, device, stop, trackers)
            for number, planned in enumerate(plan, start=1):
                run.progress("running", stage=planned.spec.name, number=number, of=len(plan))
                if planned.spec.name == WARM_START:
                    warmstart.obtain(planned, tools, shared, _train)
                elif not run.stage_done(planned.spec.folder):
                    _train(planned, tools)
                if stop.requested:
                    raise Interrupted
    finally:
        trackers.close()
    run.progress("running", stage="predictions")
    write_predictions(plan, tools)
    run.progress("running", stage="report")
    from dam.report import build_report

    lines = "\n".join(build_report(run.path).lines)
    with open(run.path / "train.log", "a", encoding="utf-8") as file:
        file.write(f"\n{lines}\n")
    run.progress("done")
    return RunResult(run.path, _mean_val_auc(run), f"\n{lines}")


def _inputs(cfg: Config, table: ImageTable, device: Device) -> Inputs:
    store, table = open_store(table, cfg.data, cfg.image_size, max(1, cfg.workers), progress=True)
    if store.skipped:
        table = check(table, cfg.data.leakage)
    check_augment(cfg.augment, cfg.image_size, store.channels)
    inputs = replace(on_paper(cfg, table), store=store, store_rows=store.rows_for(table), pin=device.is_cuda)
    return inputs.overfit(cfg.batch_size) if cfg.debug == "overfit" else inputs


def _data_facts(inputs: Inputs) -> dict[str, Any]:
    """For data.json: what identifies the table, the pixels, and what was left out."""
    pixels = hashlib.sha256("\n".join(inputs.store.digests).encode()).hexdigest()
    return {**fingerprint(inputs.table), "pixels_sha256": pixels, "skipped": inputs.store.skipped}


def _train(planned: PlannedStage, tools: StageTools) -> None:
    """Train one stage and mark it done; the marker is written last."""
    spec = planned.spec
    if planned.probe:
        spec = replace(spec, lr=probe_rate(planned, tools))
    network = disease_network(planned, tools)
    epochs = spec.steps / spec.steps_per_epoch
    log.info("%s: %d steps (%.2f epochs)%s", spec.title, spec.steps, epochs, _form_words(spec.form))
    stage = Stage(spec, tools, network)
    facts = stage.run() if tools.cfg.debug != "profile" else _profiled(stage)
    if spec.name == WARM_START:
        stage.save_last()
    tools.run.mark_done(spec.folder, {**facts, "column": planned.column, "head": planned.head})


def _profiled(stage: Stage) -> dict[str, Any]:
    """``debug=profile``: the stage under torch's profiler, its table in ``profile.txt`` beside metrics.csv."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * stage.device.is_cuda
    with profile(activities=activities) as profiler:
        facts = stage.run()
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40)
    (stage.spec.folder / "profile.txt").write_text(table, encoding="utf-8")
    log.info("%s: profile in %s", stage.spec.title, stage.spec.folder / "profile.txt")
    return facts


def _with_debug(cfg: Config) -> Config:
    """``debug`` shortens a run; the run's config.yaml shows what it became."""
    if cfg.debug == "smoke":
        return replace(cfg, limit_batches=min(cfg.limit_batches or 2, 2))
    if cfg.debug == "overfit":
        steps = min(cfg.limit_batches or OVERFIT_STEPS, OVERFIT_STEPS)
        parts = {
            part: None if stage is None else replace(stage, steps=steps, epochs=None, eval_every=max(1, steps // 10))
            for part, stage in (("warm_start", cfg.warm_start), ("auc", cfg.auc))
        }
        return replace(cfg, select="last", **parts)  # type: ignore[arg-type]
    if cfg.debug == "profile":
        return replace(cfg, limit_batches=min(cfg.limit_batches or 30, 30))
    return cfg


def _form_words(form: str) -> str:
    return {"prior": ", prior form of the loss", "class_mean": ", class-mean form of the loss"}.get(form, "")


def _mean_val_auc(run: RunDirectory) -> float:
    """The mean validation AUC of the second part's model, or of the warm start where there is no second part."""
    rows = json.loads((run.path / "report" / "auc.json").read_text(encoding="utf-8"))["auc"]
    means = {row["model"]: row["auc"] for row in rows if row["split"] == "val" and row["label"] == "mean"}
    chosen: Sequence[str] = [model for model in ("auc", "focal", "ce", "warm_start") if model in means]
    value = means[chosen[0]] if chosen else None
    return float(value) if value is not None else float(np.nan)


def _finished_words(run: RunDirectory, table: str) -> str:
    return (
        f"{table}\n{run.path} is finished: nothing to resume. To train longer, start a new run from its warm start: "
        f"dam train ... warm_start.run={quote(str(run.path))} auc.epochs=N"
    )
