"""STL-10's binary files: column order, labels from 1, positive classes, and files cut short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_configs import data_config
from dataset_files import write_stl10

from dam.data import load_table
from dam.data.containers import open_container
from dam.data.containers.stl import RECORD, StlImages
from dam.data.datasets.stl10 import CLASSES, read
from dam.data.readers import ImageError, ImageReader
from dam.errors import UserError


def test_one_bright_corner(tmp_path: Path) -> None:
    # Byte 95 of a plane is the lowest pixel of the first column: columns come first in the file.
    data = np.zeros(2 * RECORD, np.uint8)
    data[RECORD + 95] = 255
    data[RECORD + 2 * 96 * 96 + 95 * 96] = 128  # blue, last column, top
    (tmp_path / "train_X.bin").write_bytes(data.tobytes())
    container = open_container(tmp_path / "train_X.bin")
    assert isinstance(container, StlImages)
    image = container.read("1")
    assert image.shape == (96, 96, 3)
    assert image[95, 0].tolist() == [255, 0, 0] and image[0, 95].tolist() == [0, 0, 128]
    assert np.count_nonzero(image) == 2


def test_pixels_and_classes(tmp_path: Path) -> None:
    folder, images = write_stl10(tmp_path)
    for root in (tmp_path, folder):
        table = read(data_config("stl10", root=str(root)))
        reader = ImageReader(root)
        for i in range(20):
            assert np.array_equal(reader.read(table.frame["image"].iloc[i]), images[i])
    assert table.frame["class"].iloc[:10].tolist() == list(CLASSES)
    assert table.frame["positive"].iloc[:10].tolist() == [0.0] * 5 + [1.0] * 5
    assert table.frame["split"].tolist() == ["train"] * 20 + ["test"] * 10
    assert "positive classes: dog, horse, monkey, ship, truck" in table.notes
    assert "train_X.bin holds 20 images, the published one 5000" in table.notes


def test_imratio_leaves_the_test_set(tmp_path: Path) -> None:
    write_stl10(tmp_path, train=100)
    table = load_table(data_config("stl10", root=str(tmp_path), imratio=0.2, val_fraction=0.2))
    counts = table.counts().set_index("split")
    assert counts.loc[["train", "val"], "positives"].sum() == int(0.25 * 50)
    assert counts.loc["test", ["positives", "negatives"]].tolist() == [5, 5]


def test_sentences(tmp_path: Path) -> None:
    config = data_config("stl10", root=str(tmp_path))
    with pytest.raises(UserError, match=r"No train_X\.bin .* unpack stl10_binary\.tar\.gz"):
        read(config)
    (tmp_path / "train.mat").write_bytes(b"MATLAB")
    with pytest.raises(UserError, match="Matlab version"):
        read(config)
    (tmp_path / "train.mat").unlink()
    folder, _ = write_stl10(tmp_path)
    images, labels = folder / "train_X.bin", folder / "train_y.bin"
    whole = images.read_bytes()
    images.write_bytes(whole[:-5])
    with pytest.raises(UserError, match="not a multiple of 27648"):
        read(config)
    images.write_bytes(whole[:-RECORD])
    with pytest.raises(UserError, match="20 labels for 19 images"):
        read(config)
    images.write_bytes(whole)
    labels.write_bytes(bytes([0, *labels.read_bytes()[1:]]))
    with pytest.raises(UserError, match=r"train_y\.bin, byte 0: 0 is no class; STL-10's are 1 to 10"):
        read(config)
    labels.unlink()
    with pytest.raises(UserError, match=r"train_y\.bin cannot be read"):
        read(config)


def test_items_that_are_not_there(tmp_path: Path) -> None:
    folder, _ = write_stl10(tmp_path)
    reader = ImageReader(folder)
    with pytest.raises(ImageError, match="items 0 to 19"):
        reader.read("train_X.bin::20")
    assert reader.read("train_X.bin::19").shape == (96, 96, 3)
    (folder / "train_X.bin").write_bytes(b"short")
    with pytest.raises(ImageError, match="became shorter"):
        reader.read("train_X.bin::19")
