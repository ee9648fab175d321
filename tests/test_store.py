"""The image store: contents, sharing, resuming, damage, bad images, leakage."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dam.config import DataConfig
from dam.data import store_build
from dam.data.store import default_store_dir, open_store
from dam.data.store_build import Builder, fit_image
from dam.data.table import ImageTable
from dam.errors import UserError


@pytest.fixture
def cfg(tmp_path: Path) -> DataConfig:
    return DataConfig(
        name="toy", root=None, labels=["y"], uncertain={}, blank={}, smooth={}, soft="weights", imratio=None,
        val_fraction=0.1, test_fraction=0.0, folds=None, fold=None, split_seed=0, unit="image", merge="mean",
        leakage="refuse", window="file",
        on_bad_image="refuse", colour="auto", fit="squash", store=str(tmp_path / "stores"),
    )  # fmt: skip


def write(root: Path, count: int, side: int = 16, colour_from: int = 10**9) -> list[str]:
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        shape = (side, side, 3) if i >= colour_from else (side, side)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / f"{i:03d}.png")
    return [f"{i:03d}.png" for i in range(count)]


def table(root: Path, images: list[str], splits: list[str] | None = None) -> ImageTable:
    frame = pd.DataFrame({"image": images, "patient": images, "study": images, "y": 0.0})
    frame["split"] = splits or "train"
    return ImageTable(frame, ("y",), root, "toy", ())


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_build, "_CHUNK_BYTES", 1)  # chunks of 16 images


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("an image was decoded again")

    monkeypatch.setattr(Builder, "_store_row", fail)


@pytest.mark.parametrize("workers", [0, 3])
def test_rows_are_the_images(tmp_path: Path, cfg: DataConfig, workers: int) -> None:
    images = write(tmp_path / "i", 40)
    shuffled = [images[i] for i in np.random.default_rng(1).permutation(40)] + [images[0]]
    t = table(tmp_path / "i", shuffled)
    done: list[tuple[int, int]] = []
    store, same = open_store(t, cfg, 16, workers, lambda a, b: done.append((a, b)))
    assert (store.channels, store.size, len(store)) == (1, 16, 40)
    assert done[-1] == (40, 40)
    assert len(same) == 41
    rows = store.rows_for(t)
    assert rows[40] == rows[shuffled.index(images[0])]
    pixels = store.take(rows)
    for image, name in zip(pixels, shuffled, strict=True):
        assert np.array_equal(image[..., 0], np.asarray(Image.open(tmp_path / "i" / name)))
    out = np.empty((2, 16, 16, 1), np.uint8)
    assert store.take(np.array([7, 3]), out) is out
    assert np.array_equal(out, store.take(np.arange(40))[[7, 3]])
    with pytest.raises(IndexError):
        store.take(np.array([40]))
    with pytest.raises(ValueError, match="C-contiguous"):
        store.take(np.array([1, 2]), out[:, ::-1])


def test_reused_by_other_tables_and_after_moving(
    tmp_path: Path, cfg: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write(tmp_path / "i", 20)
    first, _ = open_store(table(tmp_path / "i", images), cfg, 8, 2)
    (tmp_path / "i").rename(tmp_path / "moved")
    no_decoding(monkeypatch)
    again, t = open_store(table(tmp_path / "moved", images[::-1]), cfg, 8, 2)
    assert again.path == first.path
    assert t.notes == ()


def test_another_store_for_other_content_or_settings(tmp_path: Path, cfg: DataConfig) -> None:
    images = write(tmp_path / "i", 4)
    t = table(tmp_path / "i", images)
    paths = {open_store(t, c, s, 1)[0].path for c, s in ((cfg, 8), (cfg, 9), (replace(cfg, fit="pad"), 8))}
    paths |= {open_store(t, replace(cfg, colour="rgb"), 8, 1)[0].path}
    os.utime(tmp_path / "i" / images[2], ns=(1, 1))
    paths |= {open_store(t, cfg, 8, 1)[0].path}
    assert len(paths) == 5


def test_late_colour_widens_what_is_done(tmp_path: Path, cfg: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    images = write(tmp_path / "i", 100, colour_from=90)
    decoded: list[int] = []
    original = Builder._store_row

    def spy(self: Builder, descriptor: int, channels: int, row: int) -> tuple[str, str]:
        if channels == 3:
            decoded.append(row)
        return original(self, descriptor, channels, row)

    monkeypatch.setattr(Builder, "_store_row", spy)
    t = table(tmp_path / "i", images)
    store, _ = open_store(t, cfg, 16, 2)
    assert store.channels == 3
    assert min(decoded) >= 80  # five chunks of gray were only widened
    pixels = store.take(store.rows_for(t))
    for image, name in zip(pixels, images, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(tmp_path / "i" / name).convert("RGB")))
    assert sorted(p.name for p in store.path.iterdir()) == ["index.json", "rgb.u8"]


def test_colour_can_be_chosen(tmp_path: Path, cfg: DataConfig) -> None:
    t = table(tmp_path / "i", write(tmp_path / "i", 4, colour_from=2))
    gray, _ = open_store(t, replace(cfg, colour="gray"), 16, 1)
    wide, _ = open_store(t, replace(cfg, colour="rgb"), 16, 1)
    assert (gray.channels, wide.channels) == (1, 3)
    expected = np.asarray(Image.open(tmp_path / "i" / "003.png").convert("L"))
    assert np.abs(gray.take(np.array([3]))[0, ..., 0].astype(int) - expected).max() <= 1


KILLED = """
import os, sys, dam.data.store_build as b
from pathlib import Path
from dam.data.readers import ImageReader
b._CHUNK_BYTES = 1
class Reader(ImageReader):
    def decode(self, locator):
        if locator == "070.png":
            os.kill(os.getpid(), 9)
        return super().decode(locator)
