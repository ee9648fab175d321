"""The schema of ``configs/``: one frozen dataclass a node, ranges in the types, and the checks that cross fields.

There are no default values here. The YAML files under ``configs/`` are the only place where a value is chosen;
this file says which keys exist, what type and range each has, and which combinations make no sense.
``dam.compose`` turns YAML and overrides into a checked ``Config``; everything below takes these dataclasses and
knows neither Hydra nor OmegaConf. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from dam.config_data import (
    DATA as DATA,
    ChexpertConfig as ChexpertConfig,
    Count as Count,
    CovidxConfig as CovidxConfig,
    CsvConfig as CsvConfig,
    DataConfig as DataConfig,
    DdsmConfig as DdsmConfig,
    FolderConfig as FolderConfig,
    ImbalancedConfig as ImbalancedConfig,
    LegacySeed as LegacySeed,
    MelanomaConfig as MelanomaConfig,
    Natural as Natural,
    NonNegative as NonNegative,
    OpenShare as OpenShare,
    PcamConfig as PcamConfig,
    PhantomConfig as PhantomConfig,
    Positive as Positive,
    Range as Range,
    Seed as Seed,
    Share as Share,
)


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
    normalization: Literal["auto", "mean_std", "histogram_255"]
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
class ProbeConfig:
    """How much the features are worth while no label is trained on: classifiers on them, fitted on training images."""

    images: Annotated[int, Range(ge=2)]
    neighbours: Count
    ridge: Positive


@dataclass(frozen=True)
class PretrainConfig:
    """Momentum contrast on unlabelled images, a run of its own: `dam pretrain`."""

    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    epochs: Positive | None
    steps: Count | None
    eval_every: Positive
    clip_norm: Positive | None
    temperature: Positive
    queue: Count
    momentum: Annotated[float, Range(ge=0, lt=1)]
    dim: Annotated[int, Range(ge=2)]
    head: Literal["linear", "mlp"]
    bn_groups: Count
    symmetric: bool
    probe: ProbeConfig


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
class ReportConfig:
    """What a run's files tell about whom."""

    anonymize: bool


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
    augment_on: Literal["cpu", "device"]
    sync_bn: bool
    on_non_finite: Literal["stop", "skip"]
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
    pretrain: PretrainConfig | None
    tta: TTAConfig
    evaluation: EvaluationConfig
    report: ReportConfig
