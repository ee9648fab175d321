"""The list of stages of a run, every duration resolved to steps and every choice made before step 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dam.config import AUCSquareConfig, Config, ObjectiveConfig, PESGConfig, ScheduleConfig, StageConfig
from dam.data.sampling import make_sampler
from dam.errors import UserError
from dam.files import slugs
from dam.models.metadata import MetadataEncoding, fit_encoding
from dam.objectives import OBJECTIVES, resolve_form
from dam.training.inputs import Inputs
from dam.training.loop import StageSpec
from dam.training.rundir import RunDirectory

WARM_START, METADATA = "warm_start", "metadata"


@dataclass(frozen=True)
class PlannedStage:
    """A stage with the model column it fills and how its head begins."""

    spec: StageSpec
    column: str  # warm_start, auc, ce, focal, metadata, metadata_ce, metadata_focal
    head: str  # new, redraw, keep
    probe: bool  # lr=probe: the rate in spec is the first of those to try

    @property
    def reads_metadata(self) -> bool:
        """Whether this is a network on metadata columns instead of images."""
        return self.spec.name.startswith(f"{METADATA}/")


def column_of(objective: ObjectiveConfig) -> str:
    """The score column of the second part: ``auc`` for the AUC losses, otherwise the loss's own name."""
    name = objective.loss.name
    return "auc" if OBJECTIVES[name].family == "auc" else name


def make_plan(cfg: Config, inputs: Inputs, run: RunDirectory) -> list[PlannedStage]:
    """All stages in the order they are trained. Raises ``UserError`` for a label that is not in the table."""
    stages = []
    every = inputs.table.labels
    if "mean" in every:
        raise UserError("no label may be called mean: the reports use that row for the mean over labels; rename it")
    if cfg.warm_start is not None:
        stages.append(_stage(cfg, inputs, cfg.warm_start, cfg.warm_start, WARM_START, every, run.stage(WARM_START)))
    if cfg.auc is None:
        return stages
    labels = tuple(cfg.auc.labels) or every
    unknown = [label for label in labels if label not in every]
    if unknown:
        raise UserError(f"auc.labels: {', '.join(unknown)} is no label of this table; it has {', '.join(every)}")
    folder_names = slugs(every)
    groups = [(labels, "joint")] if cfg.auc.heads == "joint" else [((label,), folder_names[label]) for label in labels]
    for part, objective in (("auc", cfg.auc), ("control", cfg.control)):
        if objective is None:
            continue
        for members, slug in groups:
            stages.append(_stage(cfg, inputs, cfg.auc, objective, f"{part}/{slug}", members, run.stage(part, slug)))
    return [*stages, *_metadata_stages(cfg, inputs, groups, run)]


def _metadata_stages(
    cfg: Config, inputs: Inputs, groups: Sequence[tuple[Sequence[str], str]], run: RunDirectory
) -> list[PlannedStage]:
    """``metadata/auc/<slug>`` and, beside a control, ``metadata/control/<slug>``: the losses, samplers and optimizers
    of the image stages at ``metadata.lr``, without a schedule."""
    if cfg.metadata is None or cfg.auc is None:
        return []
    absent = [name for name in cfg.metadata.columns if name not in inputs.table.metadata]
    if absent:
        raise UserError(
            f"metadata.columns: the {inputs.table.name} table has no {' and no '.join(absent)}; it has "
            f"{', '.join(inputs.table.metadata) or 'no metadata'}: metadata.columns=[...]"
        )
    learned_encoding(cfg.metadata.columns, inputs)  # refuses a column that tells rows apart before anything is trained
    length = replace(cfg.auc, epochs=cfg.metadata.epochs, steps=None, eval_every=cfg.metadata.eval_every)
    constant = ScheduleConfig(name="constant", warmup=0.0, unit="epochs")
    stages = []
    for part, objective in (("auc", cfg.auc), ("control", cfg.control)):
        if objective is None:
            continue
        optimizer = replace(objective.optimizer, lr=cfg.metadata.lr)
        ours = ObjectiveConfig(objective.loss, optimizer, constant, objective.sampler)
        for members, slug in groups:
            name = f"{METADATA}/{part}/{slug}"
            stages.append(_stage(cfg, inputs, length, ours, name, members, run.stage(f"{METADATA}/{part}", slug)))
    return stages