folder, root = Path(sys.argv[1]), Path(sys.argv[2])
names = [f"{i:03d}.png" for i in range(100)]
b.Builder(folder, Reader(root), names, 16, "auto", "squash", 1, lambda a, b: None).build(None)
"""


def test_a_killed_build_is_gone_on_with(tmp_path: Path, cfg: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write(tmp_path / "i", 100)
    t = table(tmp_path / "i", images)
    whole, _ = open_store(t, cfg, 16, 2)
    expected = whole.take(np.arange(100))
    shutil.rmtree(whole.path)
    whole.path.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(whole.path), str(tmp_path / "i")], check=False)
    assert killed.returncode == -9
    assert not (whole.path / "index.json").exists()
    small_chunks(monkeypatch)
    decoded: list[str] = []
    original = Builder._store_row

    def spy(self: Builder, descriptor: int, channels: int, row: int) -> tuple[str, str]:
        decoded.append(self.locators[row])
        return original(self, descriptor, channels, row)

    monkeypatch.setattr(Builder, "_store_row", spy)
    store, _ = open_store(t, cfg, 16, 2)
    assert np.array_equal(store.take(np.arange(100)), expected)
    assert store.digests == whole.digests
    assert 36 <= len(decoded) <= 84  # at least the first chunk was done


def test_damage_is_noticed_and_mended(tmp_path: Path, cfg: DataConfig) -> None:
    t = table(tmp_path / "i", write(tmp_path / "i", 6))
    store, _ = open_store(t, cfg, 16, 1)
    expected = store.take(np.arange(6))
    index = (store.path / "index.json").read_bytes()
    twice = index.replace(b'"001.png"', b'"000.png"')
    for name, data in (("gray.u8", b"short"), *(("index.json", bad) for bad in (b"{ not json", b"[]", twice))):
        (store.path / name).write_bytes(data)
        mended, noted = open_store(t, cfg, 16, 1)
        assert "was damaged" in noted.notes[0]
        assert np.array_equal(mended.take(np.arange(6)), expected)
    (store.path / "gray.u8").unlink()
    _, noted = open_store(t, cfg, 16, 1)
    assert "lost its rows" in noted.notes[0]


def test_bad_images_are_named_or_skipped(tmp_path: Path, cfg: DataConfig) -> None:
    images = write(tmp_path / "i", 6)
    (tmp_path / "i" / "002.png").write_bytes(b"nonsense")
    (tmp_path / "i" / "004.png").write_bytes((tmp_path / "i" / "005.png").read_bytes()[:-60])
    t = table(tmp_path / "i", images)
    for _ in range(2):  # while building, and from the finished store
        with pytest.raises(
            UserError, match=r"2 images of toy .*data row 3: 002\.png \(it is not.*data row 5: 004\.png"
        ):
            open_store(t, cfg, 16, 2)
    store, rest = open_store(t, replace(cfg, on_bad_image="skip"), 16, 2)
    assert rest.frame["image"].tolist() == ["000.png", "001.png", "003.png", "005.png"]
    assert set(store.skipped) == {"002.png", "004.png"}
    assert "2 rows left out" in rest.notes[-1]
    assert len(store.take(store.rows_for(rest))) == 4
    with pytest.raises(KeyError):
        store.rows_for(t)


def test_missing_images(tmp_path: Path, cfg: DataConfig) -> None:
    t = table(tmp_path / "i", [*write(tmp_path / "i", 3), "gone.png"])
    with pytest.raises(UserError, match=r"data row 4: gone\.png \(no such file\)"):
        open_store(t, cfg, 16, 1)
    _, rest = open_store(t, replace(cfg, on_bad_image="skip"), 16, 1)
    assert len(rest) == 3
    with pytest.raises(UserError, match="None of the 1 images"):
        open_store(table(tmp_path / "i", ["gone.png"]), replace(cfg, on_bad_image="skip"), 16, 1)


def test_many_bad_images_stop_the_build(tmp_path: Path, cfg: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    images = write(tmp_path / "i", 200, side=4)
    for name in images:
        (tmp_path / "i" / name).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="and 6 more rows"):
        open_store(table(tmp_path / "i", images), cfg, 16, 1)


def test_byte_equal_images_across_splits(tmp_path: Path, cfg: DataConfig) -> None:
    images = write(tmp_path / "i", 6)
    shutil.copy(tmp_path / "i" / "000.png", tmp_path / "i" / "005.png")
    splits = ["train", "train", "val", "val", "test", "test"]
    with pytest.raises(UserError, match=r"1 image in both train and test.*000\.png = 005\.png"):
        open_store(table(tmp_path / "i", images, splits), cfg, 16, 1)
    _, noted = open_store(table(tmp_path / "i", images, splits), replace(cfg, leakage="allow"), 16, 1)
    assert "1 image in both train and test" in noted.notes[-1]
    splits[5] = "val"
    _, noted = open_store(table(tmp_path / "i", images, splits), cfg, 16, 1)
    assert "1 image in both train and val" in noted.notes[-1]


def test_full_disk_is_one_sentence(tmp_path: Path, cfg: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    t = table(tmp_path / "i", write(tmp_path / "i", 3))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(UserError, match=r"needs [0-9.]+ MB in .*data\.store"):
        open_store(t, cfg, 16, 1)


def test_unwritable_place_is_one_sentence(tmp_path: Path, cfg: DataConfig) -> None:
    (tmp_path / "file").write_text("")
    t = table(tmp_path / "i", write(tmp_path / "i", 3))
    with pytest.raises(UserError, match=r"set data\.store or"):
        open_store(t, replace(cfg, store=str(tmp_path / "file" / "x")), 16, 1)


def test_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAM_STORE", "/somewhere")
    assert default_store_dir() == Path("/somewhere")
    monkeypatch.delenv("DAM_STORE")
    assert default_store_dir() == Path("~/.cache/dam").expanduser()


def _open_and_log(root: Path, images: list[str], cfg: DataConfig, log: Path, barrier: Any) -> None:
    original = Builder._store_row

    def slow(self: Builder, descriptor: int, channels: int, row: int) -> tuple[str, str]:
        with log.open("a") as file:
            file.write(f"{row}\n")
        time.sleep(0.01)
        return original(self, descriptor, channels, row)

    Builder._store_row = slow  # type: ignore[method-assign]
    barrier.wait()
    store, _ = open_store(table(root, images), cfg, 16, 1)
    assert store.take(np.arange(20)).any()


def test_two_processes_share_one_build(tmp_path: Path, cfg: DataConfig) -> None:
    images = write(tmp_path / "i", 20)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    arguments = (tmp_path / "i", images, cfg, tmp_path / "log", barrier)
    processes = [context.Process(target=_open_and_log, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len((tmp_path / "log").read_text().split()) == 20


def test_index_can_be_read_by_people(tmp_path: Path, cfg: DataConfig) -> None:
    store, _ = open_store(table(tmp_path / "i", write(tmp_path / "i", 2)), cfg, 16, 1)
    index = json.loads((store.path / "index.json").read_text())
    assert (index["size"], index["channels"], index["fit"], index["first_built_for"]) == (16, 1, "squash", "toy")


@pytest.mark.parametrize(("height", "width"), [(40, 20), (20, 40), (5, 40), (3, 2), (8, 8), (1, 100)])
@pytest.mark.parametrize("tail", [(), (3,)])
def test_fits(height: int, width: int, tail: tuple[int, ...]) -> None:
    image = np.full((height, width, *tail), 200, np.uint8)
    for fit in ("squash", "crop"):
        assert np.array_equal(fit_image(image, 8, fit), np.full((8, 8, *tail), 200))
    padded = fit_image(image, 8, "pad")
    assert padded.shape == (8, 8, *tail)
    short = max(1, round(8 * min(height, width) / max(height, width)))
    assert (padded == 200).sum() == 8 * short * (3 if tail else 1)


def test_crop_takes_the_middle_and_shrinking_averages() -> None:
    image = np.zeros((4, 8), np.uint8)
    image[:, 2:6] = [[100, 200, 100, 200]] * 4
    assert np.array_equal(fit_image(image, 4, "crop"), image[:, 2:6])
    assert np.array_equal(fit_image(image, 2, "crop"), np.full((2, 2), 150))
