"""``dam train``: config -> table -> store -> warm start -> one model a disease -> predictions -> report."""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dam.compose import from_yaml, to_yaml
from dam.config import Config
from dam.data import fingerprint, load_table
from dam.data.augment import Augment, check_augment
from dam.data.store import open_store
from dam.data.table import ImageTable, check
from dam.models.backbones import build_model
from dam.training import rundir, tracking, warmstart
from dam.training.device import Device, resolve
from dam.training.environment import describe
from dam.training.inputs import Inputs
from dam.training.interrupt import Interrupted, StopRequest
from dam.training.networks import disease_network
from dam.training.plan import WARM_START, PlannedStage, make_plan
from dam.training.predict import write_predictions
from dam.training.probe import probe_rate
from dam.training.progress import attach_log, detach_log
from dam.training.resume import accept_changes, check_same_data
from dam.training.rundir import RunDirectory
from dam.training.stage import Stage, StageTools

log = logging.getLogger("dam")


@dataclass(frozen=True)
class RunResult:
    """Where the run is, what a sweeper may maximize, and the lines to end with."""

    run_dir: Path
    mean_val_auc: float
    table: str
    exit_code: int = 0


def start(cfg: Config, command: list[str], shared_warm_starts: Path | None = None) -> RunResult:
    """A new run. ``shared_warm_starts``: a sweep's folder in which jobs leave their warm starts to one another."""
    cfg = _with_debug(cfg)
    if cfg.run_dir is not None:
        rundir.check_free(Path(cfg.run_dir))
    device, table = _check(cfg)
    if cfg.dry_run:
        from dam.training.dryrun import dry_run

        return RunResult(Path(), math.nan, dry_run(cfg, table, device))
    run = rundir.create(cfg.run_dir, cfg.name, to_yaml(cfg))
    run.write_json("environment.json", describe(command, cfg.seed, str(device.device)))
    run.write_json("data.json", fingerprint(table))
    return _guarded(cfg, run, table, device, shared_warm_starts)


def resume(run_dir: Path, overrides: list[str], command: list[str]) -> RunResult:
    """Go on with a run as if it had never stopped. ``overrides`` may only move it, or lengthen its open part."""
    run = rundir.open_run(run_dir)
    try:
        cfg = accept_changes(run, from_yaml(run.config_file.read_text(encoding="utf-8")), overrides)
        finished = run.finished()
        if finished and not overrides:
            table = (run.path / "report" / "table.txt").read_text(encoding="utf-8")
            return RunResult(run.path, _mean_val_auc(run), _finished_words(run, table))
        device, images = _check(cfg)
        check_same_data(run, fingerprint(images))
    except BaseException:
        run.close()
        raise
    run.append_json("resumed.json", describe(command, cfg.seed, str(device.device)))
    return _guarded(cfg, run, images, device, None)


def _check(cfg: Config) -> tuple[Device, ImageTable]:
    """All that can be known before the first expensive step, and before a directory is made."""
    device = resolve(cfg)
    check_augment(cfg.augment)
    tracking.make_trackers(cfg.tracking).close()
    torch.use_deterministic_algorithms(cfg.deterministic and device.is_cuda, warn_only=True)
    warmstart.check_source(cfg)
    build_model(cfg.model, 1, 3, cfg.image_size, cfg.seed)
    return device, load_table(cfg.data)


def _guarded(cfg: Config, run: RunDirectory, table: ImageTable, device: Device, shared: Path | None) -> RunResult:
    """Run, and leave in progress.json how it ended."""
    handlers = attach_log(run.path / "train.log")
    try:
        return _run(cfg, run, table, device, shared)
    except (Interrupted, KeyboardInterrupt):
        run.progress("interrupted")
        message = f"interrupted; go on with: dam train resume={run.path}"
        return RunResult(run.path, math.nan, message, exit_code=130)
    except BaseException as error:
        run.progress("failed", reason=f"{type(error).__name__}: {error}")
        with open(run.path / "train.log", "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        raise
    finally:
        detach_log(handlers)
        run.close()


def _run(cfg: Config, run: RunDirectory, table: ImageTable, device: Device, shared: Path | None) -> RunResult:
    log.info("run directory: %s", run.path)
    for note in table.notes:
        log.info("data: %s", note)
    inputs = _inputs(cfg, run, table, device)
    trackers = tracking.make_trackers(cfg.tracking)
    trackers.start(run.path, {"config": to_yaml(cfg)})
    plan = make_plan(cfg, inputs, run)
    try:
        with StopRequest() as stop:
            tools = StageTools(cfg, inputs, device, stop, trackers)
            for number, planned in enumerate(plan, start=1):
                run.progress("running", stage=planned.spec.name, number=number, of=len(plan))
                if planned.spec.name == WARM_START:
                    warmstart.obtain(cfg, run, planned, tools, shared, _train)
                elif not run.stage_done(planned.spec.folder):
                    _train(cfg, run, planned, tools)
                if stop.requested:
                    raise Interrupted
    finally:
        trackers.close()
    run.progress("running", stage="predictions")
    write_predictions(cfg, run, plan, tools)
    run.progress("running", stage="report")
    from dam.report import build_report

    report = build_report(run.path)
    run.progress("done")
    return RunResult(run.path, _mean_val_auc(run), "\n".join(report.lines))


def _inputs(cfg: Config, run: RunDirectory, table: ImageTable, device: Device) -> Inputs:
    store, table = open_store(table, cfg.data, cfg.image_size, max(1, cfg.workers), progress=True)
    if store.skipped:
        table = check(table, cfg.data.leakage)
    run.write_json("data.json", {**run.read_json("data.json"), "skipped": store.skipped})
    check_augment(cfg.augment, cfg.image_size, store.channels)
    inputs = Inputs(
        table=table,
        store=store,
        store_rows=store.rows_for(table),
        splits={split: table.split(split) for split in ("train", "val", "test")},
        augment=Augment(cfg.augment, cfg.image_size, cfg.seed) if cfg.augment.train else None,
        workers=cfg.workers,
        pin=device.is_cuda,
    )
    return inputs.overfit(cfg.batch_size) if cfg.debug == "overfit" else inputs


def _train(cfg: Config, run: RunDirectory, planned: PlannedStage, tools: StageTools) -> None:
    """Train one stage and mark it done; the marker is written last."""
    spec = planned.spec
    if planned.probe:
        spec = replace(spec, lr=probe_rate(cfg, run, planned, tools))
    network = disease_network(cfg, run, planned, tools)
    log.info(
        "%s: %d steps (%.2f epochs)%s",
        spec.title,
        spec.steps,
        spec.steps / spec.steps_per_epoch,
        _form_words(spec.form),
    )
    stage = Stage(spec, tools, network)
    facts = stage.run() if cfg.debug != "profile" else _profiled(stage)
    if spec.name == WARM_START:
        stage.save_last()
    run.mark_done(spec.folder, {**facts, "column": planned.column, "head": planned.head})


def _profiled(stage: Stage) -> dict[str, Any]:
    """``debug=profile``: the stage under torch's profiler, its table in ``profile.txt`` beside metrics.csv."""
    from torch.profiler import profile

    with profile() as profiler:
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
        return replace(cfg, select="last")
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
        f"dam train ... warm_start.run={run.path} auc.epochs=N"
    )
