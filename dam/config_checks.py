"""Checks that cross fields: combinations that make no sense, named before anything is read or trained.

Types and ranges of single keys are ``dam.schema``'s. Every check is a generator of faults over a typed ``Config``;
what needs the data (labels that exist, counts) is checked where the data is. Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dam.config import (
    AdamConfig,
    AUCSquareConfig,
    ChexpertConfig,
    Config,
    CsvConfig,
    DataConfig,
    ImbalancedConfig,
    ObjectiveConfig,
    PESGConfig,
    PretrainConfig,
    SGDConfig,
    StageConfig,
    StepScheduleConfig,
    TwoClassConfig,
)
from dam.schema import Fault

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_NAME = re.compile(r"\w[\w.-]*")


def cross_faults(cfg: Config) -> list[Fault]:
    """Every combination in ``cfg`` that makes no sense, each a sentence with the way out."""
    faults = [*_run(cfg), *_stages(cfg), *_data(cfg.data), *_folds(cfg.data), *_labels(cfg), *_model(cfg)]
    faults += [*_tta(cfg), *_metadata(cfg), *_evaluation(cfg), *_pretrain(cfg)]
    objectives = (("warm_start", cfg.warm_start), ("auc", cfg.auc), ("control", cfg.control))
    for path, objective in objectives:
        if objective is not None:
            faults += [*_loss(path, objective, cfg), *_form(path, objective), *_schedule(path, objective)]
    for path, stage in objectives[:2]:
        if isinstance(stage, StageConfig):
            faults += _duration(path, stage)
    return faults


def _run(cfg: Config) -> Iterator[Fault]:
    if not _NAME.fullmatch(cfg.name):
        yield Fault("name", f"name='{cfg.name}' names a folder: letters, digits, '_', '-' and '.' only")
    if not _DEVICE.fullmatch(cfg.device):
        yield Fault("device", f"device={cfg.device} is none of auto, cpu, cuda, cuda:N, mps")
    if cfg.batch_size % cfg.accumulate:
        yield Fault("accumulate", f"accumulate={cfg.accumulate} must divide batch_size={cfg.batch_size}: "
                    "batch_size is the effective batch, computed in that many equal parts")  # fmt: skip
    if cfg.precision == "fp16" and cfg.device in ("cpu", "mps"):
        yield Fault("precision", f"precision=fp16 needs a CUDA device, device={cfg.device} has none; use bf16 or fp32")


def _stages(cfg: Config) -> Iterator[Fault]:
    warm, auc, control = cfg.warm_start, cfg.auc, cfg.control
    if warm is None and auc is None and cfg.pretrain is None:
        yield Fault("auc", "auc=none and warm_start=none leave nothing to train; choose one, such as auc=auc_direct")
    if warm is not None and warm.run is not None and auc is None:
        yield Fault("warm_start.run", "warm_start.run takes over a finished warm start and auc=none leaves nothing "
                    "to train after it; choose auc=auc_direct")  # fmt: skip
    if warm is not None and warm.optimizer.lr == "probe":
        yield Fault("warm_start.optimizer.lr", "warm_start.optimizer.lr=probe is not offered: the probe starts from "
                    "a warm start; give a number, such as 1e-4")  # fmt: skip
    if control is None:
        return
    if auc is None:
        yield Fault("control", "control stands beside the second part, and auc=none leaves that out; add control=none")
    elif control.loss.name == auc.loss.name:
        yield Fault("control", f"control={control.loss.name} would be the same models as auc={auc.loss.name}; "
                    "add control=none")  # fmt: skip
    if auc is not None and (auc.optimizer.lr == "probe") != (control.optimizer.lr == "probe"):
        yield Fault("control.optimizer.lr", "auc and control need lr=probe both or neither: three trials against one "
                    "are no fair comparison")  # fmt: skip
    if isinstance(control.loss, AUCSquareConfig):
        yield Fault("control.loss", f"control.loss={control.loss.name} is no control: it is what AUC training is "
                    "compared with, so choose ce or focal")  # fmt: skip


def _duration(path: str, stage: StageConfig | PretrainConfig) -> Iterator[Fault]:
    if (stage.epochs is None) == (stage.steps is None):
        given = "neither is" if stage.epochs is None else "both are"
        yield Fault(f"{path}.epochs", f"{path}.epochs and {path}.steps: exactly one gives the length, {given} set; "
                    f"for a length in steps write {path}.steps=N {path}.epochs=null")  # fmt: skip


def _loss(path: str, objective: ObjectiveConfig, cfg: Config) -> Iterator[Fault]:
    loss, optimizer = objective.loss, objective.optimizer
    pesg = isinstance(optimizer, PESGConfig)
    if not isinstance(loss, AUCSquareConfig):
        if pesg:
            yield Fault(f"{path}.optimizer", f"{path}.optimizer=pesg solves the min-max of an AUC loss, "
                        f"{path}.loss={loss.name} has none; choose adam, adamw or sgd")  # fmt: skip
        return
    if loss.inner == "learned" and not pesg:
        yield Fault(f"{path}.optimizer", f"{path}.optimizer={optimizer.name} cannot minimize a min-max objective; use "
                    f"{path}.optimizer=pesg, or the direct form with {path}.loss.inner=batch")  # fmt: skip
    if loss.inner == "batch":
        yield from _direct_form(path, objective, cfg, pesg)
    if loss.score in ("bsn", "bsn_sqrt") and cfg.accumulate > 1 and loss.inner == "learned":
        yield Fault("accumulate", f"accumulate={cfg.accumulate} with {path}.loss.score={loss.score}: the norm of the "
                    "batch cannot be taken in parts; use accumulate=1 or score=sigmoid")  # fmt: skip
    if loss.init == "closed_form" and loss.inner == "batch":
        yield Fault(f"{path}.loss.init", f"{path}.loss.init=closed_form sets a, b and alpha, which inner=batch has not "
                    "(they are at their optimum in every batch); use init=zeros")  # fmt: skip


def _direct_form(path: str, objective: ObjectiveConfig, cfg: Config, pesg: bool) -> Iterator[Fault]:
    if pesg:
        yield Fault(f"{path}.optimizer", f"{path}.loss.inner=batch leaves PESG no inner problem to solve; choose "
                    f"{path}.optimizer=adamw, adam or sgd, or {_papers(path)}")  # fmt: skip
    if cfg.accumulate > 1:
        yield Fault("accumulate", f"accumulate={cfg.accumulate} with {path}.loss.inner=batch: the class means of the "
                    f"batch cannot be taken in parts; use accumulate=1 or {_papers(path)}")  # fmt: skip
    joint = path == "warm_start" or (cfg.auc is not None and cfg.auc.heads == "joint")
    if not isinstance(objective.sampler, TwoClassConfig) and not joint:
        yield Fault(f"{path}.sampler", f"{path}.loss.inner=batch needs both classes in every batch; choose "
                    f"{path}.sampler=two_class, or {_papers(path)}")  # fmt: skip


def _papers(path: str) -> str:
    """How the papers' min-max form is chosen instead."""
    return "auc=auc_margin (with PESG)" if path == "auc" else f"{path}.loss.inner=learned with {path}.optimizer=pesg"