def learned_encoding(columns: Sequence[str], inputs: Inputs) -> MetadataEncoding:
    """How metadata columns become features, learned from the training rows alone."""
    training = inputs.table.frame.iloc[inputs.splits["train"]]
    return fit_encoding(columns, {name: training[name].tolist() for name in columns})


def _stage(
    cfg: Config,
    inputs: Inputs,
    length: StageConfig,
    objective: ObjectiveConfig,
    name: str,
    labels: Sequence[str],
    folder: Path,
) -> PlannedStage:
    """``length`` gives what the control shares with the AUC stage it stands beside: steps, averaging, clipping."""
    rows = inputs.known("train", labels)
    targets = inputs.targets(rows, labels)
    if len(rows) < cfg.batch_size:
        raise UserError(
            f"batch_size={cfg.batch_size} is more than the {len(rows)} training images with a label of "
            f"{', '.join(labels)}; lower it"
        )
    # AUC models and control see the same pictures; the warm start sees others.
    part = name.split("/", maxsplit=1)[0]
    seed = _part_seed(cfg.seed, part)
    per_epoch = make_sampler(objective.sampler, targets, cfg.batch_size, seed).steps_per_epoch
    length_per_epoch = make_sampler(length.sampler, targets, cfg.batch_size, seed).steps_per_epoch
    steps = length.steps if length.steps is not None else max(1, round((length.epochs or 1) * length_per_epoch))
    if cfg.limit_batches is not None:
        steps = min(steps, cfg.limit_batches)
    probe = objective.optimizer.lr == "probe"
    lr = probe_rates(objective)[0] if objective.optimizer.lr == "probe" else objective.optimizer.lr
    column = _column(name, objective)
    title = WARM_START.replace("_", " ") if part == WARM_START else f"{column} {', '.join(labels)}"
    spec = StageSpec(
        name=name,
        title=title,
        labels=tuple(labels),
        objective=objective,
        form=_form(objective, name),
        lr=lr,
        steps=steps,
        steps_per_epoch=per_epoch,
        ema=length.ema,
        clip_norm=length.clip_norm,
        eval_every=min(steps, max(1, round(length.eval_every * length_per_epoch))),
        seed=seed,
        folder=folder,
    )
    new = part in (WARM_START, METADATA) or cfg.warm_start is None
    head = "new" if new else cfg.auc.head if cfg.auc else "redraw"
    return PlannedStage(spec, column, head, probe)


def _column(name: str, objective: ObjectiveConfig) -> str:
    part, _, rest = name.partition("/")
    if part == WARM_START:
        return WARM_START
    if part == METADATA:
        return METADATA if rest.startswith("auc/") else f"{METADATA}_{column_of(objective)}"
    return column_of(objective)


def _part_seed(seed: int, part: str) -> int:
    return int(np.random.SeedSequence([seed, {WARM_START: 1, METADATA: 3}.get(part, 2)]).generate_state(1)[0])


def _form(objective: ObjectiveConfig, name: str) -> str:
    loss = objective.loss
    if not isinstance(loss, AUCSquareConfig):
        return ""
    rate = getattr(objective.sampler, "sampling_rate", None)
    try:
        return resolve_form(loss.form, objective.sampler.name, loss.prior, loss.inner, rate)
    except ValueError as error:
        raise UserError(f"{name.partition('/')[0]}.loss.form: {error}") from error


def probe_rates(objective: ObjectiveConfig) -> list[float]:
    """The three rates ``lr=probe`` tries: SGD's scale, or two orders below where the step is Adam's."""
    optimizer = objective.optimizer
    like_sgd = optimizer.name == "sgd" or (isinstance(optimizer, PESGConfig) and optimizer.mode == "sgd")
    return [1e-1, 3e-2, 1e-2] if like_sgd else [1e-3, 3e-4, 1e-4]
