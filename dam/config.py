"""The schema of ``configs/``: one frozen dataclass a node, ranges in the types, and the checks that cross fields.

There are no default values here. The YAML files under ``configs/`` are the only place where a value is chosen;
this file says which keys exist, what type and range each has, and which combinations make no sense.
``dam.compose`` turns YAML and overrides into a checked ``Config``; everything below takes these dataclasses and
knows neither Hydra nor OmegaConf. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``ge``/``le`` inclusive, ``gt``/``lt`` exclusive."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None


Positive = Annotated[float, Range(gt=0)]
NonNegative = Annotated[float, Range(ge=0)]
Share = Annotated[float, Range(ge=0, lt=1)]  # a fraction that may not be everything
OpenShare = Annotated[float, Range(gt=0, lt=1)]
Count = Annotated[int, Range(ge=1)]
Natural = Annotated[int, Range(ge=0)]
Seed = Annotated[int, Range(ge=0, le=2**63 - 1)]
LegacySeed = Annotated[int, Range(ge=0, le=2**32 - 1)]  # data.imratio is drawn by numpy's legacy generator


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class DataConfig:
    """What every dataset has. A dataset with keys of its own subclasses this (see DATA below)."""

    name: str
    root: str | None
    labels: list[str]
    uncertain: dict[str, Literal["zeros", "ones", "ignore", "smooth", "keep"]]
    blank: dict[str, Literal["zeros", "ignore"]]
    smooth: dict[str, list[float]]
    soft: Literal["weights", "resolve"]
    imratio: Annotated[float, Range(gt=0, le=0.5)] | None
    val_fraction: Share
    test_fraction: Share
    folds: Annotated[int, Range(ge=2)] | None
    fold: Natural | Literal["all"] | None
    split_seed: LegacySeed
    unit: Literal["image", "study", "patient"]
    merge: Literal["mean", "max"]
    leakage: Literal["refuse", "allow"]
    on_bad_image: Literal["refuse", "skip"]
    window: Literal["refuse", "file", "full", "stretch"] | list[float]
    colour: Literal["auto", "gray", "rgb"]
    fit: Literal["squash", "crop", "pad"]
    store: str | None


@dataclass(frozen=True)
class ChexpertConfig(DataConfig):
    csv: str | None
    test_csv: str | None
    views: Literal["frontal", "lateral", "all"]
    official_valid: Literal["test", "val"]
    upsample: list[str]


@dataclass(frozen=True)
class PhantomConfig(ChexpertConfig):
    patients: Annotated[int, Range(ge=20)]
    phantom_size: Annotated[int, Range(ge=32)]
    phantom_seed: Seed
    label_noise: Annotated[float, Range(ge=0, lt=0.5)]


@dataclass(frozen=True)
class CsvConfig(DataConfig):
    csv: str | None
    image_column: str | list[str]
    column_roots: dict[str, str]
    more_roots: list[str]
    image_suffix: str | None
    patient_column: str | None
    study_column: str | None
    split_column: str | None
    metadata: list[str]
    positive_class: str | None
    patient_regex: str | None


@dataclass(frozen=True)
class ImbalancedConfig(DataConfig):
    """Benchmarks made imbalanced as in DAM section 4.1: the upper half of the class ids is positive."""

    positive_classes: list[str]


@dataclass(frozen=True)
class CovidxConfig(DataConfig):
    train_list: str | None
    test_list: str | None


@dataclass(frozen=True)
class MelanomaConfig(DataConfig):
    csv: str | None
    images: Literal["auto", "jpeg", "dicom", "tfrecord"]
    external: list[str]
    external_years: Literal["all", "until_2018", "only_2019"]
    duplicates: Literal["drop", "keep"]
    test_groups: list[Natural]


@dataclass(frozen=True)
class DdsmConfig(DataConfig):
    task: Literal["abnormal", "malignant"]


@dataclass(frozen=True)
class PcamConfig(DataConfig):
    official_valid: Literal["val", "train"]


DATA: dict[str, type[DataConfig]] = {
    "chexpert": ChexpertConfig,
    "phantom": PhantomConfig,
    "csv": CsvConfig,
    "covidx8b": CovidxConfig,
    "melanoma": MelanomaConfig,
    "ddsm": DdsmConfig,
    "pcam": PcamConfig,
    "cifar10": ImbalancedConfig,
    "cifar100": ImbalancedConfig,
    "stl10": ImbalancedConfig,
    "cats_dogs": ImbalancedConfig,
}


@dataclass(frozen=True)
class AugmentConfig:
    train: list[dict[str, Any]]


# ---------------------------------------------------------------- model


@dataclass(frozen=True)
class ModelConfig:
    name: str
    weights: str | None
    drop_rate: Share
    drop_path_rate: Share
    mean: list[float] | None
    std: list[Positive] | None
    freeze: list[str]
    lr_scale: dict[str, NonNegative]


# ---------------------------------------------------------------- a stage


@dataclass(frozen=True)
class LossConfig:
    name: str


@dataclass(frozen=True)
class CrossEntropyConfig(LossConfig):
    pass


@dataclass(frozen=True)
class FocalConfig(LossConfig):
    alpha: Annotated[float, Range(ge=0, le=1)]
    gamma: NonNegative


@dataclass(frozen=True)
class AUCSquareConfig(LossConfig):
    margin: Positive
    form: Literal["auto", "prior", "class_mean"]
    prior: OpenShare | Literal["train", "batch"]
    inner: Literal["learned", "batch"]
    score: Literal["sigmoid", "bsn", "bsn_sqrt", "none"]
    init: Literal["zeros", "closed_form"]


@dataclass(frozen=True)
class AUCMarginConfig(AUCSquareConfig):
    pass


LOSSES: dict[str, type[LossConfig]] = {
    "ce": CrossEntropyConfig,
    "focal": FocalConfig,
    "auc_margin": AUCMarginConfig,
    "auc_square": AUCSquareConfig,
}


@dataclass(frozen=True)
class OptimizerConfig:
    name: str
    lr: Positive | Literal["probe"]
    weight_decay: NonNegative


@dataclass(frozen=True)
class PESGConfig(OptimizerConfig):
    gamma: NonNegative
    momentum: Annotated[float, Range(ge=0, lt=1)]
    clip: Positive | None
    mode: Literal["sgd", "adam"]
    variant: Literal["paper", "libauc"]


@dataclass(frozen=True)
class AdamConfig(OptimizerConfig):
    betas: list[Annotated[float, Range(ge=0, lt=1)]]


@dataclass(frozen=True)
class SGDConfig(OptimizerConfig):
    momentum: Annotated[float, Range(ge=0, lt=1)]
    nesterov: bool


OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    "pesg": PESGConfig,
    "adam": AdamConfig,
    "adamw": AdamConfig,
    "sgd": SGDConfig,
}


@dataclass(frozen=True)
class ScheduleConfig:
    name: str
    warmup: NonNegative
    unit: Literal["epochs", "steps", "fraction"]


@dataclass(frozen=True)
class StepScheduleConfig(ScheduleConfig):
    at: list[Positive]
    factor: Annotated[float, Range(gt=0, le=1)]


@dataclass(frozen=True)
class CosineConfig(ScheduleConfig):
    final: Annotated[float, Range(ge=0, le=1)]


@dataclass(frozen=True)
class CyclicConfig(ScheduleConfig):
    low: Annotated[float, Range(gt=0, le=1)]
    period: Positive


SCHEDULES: dict[str, type[ScheduleConfig]] = {
    "constant": ScheduleConfig,
    "step": StepScheduleConfig,
    "cosine": CosineConfig,
    "cyclic": CyclicConfig,
}


@dataclass(frozen=True)
class SamplerConfig:
    name: str


@dataclass(frozen=True)
class TwoClassConfig(SamplerConfig):
    sampling_rate: OpenShare


SAMPLERS: dict[str, type[SamplerConfig]] = {"shuffle": SamplerConfig, "two_class": TwoClassConfig}


@dataclass(frozen=True)
class ObjectiveConfig:
    """An objective: a loss with the optimizer, schedule and sampler that can minimize it."""

    loss: LossConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    sampler: SamplerConfig


@dataclass(frozen=True)
class StageConfig(ObjectiveConfig):
    ema: Annotated[float, Range(ge=0, lt=1)] | None
    clip_norm: Positive | None
    epochs: Positive | None
    steps: Count | None
    eval_every: Positive


@dataclass(frozen=True)
class WarmStartConfig(StageConfig):
    run: str | None
    take: Literal["best", "last"]


@dataclass(frozen=True)
class AucConfig(StageConfig):
    labels: list[str]
    heads: Literal["per_disease", "joint"]
    head: Literal["redraw", "keep"]


@dataclass(frozen=True)
class MetadataConfig:
    """A small network on metadata columns, trained by itself with the run's objectives, its score mixed in."""

    columns: list[str]
    hidden: list[Count]
    drop_rate: Share
    weight: Annotated[float, Range(ge=0, le=1)]
    epochs: Positive
    lr: Positive
    eval_every: Positive