def _form(path: str, objective: ObjectiveConfig) -> Iterator[Fault]:
    """The rule of prior and sampler: eq. (8) with the training prior holds for batches at the natural rate only."""
    loss, sampler, key = objective.loss, objective.sampler, f"{path}.loss.prior"
    if not isinstance(loss, AUCSquareConfig):
        return
    if loss.inner == "batch" and loss.form == "prior":
        yield Fault(f"{path}.loss.form", f"{path}.loss.form=prior has no direct form: with inner=batch use form=auto")
    number = loss.prior if isinstance(loss.prior, float) else None
    if number is not None and (loss.inner == "batch" or loss.form == "class_mean"):
        unused = "inner=batch" if loss.inner == "batch" else "form=class_mean"
        yield Fault(key, f"{key}={number:g} is not used with {unused}; use prior=batch")
    elif loss.form != "class_mean" and loss.inner == "learned" and not isinstance(sampler, TwoClassConfig):
        if loss.prior == "batch":
            yield Fault(key, f"{key}=batch with {path}.sampler={sampler.name}: batches without positives would teach "
                        f"nothing; use {key}=train, the training set's share")  # fmt: skip
    elif loss.form != "class_mean" and loss.inner == "learned" and isinstance(sampler, TwoClassConfig):
        rate = sampler.sampling_rate
        if loss.form == "prior" and loss.prior == "train":
            yield Fault(key, f"{key}=train contradicts {path}.sampler=two_class, whose batches hold {rate:g} positives "
                        "and not the training share: use prior=batch, form=class_mean, or sampler=shuffle")  # fmt: skip
        elif number is not None and abs(number - rate) > 1e-9:
            yield Fault(key, f"{key}={number:g} contradicts {path}.sampler.sampling_rate={rate:g}: batches must be "
                        "drawn at the prior; make them equal or use prior=batch")  # fmt: skip


