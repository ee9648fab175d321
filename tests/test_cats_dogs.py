"""Cat & Dog in every layout; numbered names in order; broken files named and left out."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_configs import data_config
from dataset_files import noise, write_photo

from dam.data import load_table
from dam.data.containers.npy import NpyImages
from dam.data.datasets import cats_dogs
from dam.data.datasets.cats_dogs import read
from dam.data.readers import ImageReader
from dam.data.splits import assign_splits, imbalance
from dam.data.store import open_store
from dam.data.table import ImageTable
from dam.errors import UserError


def config(root: Path, **changes: object) -> object:
    return data_config("cats_dogs", root=str(root), **changes)


def table(root: Path) -> ImageTable:
    return read(config(root))  # type: ignore[arg-type]


def write_flat(folder: Path, count: int = 12) -> None:
    for i in range(count):
        write_photo(folder / f"cat.{i}.jpg", i)
        write_photo(folder / f"dog.{i}.jpg", 100 + i)


@pytest.mark.parametrize("place", [".", "train", "train/train", "dogs-vs-cats/train"])
def test_kaggle(tmp_path: Path, place: str) -> None:
    write_flat(tmp_path / place)
    write_photo(tmp_path / "test1" / "1.jpg", 7)  # unlabelled
    (tmp_path / place / "._cat.3.jpg").write_bytes(b"debris")
    found = table(tmp_path)
    prefix = "" if place == "." else f"{place}/"
    expected = [f"{prefix}{name}.{i}.jpg" for name in ("cat", "dog") for i in range(12)]
    assert found.frame["image"].tolist() == expected  # cat.2 before cat.10
    assert found.frame["positive"].tolist() == [0.0] * 12 + [1.0] * 12
    assert set(found.frame["split"]) == {""}
    assert found.notes[0] == "no labelled test set: 0.2 of the images becomes one (data.test_fraction)"


def test_petimages_with_broken_files(tmp_path: Path) -> None:
    for name in ("Cat", "Dog"):
        for i in range(15):
            write_photo(tmp_path / "PetImages" / name / f"{i}.jpg", i + 100 * (name == "Dog"), "L" if i == 3 else "RGB")
        (tmp_path / "PetImages" / name / "Thumbs.db").write_bytes(b"debris")
    (tmp_path / "PetImages" / "Cat" / "666.jpg").write_bytes(b"")
    (tmp_path / "PetImages" / "Dog" / "11702.jpg").write_bytes(b"\xff\xd8\xff\xe0broken")
    changes = {"imratio": None, "store": str(tmp_path / "store")}
    cfg = config(tmp_path, **changes)
    full = load_table(cfg)  # type: ignore[arg-type]
    assert len(full) == 32
    store, rest = open_store(full, cfg, 16, 1)  # type: ignore[arg-type]
    assert len(rest) == 30 and store.channels == 3
    told = "\n".join(rest.notes)
    assert "2 rows left out" in told
    assert "PetImages/Cat/666.jpg (the file is empty)" in told and "PetImages/Dog/11702.jpg (it is damaged" in told
    strict = config(tmp_path, on_bad_image="refuse", **changes)
    with pytest.raises(UserError, match=r"2 images of cats_dogs cannot be used.*666\.jpg"):
        open_store(full, strict, 16, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "places",
    [
        {"train": "train", "test": "test"},
        {"training_set/training_set": "train", "test_set/test_set": "test"},
        {"mirror/Train": "train", "mirror/validation": "val"},
    ],
)
def test_class_folders(tmp_path: Path, places: dict[str, str]) -> None:
    for k, place in enumerate(places):
        for name in ("cats", "dogs"):
            for i in (10, 2):
                write_photo(tmp_path / place / name / f"{name[:-1]}.{i}.jpg", 10 * k + i)
    frame = table(tmp_path).frame
    for place, split in places.items():
        part = frame[frame["split"] == split]
        assert part["image"].tolist() == [f"{place}/{name}s/{name}.{i}.jpg" for name in ("cat", "dog") for i in (2, 10)]
        assert part["class"].tolist() == ["cat", "cat", "dog", "dog"]


def test_arrays_of_libauc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cats_dogs, "LIBAUC_TEST", 5)
    images, labels = noise(20, 50, 50, 3), np.arange(20) % 2
    folder = tmp_path / "cat_vs_dog"
    folder.mkdir()
    np.save(folder / "cat_vs_dog_data.npy", images)
    np.save(folder / "cat_vs_dog_label.npy", labels.astype(np.float32).reshape(-1, 1))
    found = table(tmp_path)
    assert found.frame["split"].tolist() == ["train"] * 15 + ["test"] * 5  # the last rows, as LibAUC cuts them
    assert found.frame["positive"].tolist() == labels.tolist()
    reader = ImageReader(tmp_path)
    for i in range(20):
        assert np.array_equal(reader.read(found.frame["image"].iloc[i]), images[i])
    np.save(folder / "cat_vs_dog_data.npy", images[:4])
    np.save(folder / "cat_vs_dog_label.npy", labels[:4])
    assert set(table(tmp_path).frame["split"]) == {""}


def test_channels_first_and_gray_arrays(tmp_path: Path) -> None:
    images = noise(3, 8, 9, 3)
    np.save(tmp_path / "a.npy", images.transpose(0, 3, 1, 2))
    np.save(tmp_path / "b.npy", images[..., :1])
    np.save(tmp_path / "c.npy", np.asfortranarray(images[..., 0]))
    assert np.array_equal(NpyImages(tmp_path / "a.npy").read("2"), images[2])
    assert np.array_equal(NpyImages(tmp_path / "b.npy").read("2"), images[2, ..., 0])
    assert np.array_equal(NpyImages(tmp_path / "c.npy").read("2"), images[2, ..., 0])


def test_hostile_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, noise(3, 8, 9, 3))
    whole = path.read_bytes()
    np.save(path, np.array([{}, print], dtype=object), allow_pickle=True)
    objects = path.read_bytes()
    for data in (objects, whole[:-1], whole[:50], b"", b"hello"):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"a\.npy is no plain numpy array"):
            NpyImages(path).read("0")
    for values in (np.zeros((3, 4, 5)), np.zeros(7, np.uint8), np.zeros((3, 4, 5, 2), np.uint8)):
        np.save(path, values)
        with pytest.raises(UserError, match="not images"):
            NpyImages(path).read("0")


def test_five_thousand_of_twenty_five_for_test() -> None:
    import pandas as pd

    images = [f"train/{name}.{i}.jpg" for name in ("cat", "dog") for i in range(12500)]
    frame = pd.DataFrame({"image": images, "patient": images, "study": images, "split": ""})
    frame["positive"] = np.repeat([0.0, 1.0], 12500)
    whole = ImageTable(frame, ("positive",), Path(), "cats_dogs")
    cut = assign_splits(whole, whole.targets(), 0.0, 0.2, 0)
    counts = cut.counts().set_index("split")
    assert counts.loc["test", ["positives", "negatives"]].tolist() == [2500, 2500]
    thin = imbalance(cut, 0.01, 0).counts().set_index("split")
    assert thin.loc["train", ["positives", "negatives"]].tolist() == [101, 10000]
    again = assign_splits(whole, whole.targets(), 0.0, 0.2, 1)
    assert not again.frame["split"].equals(cut.frame["split"])


def test_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No cats and dogs .* \(0 images of other names\)"):
        table(tmp_path)
    write_photo(tmp_path / "1.jpg", 1)
    (tmp_path / "train.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"train\.zip is still packed"):
        table(tmp_path)
    np.save(tmp_path / "cat_vs_dog_data.npy", noise(3, 4, 4, 3))
    with pytest.raises(UserError, match="not its labels"):
        table(tmp_path)
    np.save(tmp_path / "cat_vs_dog_label.npy", np.array([0, 1, 2]))
    with pytest.raises(UserError, match=r"label\.npy, row 2: 2 is no label; labels are 0 to 1"):
        table(tmp_path)
    np.save(tmp_path / "cat_vs_dog_label.npy", np.array([0, 1]))
    with pytest.raises(UserError, match="3 labels were expected"):
        table(tmp_path)


@pytest.mark.real_data
@pytest.mark.skipif("DAM_REAL_DATA" not in os.environ, reason="DAM_REAL_DATA names no folder of data packs")
def test_real_photos(tmp_path: Path) -> None:
    from real_data import packs

    with tarfile.open(packs() / "cats-dogs" / "cats_dogs_64.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    found = table(tmp_path)
    assert found.counts().set_index("split").loc[["train", "test"], ["positives", "negatives"]].to_numpy().tolist() == [
        [400, 400],
        [100, 100],
    ]
    thin = load_table(config(tmp_path, imratio=0.1)).counts().set_index("split")  # type: ignore[arg-type]
    assert thin.loc[["train", "val"], "positives"].sum() == 44 and thin.loc["test", "n"] == 200
    store, rest = open_store(found, config(tmp_path, store=str(tmp_path / "store")), 48, 2)  # type: ignore[arg-type]
    assert len(rest) == 1000 and store.channels == 3
