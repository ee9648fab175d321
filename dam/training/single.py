"""One run directory from config to report: warm start, one model a disease, control, metadata, predictions."""

from __future__ import annotations

import hashlib
import logging
import math
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from dam import memory
from dam.compose import read_config, to_yaml, value_at
from dam.config import Config, EvaluationConfig
from dam.data import fingerprint, load_table
from dam.data.augment import check_augment, check_on_device
from dam.data.store import ImageStore, adapt_table, open_store
from dam.data.table import ImageTable, check, without_names
from dam.errors import UserError
from dam.evaluation.reader_tables import read_readers
from dam.models.backbones import build_model, check_model, weights_facts, with_input
from dam.processes import place
from dam.report.run_files import ANONYMIZED
from dam.schema import all_keys
from dam.training import anonymize, distributed, tracking, warmstart
from dam.training.device import Device, resolve
from dam.training.environment import describe
from dam.training.examples import write_examples
from dam.training.failures import explained
from dam.training.inputs import Inputs, on_paper
from dam.training.interrupt import Interrupted, StopRequest
from dam.training.loop import Loop, StageTools
from dam.training.metadata import tools_of
from dam.training.networks import disease_network
from dam.training.plan import WARM_START, PlannedStage, make_plan
from dam.training.predict import write_images, write_predictions
from dam.training.probe import probe_rate
from dam.training.progress import attach_log, detach_log
from dam.training.rundir import RunDirectory, resume_command
from dam.training.stage import Stage

HEADLINE = ("auc", "focal", "ce", "warm_start")  # the first that a run has is its result
SAMPLE = 256  # images whose content data.json has, so that a resume can say which one changed
OVERFIT_STEPS = 200  # of debug=overfit, where an epoch is one batch

log = logging.getLogger("dam")


@dataclass(frozen=True)
class RunResult:
    """Where the run is, what a sweeper may maximize, and the lines to end with."""

    run_dir: Path
    mean_val_auc: float
    table: str
    exit_code: int = 0


# ---------------------------------------------------------------- before the directory


def checked(cfg: Config, run: RunDirectory | None = None) -> tuple[Device, ImageTable]:
    """All that can be known before the first expensive step, and before a directory is made.

    What a resumed run has in its directory already is not asked for again from outside.
    """
    device = check_setup(cfg)
    return device, check_data(cfg, run)


def check_setup(cfg: Config) -> Device:
    """Processes, device, augmentation, trackers and model, which need no data. Raises ``UserError``."""
    _check_processes(cfg)
    device = resolve(cfg)
    if cfg.sync_bn and distributed.world() > 1 and not device.is_cuda:
        raise UserError("sync_bn=true needs CUDA devices: leave it out, or take a network without BatchNorm")
    check_augment(cfg.augment)
    if cfg.augment_on == "device":
        check_on_device(cfg.augment, cfg.image_size)
    if cfg.tta.augment is not None:
        check_augment(cfg.tta.augment, key="tta.augment.train")
    tracking.make_trackers(cfg.tracking).close()
    check_model(cfg.model, cfg.image_size)
    return device


def _check_processes(cfg: Config) -> None:
    started, joined = place().world, distributed.world()
    if started > joined:
        what = "dry_run=true" if cfg.dry_run else "this command"
        raise UserError(f"{started} processes were started, but {what} is for one: start it without torchrun or srun")
    if joined > 1 and cfg.batch_size < 2 * joined:
        raise UserError(
            f"batch_size={cfg.batch_size} is shared by {joined} processes, and each needs two images or more: set "
            f"batch_size={2 * joined} or higher, or start fewer processes"
        )


def check_data(cfg: Config, run: RunDirectory | None = None) -> ImageTable:
    """The table, with plan, batch, labels and the source of the warm start checked. Raises ``UserError``."""
    table = load_table(cfg.data)
    make_plan(cfg, on_paper(cfg, table), run or RunDirectory(Path()))
    _check_evaluation(cfg.evaluation, table)
    warmed = run is not None and run.stage_done(run.stage(WARM_START))
    if not warmed:
        warmstart.check_source(cfg, table)
        if cfg.model.weights is not None and (cfg.warm_start is None or cfg.warm_start.run is None):
            build_model(cfg.model, 1, 3, cfg.image_size, cfg.seed)  # fetches the weights before the store is built
    return table


def _check_evaluation(cfg: EvaluationConfig, table: ImageTable) -> None:
    """What the report would stumble over at the very end."""
    if cfg.readers is not None:
        read_readers(cfg.readers)
    absent = [column for column in cfg.subgroups if column not in table.metadata]
    if absent:
        raise UserError(
            f"evaluation.subgroups names {', '.join(absent)}, which is no metadata column of {table.name}; it has "
            f"{', '.join(table.metadata) or 'none'}"
        )