def _schedule(path: str, objective: ObjectiveConfig | PretrainConfig) -> Iterator[Fault]:
    schedule, key = objective.schedule, f"{path}.schedule"
    if schedule.unit == "fraction" and schedule.warmup >= 1:
        yield Fault(f"{key}.warmup", f"{key}.warmup={schedule.warmup:g} is a fraction of the stage: below 1")
    if isinstance(schedule, StepScheduleConfig):
        if sorted(set(schedule.at)) != schedule.at:
            yield Fault(f"{key}.at", f"{key}.at must rise, got {schedule.at}")
        if schedule.unit == "fraction" and any(at >= 1 for at in schedule.at):
            yield Fault(f"{key}.at", f"{key}.at={schedule.at} are fractions of the stage: each below 1")
    optimizer = objective.optimizer
    if isinstance(optimizer, AdamConfig) and len(optimizer.betas) != 2:
        yield Fault(f"{path}.optimizer.betas", f"{path}.optimizer.betas holds two numbers, got {optimizer.betas}")
    if isinstance(optimizer, SGDConfig) and optimizer.nesterov and optimizer.momentum == 0:
        yield Fault(f"{path}.optimizer.nesterov", f"{path}.optimizer.nesterov=true needs a momentum above 0")


def _data(data: DataConfig) -> Iterator[Fault]:
    where = data.root
    if isinstance(data, CsvConfig):
        where = data.root or data.csv
        if data.patient_regex is not None and data.patient_column is not None:
            yield Fault("data.patient_regex", f"data.patient_regex and data.patient_column={data.patient_column} both "
                        "name the patients; leave one of them out")  # fmt: skip
    if where is None and data.name != "phantom":
        also = " or data.csv=FILE" if isinstance(data, CsvConfig) else ""
        yield Fault("data.root", f"data.root is not set: say where {data.name} is, data.root=FOLDER{also}")
    if data.imratio is not None and isinstance(data, ChexpertConfig):
        yield Fault("data.imratio", f"data.imratio={data.imratio:g} removes positives of one label; data={data.name} "
                    "has several and is not thinned; use data=csv or data=cifar10")  # fmt: skip
    if data.folds is None and data.val_fraction + data.test_fraction >= 1:
        yield Fault("data.val_fraction", f"data.val_fraction={data.val_fraction:g} and data.test_fraction="
                    f"{data.test_fraction:g} leave nothing to train on")  # fmt: skip
    for name, bounds in data.smooth.items():
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
            yield Fault(f"data.smooth.{name}", f"data.smooth.{name}={bounds} is no range: [low, high] with "
                        "0 <= low <= high <= 1")  # fmt: skip
    smoothed = [name for name, policy in data.uncertain.items() if policy == "smooth"]
    for name in smoothed:
        if name not in data.smooth and "default" not in data.smooth:
            yield Fault("data.smooth", f"data.uncertain.{name}=smooth needs its range: data.smooth.{name}=[0.55,0.85]")
    if isinstance(data, ImbalancedConfig) and len(data.labels) > 1:
        yield Fault("data.labels", f"data.labels={data.labels}: {data.name} has one label, upper classes against lower")


