"""``dam pretrain``: a new run, a resumed one, or its plan; the checks that need the data."""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dam.compose import to_yaml
from dam.config import Config, LossConfig, ObjectiveConfig, PretrainConfig, SamplerConfig
from dam.data import load_table
from dam.data.store import open_store
from dam.data.table import ImageTable
from dam.errors import UserError
from dam.models.backbones import build_model
from dam.pretraining.moco import batch_norms
from dam.pretraining.stage import MocoStage
from dam.report.pretraining import build_pretraining_report
from dam.training import checkpoint, distributed, run as training, rundir, single, tracking
from dam.training.device import Device
from dam.training.inputs import Inputs, on_paper
from dam.training.interrupt import StopRequest
from dam.training.loop import StageSpec, StageTools
from dam.training.networks import bare_network
from dam.training.rundir import RunDirectory
from dam.training.single import RunResult

log = logging.getLogger("dam")

NAME = "pretrain"  # of the stage and its folder
_TIMED = 3  # steps of a dry run; the first pays for warming up


def start(cfg: Config, command: list[str]) -> RunResult:
    """A new run of `dam pretrain`."""
    return training.start(cfg, command, kind=KIND)


def resume(run_dir: Path, overrides: list[str], command: list[str]) -> RunResult:
    """Go on with a run of `dam pretrain` as if it had never stopped."""
    return training.resume(run_dir, overrides, command, kind=KIND)


# ---------------------------------------------------------------- before the first step


def _checked(cfg: Config, run: RunDirectory | None) -> tuple[Device, ImageTable]:
    device = single.check_setup(cfg)
    table = load_table(cfg.data, labelled=False)
    _plan(cfg, on_paper(cfg, table), RunDirectory(Path()))
    if cfg.model.weights is not None and not (run is not None and _begun(run)):
        build_model(cfg.model, 0, 3, cfg.image_size, cfg.seed)  # fetches the weights before the store is built
    return device, table


def settings_of(cfg: Config) -> PretrainConfig:
    """``cfg.pretrain``. Raises ``UserError`` where there is none."""
    if cfg.pretrain is None:
        raise UserError("pretrain=none leaves nothing to pretrain; choose pretrain=moco, or train with `dam train`")
    return cfg.pretrain