# ---------------------------------------------------------------- after training


@dataclass(frozen=True)
class TTAConfig:
    copies: Natural
    average: Literal["score", "logit"]
    augment: AugmentConfig | None


@dataclass(frozen=True)
class EvaluationConfig:
    """How a predictions table is judged; `dam evaluate` takes the same keys as flags."""

    interval: Literal["auto", "delong", "logit", "clustered", "bootstrap"]
    replicates: Annotated[int, Range(ge=100)]
    seed: Seed
    calibration: Literal["platt", "temperature", "none"]
    threshold: Literal["youden", "f1", "sensitivity", "cost"]
    sensitivity: OpenShare
    specificity: OpenShare
    cost: Positive
    prevalence: OpenShare | None
    readers: str | None
    subgroups: list[str]
    min_group: Annotated[int, Range(ge=2)]


@dataclass(frozen=True)
class CheckpointConfig:
    every: Count | None
    minutes: Positive | None


@dataclass(frozen=True)
class TrackingConfig:
    tensorboard: bool


@dataclass(frozen=True)
class Config:
    name: str
    seed: Seed
    batch_size: Annotated[int, Range(ge=2)]
    accumulate: Count
    image_size: Annotated[int, Range(ge=8)]
    select: Literal["auto", "best", "last", "accuracy"]
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    memory_format: Literal["auto", "contiguous", "channels_last"]
    compile: bool
    deterministic: bool
    workers: Natural
    run_dir: str | None
    limit_batches: Count | None
    debug: Literal["smoke", "overfit", "profile"] | None
    dry_run: bool
    checkpoint: CheckpointConfig
    tracking: TrackingConfig
    data: DataConfig
    augment: AugmentConfig
    model: ModelConfig
    warm_start: WarmStartConfig | None
    auc: AucConfig | None
    control: ObjectiveConfig | None
    metadata: MetadataConfig | None
    tta: TTAConfig
    evaluation: EvaluationConfig