def _folds(data: DataConfig) -> Iterator[Fault]:
    folds, fold = data.folds, data.fold
    if folds is None and fold is not None:
        yield Fault("data.folds", f"data.fold={fold} needs the number of folds: data.folds=5")
    elif folds is not None and fold is None:
        yield Fault("data.fold", f"data.folds={folds}: say which fold is validation, data.fold=0 to {folds - 1}, or "
                    "data.fold=all for every one in turn")  # fmt: skip
    elif folds is not None and isinstance(fold, int) and fold >= folds:
        yield Fault(
            "data.fold", f"data.fold={fold} does not exist: the {folds} folds are counted from 0 to {folds - 1}"
        )


def _tta(cfg: Config) -> Iterator[Fault]:
    pipeline = cfg.augment if cfg.tta.augment is None else cfg.tta.augment
    if cfg.tta.copies and not pipeline.train:
        which = "augment=none" if cfg.tta.augment is None else "tta.augment"
        yield Fault("tta.copies", f"tta={cfg.tta.copies} averages augmented copies, and the pipeline of {which} is "
                    "empty: choose one, such as tta.augment=chest, or leave tta out")  # fmt: skip
    if cfg.tta.augment is not None and not cfg.tta.copies:
        yield Fault("tta.augment", "tta.augment has no effect without copies: add tta=30")


def _evaluation(cfg: Config) -> Iterator[Fault]:
    if cfg.evaluation.calibration != "temperature":
        return
    parts = (cfg.warm_start, cfg.auc, cfg.control)
    sampled = any(part is not None and part.sampler.name != "shuffle" for part in parts)
    upsampled = isinstance(cfg.data, ChexpertConfig) and bool(cfg.data.upsample)
    if sampled or upsampled or cfg.data.imratio is not None:
        why = "this run rebalances its classes (two-class sampler, data.imratio, data.upsample)"
        yield Fault("evaluation.calibration", "evaluation.calibration=temperature cannot shift the prior, and "
                    f"{why}; use platt")  # fmt: skip


def _metadata(cfg: Config) -> Iterator[Fault]:
    metadata = cfg.metadata
    if metadata is None:
        return
    if cfg.auc is None:
        yield Fault("metadata", "metadata trains with the objective of the second part, and auc=none leaves that out; "
                    "add metadata=none")  # fmt: skip
    if not metadata.columns:
        yield Fault("metadata.columns", "metadata.columns is empty: name at least one column, or add metadata=none")
    twice = sorted({name for name in metadata.columns if metadata.columns.count(name) > 1})
    if twice:
        yield Fault("metadata.columns", f"metadata.columns names {', '.join(twice)} twice")
    if not metadata.hidden:
        yield Fault("metadata.hidden", "metadata.hidden is empty: give a width a layer, such as [256,128]")


def _pretrain(cfg: Config) -> Iterator[Fault]:
    """Pretraining learns no label and is a run of its own; its batch has rules of its own."""
    pretrain = cfg.pretrain
    if pretrain is None:
        return
    beside = [name for name in ("warm_start", "auc", "control", "metadata") if getattr(cfg, name) is not None]
    if beside:
        yield Fault("pretrain", "pretrain=moco learns no labels and is a run of its own: start it by `dam pretrain`, "
                    f"with {' '.join(f'{name}=none' for name in beside)}")  # fmt: skip
    yield from [*_duration("pretrain", pretrain), *_schedule("pretrain", pretrain), *_contrast(cfg, pretrain)]
    for setting, wrong, instead in (
        (f"accumulate={cfg.accumulate}", cfg.accumulate > 1, "lower batch_size and the learning rate with it"),
        ("compile=true", cfg.compile, "use compile=false"),
        ("sync_bn=true", cfg.sync_bn, "keys are kept from giving themselves away by pretrain.bn_groups"),
        ("select=accuracy", cfg.select == "accuracy", "use select=last, or best (of the probe)"),
        ("data.fold=all", cfg.data.fold == "all", "choose one fold, or leave folds out"),
        (f"tta={cfg.tta.copies}", cfg.tta.copies > 0, "nothing is predicted"),
        ("debug=overfit", cfg.debug == "overfit", "use debug=smoke"),
    ):
        if wrong:
            yield Fault(setting.partition("=")[0], f"{setting} is not offered in pretraining: {instead}")


