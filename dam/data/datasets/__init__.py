"""The registry of datasets. A new one is a reader ``read(cfg) -> ImageTable``, a record here, a schema and a yaml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dam.config import (
    ChexpertConfig,
    CovidxConfig,
    CsvConfig,
    DataConfig,
    DdsmConfig,
    FolderConfig,
    ImbalancedConfig,
    MelanomaConfig,
    PcamConfig,
    PhantomConfig,
)
from dam.errors import UserError

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
    reader: Callable[[Any], ImageTable]
    labels: tuple[str, ...]

    def read(self, cfg: DataConfig) -> ImageTable:
        """The table on disk. Raises ``UserError``, also for a file or folder that the system does not let us read."""
        try:
            return self.reader(cfg)
        except OSError as error:
            what = error.filename or cfg.root
            raise UserError(f"{what} cannot be read ({(error.strerror or str(error)).lower()}): mend that, or correct "
                            "data.root.") from error  # fmt: skip


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


def _read_covidx(cfg: CovidxConfig) -> ImageTable:
    from dam.data.datasets.covidx import read

    return read(cfg)


def _read_melanoma(cfg: MelanomaConfig) -> ImageTable:
    from dam.data.datasets.melanoma import read

    return read(cfg)


def _read_ddsm(cfg: DdsmConfig) -> ImageTable:
    from dam.data.datasets.ddsm import read

    return read(cfg)


def _read_pcam(cfg: PcamConfig) -> ImageTable:
    from dam.data.datasets.pcam import read

    return read(cfg)


def _read_folder(cfg: FolderConfig) -> ImageTable:
    from dam.data.datasets.folder import read

    return read(cfg)


def _read_cifar10(cfg: ImbalancedConfig) -> ImageTable:
    from dam.data.datasets.cifar import read_cifar10

    return read_cifar10(cfg)


def _read_cifar100(cfg: ImbalancedConfig) -> ImageTable:
    from dam.data.datasets.cifar import read_cifar100

    return read_cifar100(cfg)


def _read_stl10(cfg: ImbalancedConfig) -> ImageTable:
    from dam.data.datasets.stl10 import read

    return read(cfg)


def _read_cats_dogs(cfg: ImbalancedConfig) -> ImageTable:
    from dam.data.datasets.cats_dogs import read

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
            "folder",
            "Images without labels, in a folder or archive: for `dam pretrain` only",
            "your disk",
            "yours",
            FolderConfig,
            _read_folder,
            (),
        ),
        DatasetRecord(
            "covidx8b",
            "COVIDx8B chest X-rays (COVID-Net): COVID-19 positive against negative, official test list of 400",
            "lists: github lindawangg/COVID-Net, labels/; images: its notebooks, or Kaggle andyczhao/covidx-cxr2",
            "lists AGPL-3.0; images by source: CC BY-NC-SA, research only, some unstated",
            CovidxConfig,
            _read_covidx,
            ("COVID-19",),
        ),
        DatasetRecord(
            "melanoma",
            "SIIM-ISIC Melanoma 2020, 33,126 dermoscopy images: JPEG, DICOM, TFRecord releases, external sets",
            "Kaggle siim-isic-melanoma-classification, cdeotte/jpeg-melanoma-SxS; challenge.isic-archive.com",
            "CC BY-NC 4.0",
            MelanomaConfig,
            _read_melanoma,
            ("melanoma",),
        ),
        DatasetRecord(
            "cifar10",
            "CIFAR-10 made imbalanced as in DAM, section 4.1: the upper half of the classes is positive",
            "https://www.cs.toronto.edu/~kriz/cifar.html (python or binary version)",
            "none stated; cite Krizhevsky 2009",
            ImbalancedConfig,
            _read_cifar10,
            ("positive",),
        ),
        DatasetRecord(
            "cifar100",
            "CIFAR-100 made imbalanced as in DAM, section 4.1: fine labels 50 to 99 are positive",
            "https://www.cs.toronto.edu/~kriz/cifar.html (python or binary version)",
            "none stated; cite Krizhevsky 2009",
            ImbalancedConfig,
            _read_cifar100,
            ("positive",),
        ),
        DatasetRecord(
            "stl10",
            "STL-10, 96 pixels, made imbalanced as in DAM, section 4.1: the upper half of the classes is positive",
            "https://cs.stanford.edu/~acoates/stl10 (stl10_binary.tar.gz)",
            "none stated, images from ImageNet; cite Coates et al. 2011",
            ImbalancedConfig,
            _read_stl10,
            ("positive",),
        ),
        DatasetRecord(
            "cats_dogs",
            "Cat & Dog made imbalanced as in DAM, section 4.1: dogs are positive; Kaggle, PetImages or LibAUC's files",
            "Kaggle dogs-vs-cats, or Microsoft's kagglecatsanddogs_5340.zip (PetImages)",
            "Kaggle competition rules, or Microsoft research licence",
            ImbalancedConfig,
            _read_cats_dogs,
            ("positive",),
        ),
        DatasetRecord(
            "ddsm",
            "DDSM+ mammography patches, 299 pixels: CBIS-DDSM's lesions and DDSM's normals, TFRecords and npy",
            "Kaggle skooch/ddsm-mammography",
            "CBIS-DDSM CC BY 3.0; DDSM free for research",
            DdsmConfig,
            _read_ddsm,
            ("abnormal",),
        ),
        DatasetRecord(
            "pcam",
            "PatchCamelyon, 327,680 lymph node patches of 96 pixels, tumor in the centre or not, in HDF5",
            "https://github.com/basveeling/pcam (Zenodo 2546921), or Kaggle andrewmvd's copy",
            "CC0",
            PcamConfig,
            _read_pcam,
            ("tumor",),
        ),
    )
}
