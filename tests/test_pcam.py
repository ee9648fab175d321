"""PatchCamelyon in HDF5: official and Kaggle layouts, gzipped files, slides as patients, the paper's training set."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_configs import data_config

pytest.importorskip("h5py")

from dataset_files import noise, pcam_name, write_h5, write_pcam

from dam.data import load_table
from dam.data.datasets.pcam import read
from dam.data.readers import ImageReader
from dam.data.splits import imbalanced_indices
from dam.data.table import ImageTable
from dam.errors import UserError


def table(root: Path, **changes: object) -> ImageTable:
    return read(data_config("pcam", root=str(root), store=str(root.parent / "store"), **changes))


def equal_pixels(found: ImageTable) -> None:
    reader = ImageReader(found.root)
    for split, part, count in (("train", "train", 24), ("val", "valid", 8), ("test", "test", 8)):
        images = noise(count, 96, 96, 3, seed=len(part))
        names = found.frame["image"][found.frame["split"] == split]
        assert len(names) == count
        for name, image in zip(names, images, strict=True):
            assert np.array_equal(reader.read(name), image)


def test_official_files(tmp_path: Path) -> None:
    found = table(write_pcam(tmp_path / "pcam"))
    equal_pixels(found)
    frame = found.frame
    assert frame["image"].iloc[3] == "camelyonpatch_level_2_split_train_x.h5::x/3"
    assert frame["tumor"].tolist() == [i % 2 for count in (24, 8, 8) for i in range(count)]
    assert frame["patient"].iloc[:4].tolist() == [f"camelyon16_train_{i:03d}" for i in (0, 0, 1, 1)]
    assert frame["tumor_patch"].iloc[:2].tolist() == ["False", "True"]
    assert "the train part holds 24 images, the published one 262144" in found.notes
    assert not any("slides are unknown" in note for note in found.notes)


def test_validation_joins_training_as_in_the_paper(tmp_path: Path) -> None:
    root = write_pcam(tmp_path / "pcam", train=60, others=20)
    found = load_table(data_config("pcam", root=str(root), official_valid="train", imratio=0.25, val_fraction=0.2))
    counts = found.counts().set_index("split")
    assert counts.loc[["train", "val"], "negatives"].sum() == 40
    assert counts.loc[["train", "val"], "positives"].sum() == 13
    assert counts.loc["test", ["positives", "negatives"]].tolist() == [10, 10]


def test_the_papers_148960() -> None:
    positive = np.zeros(294_912, bool)
    positive[:131_072] = True  # train
    positive[262_144 : 262_144 + 16_369] = True  # valid
    kept = imbalanced_indices(positive, 0.01, 0)
    assert len(kept) == 148_960 and positive[kept].sum() == 1_489


def test_gzipped_files_are_unpacked_once_and_named_alike(tmp_path: Path) -> None:
    root = write_pcam(tmp_path / "pcam")
    plain = table(root)
    for path in list(root.glob("*.h5")):
        with open(path, "rb") as source, gzip.open(f"{path}.gz", "wb") as out:
            shutil.copyfileobj(source, out)
        path.unlink()
    found = table(root)
    equal_pixels(found)
    assert found.frame.equals(plain.frame)
    assert found.root.parent == tmp_path / "store"
    times = {path.name: path.stat().st_mtime_ns for path in found.root.iterdir()}
    assert len(times) == 6
    assert table(root).root == found.root
    assert {path.name: path.stat().st_mtime_ns for path in found.root.iterdir()} == times


def test_some_files_gzipped(tmp_path: Path) -> None:
    root = write_pcam(tmp_path / "pcam")
    path = root / f"{pcam_name('test', 'x')}.h5"
    with open(path, "rb") as source, gzip.open(f"{path}.gz", "wb") as out:
        shutil.copyfileobj(source, out)
    path.unlink()
    found = table(root)
    equal_pixels(found)
    assert found.root == root
    load_table(data_config("pcam", root=str(root), store=str(tmp_path / "store")))


def test_kaggle_layout(tmp_path: Path) -> None:
    root = write_pcam(tmp_path / "flat")
    other = tmp_path / "kaggle"
    moves = {"train": "training_split", "valid": "validation_split", "test": "test_split"}
    for part, name in moves.items():
        for folder in ("pcam", "Labels/Labels", "Metadata/Metadata"):
            (other / folder).mkdir(parents=True, exist_ok=True)
        (root / f"{pcam_name(part, 'x')}.h5").rename(other / "pcam" / f"{name}.h5")
        (root / f"{pcam_name(part, 'y')}.h5").rename(other / "Labels" / "Labels" / f"{pcam_name(part, 'y')}.h5")
        meta = f"{pcam_name(part, 'meta')}.csv"
        (root / meta).rename(other / "Metadata" / "Metadata" / meta)
    found = table(other)
    equal_pixels(found)
    assert found.frame["image"].iloc[0] == "pcam/training_split.h5::x/0"
    assert found.frame["patient"].iloc[0] == "camelyon16_train_000"


def test_meta_tables_that_do_not_fit_are_not_used(tmp_path: Path) -> None:
    root = write_pcam(tmp_path / "pcam")
    meta = root / f"{pcam_name('train', 'meta')}.csv"
    text = meta.read_text()
    for changed, told in (
        (text.replace("True,True", "True,False", 1), "has another center_tumor_patch than 1 label and"),
        ("\n".join(text.splitlines()[:-1]), "has 23 rows for 24 labels and"),
        (text.replace("wsi", "slide"), "has no column wsi and"),
    ):
        meta.write_text(changed)
        found = table(root)
        assert any(told in note and "is not used" in note for note in found.notes)
        assert "slides are unknown in the train part: every patch counts as a patient of its own" in found.notes
        assert found.frame["patient"].iloc[0] == found.frame["image"].iloc[0]
        assert found.frame["patient"].iloc[24] == "camelyon16_valid_000"


def test_sentences(tmp_path: Path) -> None:
    root = tmp_path / "pcam"
    root.mkdir()
    with pytest.raises(UserError, match=r"No camelyonpatch_level_2_split_train_x\.h5 .*basveeling/pcam"):
        table(root)
    write_pcam(root, meta=False)
    labels = root / f"{pcam_name('valid', 'y')}.h5"
    write_h5(labels, "y", np.zeros((7, 1, 1, 1), np.uint8))
    with pytest.raises(UserError, match="7 labels for the 8 images"):
        table(root)
    write_h5(labels, "y", np.full((8, 1, 1, 1), 2, np.uint8))
    with pytest.raises(UserError, match=r"row 0: 2 is no label"):
        table(root)
    images = root / f"{pcam_name('valid', 'x')}.h5"
    write_h5(images, "x", np.zeros((8, 96, 96, 3), np.float32))
    with pytest.raises(UserError, match="type float32, not images"):
        table(root)
    labels.unlink()
    with pytest.raises(UserError, match=r"has no labels: camelyonpatch_level_2_split_valid_y\.h5"):
        table(root)
    with pytest.raises(UserError, match="pcam has one label, 'tumor'"):
        table(root, labels=["cancer"])
