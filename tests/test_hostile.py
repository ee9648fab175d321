"""Images made to hurt: too large, no files, cut; each is one reason, and a store of them is a counted skip."""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_configs import data_config
from PIL import Image

from dam.data import load_table, readers
from dam.data.readers import ImageError, ImageReader, decode, decode_noted
from dam.data.store import open_store
from dam.data.table import ImageTable
from dam.errors import UserError


def huge_png(side: int) -> bytes:
    """A PNG whose header promises side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [14_000, 32_000, 2_000_000])
def test_a_billion_pixels_are_not_decoded(side: int, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(ImageError, match="it has too many pixels to be decoded safely"):
        decode(huge_png(side), "x")
    assert not recwarn.list


def test_no_regular_files(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    reader = ImageReader(tmp_path)
    with pytest.raises(ImageError, match="it is a folder"):
        reader.read("folder.png")
    with pytest.raises(ImageError, match="it is no regular file"):
        reader.read("pipe.png")  # reading it would wait for ever
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="a file of 1048576 MiB, which no image file needs"):
        reader.read("sparse.png")


def test_large_jpegs_are_decoded_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:600, :800]
    pixels = np.stack([x // 4, y // 3, (x + y) // 6], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    assert decode_noted(buffer.getvalue(), "x", "file")[0].shape == (600, 800, 3)
    monkeypatch.setattr(readers, "LARGE", 40_000)
    monkeypatch.setattr(readers, "SHORT", 100)
    small, remarks = decode_noted(buffer.getvalue(), "x", "file")
    assert small.shape == (150, 200, 3) and remarks == ("large JPEG decoded at 1/4 of its size",)
    averaged = pixels.reshape(150, 4, 200, 4, 3).mean((1, 3))
    assert np.abs(small - averaged).mean() < 1.5
    monkeypatch.setattr(readers, "SHORT", 250)  # the short side stays above it
    assert decode(buffer.getvalue(), "x").shape == (300, 400, 3)


def table(root: Path, images: list[str]) -> ImageTable:
    frame = pd.DataFrame({"image": images, "patient": images, "study": images, "split": "train", "y": 0.0})
    return ImageTable(frame, ("y",), root, "toy", ())


def test_a_store_counts_what_it_skips_and_says_what_it_did(tmp_path: Path) -> None:
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    for i in range(3):
        Image.fromarray(deep + i).save(tmp_path / f"deep{i}.png")
    (tmp_path / "bomb.png").write_bytes(huge_png(40_000))
    images = ["bomb.png", "deep0.png", "deep1.png", "deep2.png"]
    base: Any = data_config("csv", root=str(tmp_path), store=str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"4 images of toy cannot be used: .*bomb\.png \(it has too many pixels"):
        open_store(table(tmp_path, images), base, 8, 1)
    full = replace(base, window="full", on_bad_image="skip")
    store, kept = open_store(table(tmp_path, images), full, 8, 1)
    assert len(kept) == 3 and store.skipped == {"bomb.png": "it has too many pixels to be decoded safely"}
    assert "3 images: gray of more than 8 bits: window full" in kept.notes
    again, kept = open_store(table(tmp_path, images), full, 8, 1)  # nothing is built, and it is said all the same
    assert again.path == store.path and "3 images: gray of more than 8 bits: window full" in kept.notes
    other, _ = open_store(table(tmp_path, images), replace(full, window=[0, 20000]), 8, 1)
    assert other.path != store.path
    wanted = np.floor(np.clip(deep / 20000, 0, 1) * 255 + 0.5).astype(np.uint8)
    assert np.array_equal(other.take(other.rows_for(table(tmp_path, ["deep0.png"])))[0, ..., 0], wanted)


def test_many_archives_do_not_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    monkeypatch.setattr(readers, "MOST_OPEN", 3)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(buffer, "PNG")
    for i in range(20):
        with zipfile.ZipFile(tmp_path / f"{i}.zip", "w") as packed:
            packed.writestr("a.png", buffer.getvalue())
    reader = ImageReader(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for i in range(20):
        reader.read(f"{i}.zip::a.png")
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 8


@pytest.mark.parametrize("name", ["photo.png", "table.csv"])
def test_other_files_are_no_containers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"{name} is no file of many images"):
        ImageReader(tmp_path).read(f"{name}::3")


def test_an_array_of_billions_of_pixels_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 30000, 30000), }".ljust(117) + b"\n"
    with open(tmp_path / "a.npy", "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        file.truncate(file.tell() + 30_000**2)  # sparse: no room on disk
    with pytest.raises(UserError, match="too many pixels to be read"):
        ImageReader(tmp_path).read("a.npy::0")


@pytest.mark.parametrize("name", ["csv", "cats_dogs"])
def test_folders_that_may_not_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for place in ("normal", "cat", "dog"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "1.png").touch()
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # as for another user; root may read all
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"cat cannot be read \(permission denied\)"):
        load_table(data_config(name, root=str(tmp_path)))
