"""CIFAR-10 and CIFAR-100 in their official files, python or binary version (the binary one where both are there).

The python version is read through stand-ins, never by plain ``pickle`` (see ``cifar_pickle``). Locators are
``<folder>/data_batch_1::17``, in the files' order: training batches 1..5 (or ``train``), then test.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dam.config import ImbalancedConfig
from dam.data.datasets.cifar_pickle import load_batch, load_class_names
from dam.data.datasets.imbalanced import Part, check_labels, class_range, fewer, two_classes
from dam.data.datasets.tables import folders, root_folder
from dam.data.table import ImageTable
from dam.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class _Version:
    """The files of one version: (split, file, images in it), and those of the class names, which may be absent."""

    files: tuple[tuple[str, str, int], ...]
    names: str
    coarse: str | None = None


def _ten(suffix: str, names: str) -> _Version:
    training = tuple(("train", f"data_batch_{i}{suffix}", 10_000) for i in range(1, 6))
    return _Version((*training, ("test", f"test_batch{suffix}", 10_000)), names)


def _hundred(suffix: str, names: str, coarse: str) -> _Version:
    return _Version((("train", f"train{suffix}", 50_000), ("test", f"test{suffix}", 10_000)), names, coarse)


_TEN = (_ten(".bin", "batches.meta.txt"), _ten("", "batches.meta"))
_HUNDRED = (_hundred(".bin", "fine_label_names.txt", "coarse_label_names.txt"), _hundred("", "meta", "meta"))


def read_cifar10(cfg: ImbalancedConfig) -> ImageTable:
    """CIFAR-10 as two classes; positive by default: dog, frog, horse, ship, truck. Raises ``UserError``."""
    root = root_folder(cfg.root, "cifar-10-batches-py or cifar-10-batches-bin")
    check_labels(cfg)
    folder, version = _find(root, _TEN, "CIFAR-10", "data_batch_1 or data_batch_1.bin", "cifar-10-python.tar.gz")
    names = _names(folder / version.names, "label_names", list(CLASSES))
    return _read(cfg, root, folder, version, names, "CIFAR-10")


def read_cifar100(cfg: ImbalancedConfig) -> ImageTable:
    """CIFAR-100 as two classes by its fine labels, positive by default 50-99; coarse labels are metadata."""
    root = root_folder(cfg.root, "cifar-100-python or cifar-100-binary")
    check_labels(cfg)
    folder, version = _find(root, _HUNDRED, "CIFAR-100", "train or train.bin", "cifar-100-python.tar.gz")
    names = _names(folder / version.names, "fine_label_names", [str(i) for i in range(100)])
    return _read(cfg, root, folder, version, names, "CIFAR-100")


def _read(
    cfg: ImbalancedConfig, root: Path, folder: Path, version: _Version, names: list[str], title: str
) -> ImageTable:
    coarse_names = [str(i) for i in range(20)]
    if version.coarse is not None:
        coarse_names = _names(folder / version.coarse, "coarse_label_names", coarse_names)
    parts, notes, published = [], [], 0
    for split, name, whole in version.files:
        path = folder / name
        if not path.is_file():
            continue
        batch = load_batch(path)
        classes = batch["labels"]
        class_range(classes, len(names), path)
        metadata = {}
        if version.coarse is not None:
            if "coarse_labels" not in batch:
                raise UserError(f"{path} holds no coarse labels: it is no CIFAR-100 file.")
            class_range(batch["coarse_labels"], len(coarse_names), path)
            metadata["coarse"] = [coarse_names[i] for i in batch["coarse_labels"].tolist()]
        place = path.relative_to(root).as_posix()
        parts.append(Part(split, [f"{place}::{i}" for i in range(len(classes))], classes, metadata))
        published += whole
    notes += fewer(sum(len(part.images) for part in parts), published, folder.name)
    absent = len(version.files) - len(parts)
    if absent:
        count = {2: "two", 6: "six"}[len(version.files)]
        notes.insert(0, f"{absent} of {title}'s {count} files {'are' if absent > 1 else 'is'} absent")
    return two_classes(cfg, root, parts, names, notes)


def _find(root: Path, versions: tuple[_Version, ...], title: str, first: str, archive: str) -> tuple[Path, _Version]:
    """The folder that holds batches of a version, and that version."""
    for version in versions:
        for folder in folders(root, 2):
            found = [split for split, name, _ in version.files if _is_batch(folder / name, title)]
            if found and "train" not in found:
                wanted = "data_batch_1..5" if len(version.files) == 6 else "train"
                raise UserError(f"{folder} holds {title}'s test batch but no training batch ({wanted}).")
            if found:
                return folder, version
    raise UserError(f"No {title} batch ({first}) was found under data.root={root}: unpack {archive} there.")


def _is_batch(path: Path, title: str) -> bool:
    """CIFAR-100's files have everyday names, so a file called ``train`` counts only beside its companions."""
    if not path.is_file():
        return False
    companions = {"CIFAR-100": ("meta", "fine_label_names.txt", "train", "test", "train.bin", "test.bin")}
    others = [name for name in companions.get(title, ()) if name != path.name]
    return (
        not others
        or path.parent.name.lower().startswith("cifar-100")
        or any((path.parent / name).is_file() for name in others)
    )


def _names(path: Path, key: str, otherwise: list[str]) -> list[str]:
    return load_class_names(path, key) if path.is_file() else otherwise
