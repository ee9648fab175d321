"""Part of ``dam.config``: the types of its numbers, and its data section, one dataclass a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal


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


@dataclass(frozen=True)
class FolderConfig(DataConfig):
    """Images without labels, for pretraining."""


DATA: dict[str, type[DataConfig]] = {
    "chexpert": ChexpertConfig,
    "phantom": PhantomConfig,
    "csv": CsvConfig,
    "folder": FolderConfig,
    "covidx8b": CovidxConfig,
    "melanoma": MelanomaConfig,
    "ddsm": DdsmConfig,
    "pcam": PcamConfig,
    "cifar10": ImbalancedConfig,
    "cifar100": ImbalancedConfig,
    "stl10": ImbalancedConfig,
    "cats_dogs": ImbalancedConfig,
}