def inputs_of(cfg: Config, table: ImageTable, device: Device, store: ImageStore | None = None) -> Inputs:
    """Inputs over the image store of ``table``, built if there is none, or over an open ``store`` that has its
    images."""
    if store is None:
        with distributed.main_first():
            shown = distributed.is_main()
            store, table = open_store(table, cfg.data, cfg.image_size, max(1, cfg.workers), progress=shown)
    else:
        table = adapt_table(store, table, cfg.data)
    together = cfg.data.fold == "all"  # the images of all folds, of which none is validation
    if store.skipped:
        labelled = cfg.pretrain is None
        table = check(table, cfg.data.leakage, labelled and not together, labelled)
    check_augment(cfg.augment, cfg.image_size, store.channels)
    if cfg.tta.augment is not None:
        check_augment(cfg.tta.augment, cfg.image_size, store.channels, key="tta.augment.train")
    inputs = replace(on_paper(cfg, table), store=store, store_rows=store.rows_for(table), device=device.device)
    names = anonymize.for_run(cfg)
    if names is not None:
        inputs = replace(inputs, table=names.table(table, anonymize.kept_metadata(cfg)), pseudonyms=names)
    return inputs.overfit(cfg.batch_size) if cfg.debug == "overfit" and not together else inputs


def data_facts(inputs: Inputs) -> dict[str, Any]:
    """For data.json: what identifies the table and the pixels, the content of some images, and what was left out."""
    store, names = inputs.store, inputs.pseudonyms
    own = [store.digests[row] for row in np.unique(inputs.store_rows).tolist()]
    pixels = hashlib.sha256("\n".join(own).encode()).hexdigest()
    some = np.unique(np.linspace(0, len(inputs.table) - 1, SAMPLE).round().astype(np.int64))
    content = [store.digests[row] for row in inputs.store_rows[some].tolist()]
    skipped = store.skipped
    if names is not None:
        content = [names.digest(digest) for digest in content]
        skipped = {names.name(image): without_names(why, {Path(image).name}) for image, why in skipped.items()}
    facts = {
        **fingerprint(inputs.table),
        "pixels_sha256": pixels,
        "content": dict(zip(inputs.names(some), content, strict=True)),
        "skipped": skipped,
        "store": str(store.path),
    }
    return facts if names is None else {**facts, ANONYMIZED: names.mark}


def describe_run(command: list[str], cfg: Config, device: Device) -> dict[str, Any]:
    """For environment.json: versions, hardware, seed, command, and the weights that training begins with."""
    facts = describe(command, cfg.seed, str(device.device)) | {"processes": distributed.world()}
    seeds = {key: value_at(cfg, key) for key in all_keys() if key.endswith("seed")}
    facts["seeds"] = {key: seed for key, seed in seeds.items() if seed is not None}
    if cfg.model.weights is not None and (cfg.warm_start is None or cfg.warm_start.run is None):
        facts["weights"] = weights_facts(cfg.model, cfg.image_size)
    return facts


