"""The registry of datasets. A new one is a reader ``read(cfg) -> ImageTable``, a record here, a schema and a yaml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dam.config import ChexpertConfig, CsvConfig, DataConfig, ImbalancedConfig, PhantomConfig

if TYPE_CHECKING:
    from dam.data.table import ImageTable

FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")  # the order of LibAUC


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset: what it is, where it comes from, the schema of its config, its reader, its labels by default."""

    name: str
    summary: str
    where: str
    licence: str
    config: type[DataConfig]
    read: Callable[[Any], ImageTable]
    labels: tuple[str, ...]


# Readers import pandas, so each is imported when it is first used: listing the registry stays light.
def _read_chexpert(cfg: ChexpertConfig) -> ImageTable:
    from dam.data.datasets.chexpert import read

    return read(cfg)


def _read_phantom(cfg: PhantomConfig) -> ImageTable:
    from dam.data.datasets.phantom import read

    return read(cfg)


def _read_csv(cfg: CsvConfig) -> ImageTable:
    from dam.data.datasets.csv import read

    return read(cfg)


def _read_imbalanced(cfg: ImbalancedConfig) -> ImageTable:
    from dam.data.datasets.imbalanced import read

    return read(cfg)


DATASETS: dict[str, DatasetRecord] = {
    record.name: record
    for record in (
        DatasetRecord(
            "phantom",
            "Generated chest-like X-rays with CheXpert's five findings, in CheXpert's layout; needs no download",
            "generated on first use",
            "generated; free of any patient's data",
            PhantomConfig,
            _read_phantom,
            FIVE,
        ),
        DatasetRecord(
            "chexpert",
            "Chest X-rays with 14 findings (Irvin et al. 2019): every release, CheXlocalize and the test labels",
            "Stanford AIMI, after registration",
            "Stanford University research use agreement; no redistribution",
            ChexpertConfig,
            _read_chexpert,
            FIVE,
        ),
        DatasetRecord(
            "csv",
            "Your own images: a table (path, labels, optional patient, study, split), or one folder a class",
            "your disk",
            "yours",
            CsvConfig,
            _read_csv,
            (),
        ),
        DatasetRecord(
            "cifar10",
            "CIFAR-10 made imbalanced as in DAM, section 4.1: the upper half of the classes is positive",
            "https://www.cs.toronto.edu/~kriz/cifar.html (python or binary version)",
            "none stated; cite Krizhevsky 2009",
            ImbalancedConfig,
            _read_imbalanced,
            ("positive",),
        ),
    )
}