def _plan(cfg: Config, inputs: Inputs, run: RunDirectory) -> StageSpec:
    """The stage, durations in steps. Raises ``UserError`` if the training images are too few for batch or queue."""
    settings, images = settings_of(cfg), len(inputs.splits["train"])
    if images < cfg.batch_size:
        raise UserError(f"batch_size={cfg.batch_size} is more than the {images} training images; lower it")
    if settings.queue >= images:
        step = cfg.batch_size * (1 + settings.symmetric)
        most = max(step, images // 4 // step * step)
        raise UserError(
            f"pretrain.queue={settings.queue} keys of {images} training images: the queue would hold keys of the very "
            f"image that is looked for; it must be well below their number: pretrain.queue={most}"
            + (", with a smaller batch_size" if most >= images else "")
        )
    processes = distributed.world()
    if cfg.batch_size % processes or settings.bn_groups % processes:
        raise UserError(
            f"{processes} processes must share batch_size={cfg.batch_size} and pretrain.bn_groups={settings.bn_groups} "
            "evenly: the queue takes as many keys from each; choose multiples of their number"
        )
    per_epoch = images // cfg.batch_size
    steps = settings.steps if settings.steps is not None else max(1, round((settings.epochs or 1) * per_epoch))
    if cfg.limit_batches is not None:
        steps = min(steps, cfg.limit_batches)
    if settings.optimizer.lr == "probe":
        raise UserError("pretrain.optimizer.lr=probe is not offered; give a number")
    return StageSpec(
        name=NAME,
        title=NAME,
        labels=inputs.table.labels,
        objective=ObjectiveConfig(LossConfig("moco"), settings.optimizer, settings.schedule, SamplerConfig("shuffle")),
        form="",
        lr=settings.optimizer.lr,
        steps=steps,
        steps_per_epoch=per_epoch,
        ema=None,
        clip_norm=settings.clip_norm,
        eval_every=min(steps, max(1, round(settings.eval_every * per_epoch))),
        seed=int(np.random.SeedSequence([cfg.seed, 4]).generate_state(1)[0]),
        folder=run.stage(NAME),
    )


def _begun(run: RunDirectory) -> bool:
    folder = run.stage(NAME)
    return any((folder / name).exists() for name in (checkpoint.NEWEST, checkpoint.BEFORE, rundir.DONE))


def _stage(cfg: Config, tools: StageTools, spec: StageSpec, weights: str | None) -> MocoStage:
    network = bare_network(cfg, tools.device, tools.inputs.store.channels, 0, weights)
    return MocoStage(spec, tools, network, settings_of(cfg))


# ---------------------------------------------------------------- in the directory


def _train(
    cfg: Config, run: RunDirectory, inputs: Inputs, device: Device, command: list[str], shared: Path | None
) -> RunResult:
    """The stage, unless it has ended, and the report."""
    log.info("run directory: %s", run.path)
    for note in inputs.table.notes:
        log.info("data: %s", note)
    trackers = tracking.make_trackers(cfg.tracking)
    trackers.start(run.path, {"config": to_yaml(cfg)})
    spec = _plan(cfg, inputs, run)
    try:
        with StopRequest() as stop:
            tools = StageTools(cfg, run, inputs, device, stop, trackers)
            run.progress("running", stage=NAME, number=1, of=1)
            if not run.stage_done(spec.folder):
                stage = _stage(cfg, tools, spec, None if _begun(run) else cfg.model.weights)
                for line in _remarks(stage, spec):
                    log.info("%s: %s", NAME, line)
                run.mark_done(spec.folder, stage.run() if cfg.debug != "profile" else single.profiled(stage))
    finally:
        trackers.close()
    lines = distributed.from_main(lambda: _concluded(run))
    return RunResult(run.path, _value(run), f"\n{lines}")


def _concluded(run: RunDirectory) -> str:
    run.progress("running", stage="report")
    lines = "\n".join(build_pretraining_report(run.path))
    with open(run.path / "train.log", "a", encoding="utf-8") as file:
        file.write(f"\n{lines}\n")
    run.progress("done")
    return lines


def _finished(run: RunDirectory, before: Config, cfg: Config) -> RunResult:
    table = (run.path / "report" / "table.txt").read_text(encoding="utf-8")
    return RunResult(run.path, _value(run), f"{table}{run.path} is finished: nothing to resume")


def _value(run: RunDirectory) -> float:
    value = run.read_json(f"{NAME}/{rundir.DONE}")["probe_auc"]
    return math.nan if value is None else float(value)


def _remarks(stage: MocoStage, spec: StageSpec) -> list[str]:
    """What the log says of the run before its first step."""
    settings, images = stage.settings, len(stage.rows)
    epochs = spec.steps / spec.steps_per_epoch
    lines = [
        f"{images} images, {spec.steps} steps ({epochs:.2f} epochs) of {stage.cfg.batch_size}, queue of "
        f"{settings.queue}: the loss of no idea is {math.log(settings.queue + 1):.2f}"
    ]
    if not batch_norms(stage.network.model):
        lines.append("this network has no BatchNorm: nothing to group")
    else:
        lines.append(f"BatchNorm in {settings.bn_groups} groups a batch" + (", keys in another order than queries"
                     if settings.bn_groups > 1 else ": it may give a key away"))  # fmt: skip
    if 2 * settings.queue > images:
        lines.append(f"the queue holds the keys of {settings.queue / images:.0%} of the training images: many of its "
                     "entries will be older keys of the image that is looked for")  # fmt: skip
    if stage.probe.usable:
        counts = f"{len(stage.probe.rows)} labelled training and {len(stage.probe.val_rows)} validation images"
        lines.append(f"the probe is fitted and judged on {counts}")
    else:
        lines.append("no probe: it needs training and validation images with both classes of a label; the loss and "
                     "top-1 are all there is to see")  # fmt: skip
    return lines


def _dry_run(cfg: Config, table: ImageTable, device: Device) -> str:
    """The plan as text, with some steps timed on a sample of the images; nothing is left on disk."""
    plan = _plan(cfg, on_paper(cfg, table), RunDirectory(Path()))
    chosen = np.sort(np.concatenate([table.split("train")[: cfg.batch_size * _TIMED], table.split("val")[:2]]))
    with tempfile.TemporaryDirectory(prefix="dam-dry-run-") as folder:
        run = RunDirectory(Path(folder) / "run")
        sample = table.with_frame(table.frame.iloc[chosen])
        store_cfg = replace(cfg.data, store=folder)
        store, sample = open_store(sample, store_cfg, cfg.image_size, max(1, cfg.workers), progress=False)
        inputs = replace(on_paper(cfg, sample), store=store, store_rows=store.rows_for(sample))
        tools = StageTools(cfg, run, inputs, device, StopRequest(), tracking.Trackers([]))
        spec = replace(plan, steps=_TIMED, folder=Path(folder) / NAME)
        stage = _stage(cfg, tools, spec, None)
        seconds = stage.time_steps()
        remarks = [f"parameters: {sum(p.numel() for p in stage.network.parameters()) / 1e6:.2f} million"]
    lines: list[Any] = [f"plan of {cfg.name}: {cfg.model.name}, {cfg.image_size} x {cfg.image_size}"]
    lines += [f"data: {note}" for note in table.notes]
    lines += [
        f"{NAME}: moco with {settings_of(cfg).optimizer.name}, {plan.steps} steps = "
        f"{plan.steps / plan.steps_per_epoch:.2f} epochs of {len(table.split('train'))} images, evaluated every "
        f"{plan.eval_every}, about {seconds * plan.steps / 60:.1f} min on {device.device}, evaluations not counted",
        *remarks,
        f"{len(chosen)} of {len(table)} images were decoded; nothing was written; leave out dry_run=true to start",
    ]
    return "\n".join(lines)


KIND = training.Kind(_checked, _dry_run, _train, _finished)