def with_debug(cfg: Config) -> Config:
    """``debug`` shortens a run; the run's config.yaml shows what it became."""
    if cfg.debug == "smoke":
        return replace(cfg, limit_batches=min(cfg.limit_batches or 2, 2))
    if cfg.debug == "overfit":
        steps = min(cfg.limit_batches or OVERFIT_STEPS, OVERFIT_STEPS)
        parts: dict[str, Any] = {
            part: None if stage is None else replace(stage, steps=steps, epochs=None, eval_every=max(1, steps // 10))
            for part, stage in (("warm_start", cfg.warm_start), ("auc", cfg.auc))
        }
        if cfg.metadata is not None:  # an epoch is one batch
            parts["metadata"] = replace(cfg.metadata, epochs=steps, eval_every=max(1, steps // 10))
        return replace(cfg, select="last", **parts)
    if cfg.debug == "profile":
        return replace(cfg, limit_batches=min(cfg.limit_batches or 30, 30))
    return cfg


def with_known_input(cfg: Config) -> Config:
    """``model.normalization=auto`` decided, so that the run's config.yaml says what its networks are given.

    It follows the weights: the run of ``warm_start.run``, or a file of ``model.weights`` of a known family. Raises
    ``UserError`` for a file that cannot be read.
    """
    model = cfg.model
    source = cfg.warm_start.run if cfg.warm_start is not None else None
    if source is None:
        return replace(cfg, model=with_input(model))
    file = Path(source) / "config.yaml"
    if model.normalization == "auto" and model.mean is None and file.is_file():
        other = read_config(file).model
        return replace(cfg, model=replace(model, mean=other.mean, std=other.std, normalization=other.normalization))
    decided = with_input(replace(model, weights=None))
    return replace(cfg, model=replace(decided, weights=model.weights))


# ---------------------------------------------------------------- in the directory


def guarded(
    cfg: Config,
    run: RunDirectory,
    facts: tuple[dict[str, Any], dict[str, Any]],
    body: Callable[[], RunResult],
    quiet: bool = False,
) -> RunResult:
    """Do ``body``, and leave in progress.json how it ended. ``quiet``: the log goes to the run's file only."""
    memory.keep_freed()
    handlers = attach_log(run.path / "train.log", quiet) if distributed.is_main() else []
    try:
        run.write_json("data.json", facts[0])
        if (run.path / "environment.json").exists():
            run.append_json("resumed.json", facts[1])
        else:
            run.write_json("environment.json", facts[1])
        return body()
    except (Interrupted, KeyboardInterrupt):
        with suppress(OSError):  # a full disk; where it stood is in the checkpoint
            run.progress("interrupted")
        message = f"interrupted; go on with: {resume_command(run.path)}"
        return RunResult(run.path, math.nan, message, exit_code=130)
    except BaseException as error:
        known = explained(error, cfg, run)
        distributed.failed(known)
        _record_failure(run, known)
        if known is error:
            raise
        raise known from error
    finally:
        detach_log(handlers)
        run.close()


def _record_failure(run: RunDirectory, error: BaseException) -> None:
    if not distributed.is_main():
        return
    try:
        run.progress("failed", reason=f"{type(error).__name__}: {error}")
        with open(run.path / "train.log", "a", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
    except OSError:  # a full disk takes no record either; the message on screen is all there is
        pass


def train(
    cfg: Config, run: RunDirectory, inputs: Inputs, device: Device, command: list[str], shared: Path | None
) -> RunResult:
    """All stages that are not finished, then predictions and report."""
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
                    _train(planned, tools_of(planned, tools))
                if distributed.any_of(stop.requested):
                    raise Interrupted
    finally:
        trackers.close()
    run.progress("running", stage="predictions")
    memory.return_freed()
    write_predictions(plan, tools)
    lines = distributed.from_main(lambda: concluded(run, inputs))
    return RunResult(run.path, mean_val_auc(run), f"\n{lines}")


def concluded(run: RunDirectory, inputs: Inputs) -> str:
    """Examples and report of a run with predictions, which is then done; the lines to end with."""
    write_examples(run, inputs)
    run.progress("running", stage="report")
    lines = report(run)
    run.progress("done")
    return lines


def report(run: RunDirectory) -> str:
    """Build the report; its last lines, which also end train.log."""
    from dam.report import build_report

    lines = "\n".join(build_report(run.path).lines)
    with open(run.path / "train.log", "a", encoding="utf-8") as file:
        file.write(f"\n{lines}\n")
    return lines


def _train(planned: PlannedStage, tools: StageTools) -> None:
    """Train one stage and mark it done; the marker is written last."""
    memory.return_freed()
    spec = planned.spec
    if planned.probe:
        spec = replace(spec, lr=probe_rate(planned, tools))
    network = disease_network(planned, tools)
    epochs = spec.steps / spec.steps_per_epoch
    log.info("%s: %d steps (%.2f epochs)%s", spec.title, spec.steps, epochs, _form_words(spec.form))
    stage = Stage(spec, tools, network)
    facts = stage.run() if tools.cfg.debug != "profile" else profiled(stage)
    if spec.name == WARM_START:
        stage.save_last()
    tools.run.mark_done(spec.folder, {**facts, "column": planned.column, "head": planned.head})


def profiled(stage: Loop) -> dict[str, Any]:
    """``debug=profile``: the stage under torch's profiler, its table in ``profile.txt`` beside metrics.csv."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * stage.device.is_cuda
    with profile(activities=activities) as profiler:
        facts = stage.run()
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40)
    if distributed.is_main():
        (stage.spec.folder / "profile.txt").write_text(table, encoding="utf-8")
    log.info("%s: profile in %s", stage.spec.title, stage.spec.folder / "profile.txt")
    return facts


def _form_words(form: str) -> str:
    return {"prior": ", prior form of the loss", "class_mean": ", class-mean form of the loss"}.get(form, "")


def mean_val_auc(run: RunDirectory) -> float:
    """The mean validation AUC of the second part's model, or of the warm start where there is no second part."""
    rows = run.read_json("report/auc.json")["auc"]
    means = {row["model"]: row["auc"] for row in rows if row["split"] == "val" and row["label"] == "mean"}
    chosen: Sequence[str] = [model for model in HEADLINE if model in means]
    value = means[chosen[0]] if chosen else None
    return float(value) if value is not None else float(np.nan)


def finished_words(run: RunDirectory, table: str) -> str:
    """What a resume of a finished run says."""
    return (
        f"{table}\n{run.path} is finished: nothing to resume. To train longer, start a new run from its warm start: "
        f"dam train ... warm_start.run={quote(str(run.path))} auc.epochs=N"
    )