def _contrast(cfg: Config, pretrain: PretrainConfig) -> Iterator[Fault]:
    batch = cfg.batch_size * (2 if pretrain.symmetric else 1)
    if pretrain.queue % batch:
        both = " (symmetric: two keys an image)" if pretrain.symmetric else ""
        nearest = max(1, round(pretrain.queue / batch)) * batch
        yield Fault("pretrain.queue", f"pretrain.queue={pretrain.queue} must be a multiple of the {batch} keys a step"
                    f"{both}, so that each replaces the oldest: pretrain.queue={nearest}")  # fmt: skip
    if cfg.batch_size % pretrain.bn_groups or cfg.batch_size < 2 * pretrain.bn_groups:
        yield Fault("pretrain.bn_groups", f"pretrain.bn_groups={pretrain.bn_groups} must divide batch_size="
                    f"{cfg.batch_size} into groups of at least two images")  # fmt: skip
    if isinstance(pretrain.optimizer, PESGConfig):
        yield Fault("pretrain.optimizer", "pretrain.optimizer=pesg solves the min-max of an AUC loss, the contrastive "
                    "loss has none; choose sgd, adam or adamw")  # fmt: skip
    if pretrain.optimizer.lr == "probe":
        yield Fault("pretrain.optimizer.lr", "pretrain.optimizer.lr=probe is not offered; give a number, such as .03")


def _labels(cfg: Config) -> Iterator[Fault]:
    labels = cfg.data.labels
    for key, names in (("data.labels", labels), ("auc.labels", cfg.auc.labels if cfg.auc else [])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield Fault(key, f"{key} names {', '.join(twice)} twice")
    if cfg.auc is not None and labels:
        unknown = [name for name in cfg.auc.labels if name not in labels]
        if unknown:
            yield Fault("auc.labels", f"auc.labels: {', '.join(unknown)} not among data.labels={labels}")
    several = len(labels) > 1
    if cfg.warm_start is not None and several and isinstance(cfg.warm_start.sampler, TwoClassConfig):
        yield Fault("warm_start.sampler", "warm_start.sampler=two_class balances one label, the warm start has "
                    f"{len(labels)}; use warm_start.sampler=shuffle")  # fmt: skip
    if cfg.auc is None or cfg.auc.heads != "joint":
        return
    trained = len(cfg.auc.labels) or len(labels)
    for path, objective in (("auc", cfg.auc), ("control", cfg.control)):
        if objective is not None and trained > 1 and isinstance(objective.sampler, TwoClassConfig):
            yield Fault(f"{path}.sampler", f"{path}.sampler=two_class balances one label, auc.heads=joint trains "
                        f"{trained} at once; use {path}.sampler=shuffle or auc.heads=per_disease")  # fmt: skip


def _model(cfg: Config) -> Iterator[Fault]:
    mean, std = cfg.model.mean, cfg.model.std
    if (mean is None) != (std is None):
        yield Fault("model.mean", "model.mean and model.std go together: set both or neither")
    elif mean is not None and std is not None and (len(mean) != len(std) or len(mean) not in (1, 3)):
        yield Fault("model.mean", f"model.mean={mean} and model.std={std} need one number each, or three for colour")
    if mean is not None and cfg.model.normalization == "histogram_255":
        yield Fault("model.normalization", "model.normalization=histogram_255 equalizes each image and takes no mean: "
                    "add model.mean=null model.std=null, or model.normalization=mean_std")  # fmt: skip
