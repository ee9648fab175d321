"""The loader: the same batches whatever the threads, errors that name their image, and a prompt end."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dam.config import AugmentConfig, DataConfig, SamplerConfig
from dam.data.augment import Augment
from dam.data.handover import HandOver
from dam.data.loader import PREFETCH, Batch, Loader
from dam.data.sampling import Draw, make_sampler
from dam.data.store import FORMAT, ImageStore, open_store
from dam.data.table import ImageTable
from dam.errors import UserError

N, SIZE = 60, 16
TARGETS = np.stack([np.arange(N) % 3 == 0, np.arange(N) % 2], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    images = [f"{i:02d}.png" for i in range(N)]
    for name in images:
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)).save(root / name)
    frame = pd.DataFrame({"image": images, "patient": images, "study": images, "split": "train", "y": 0.0})
    cfg = DataConfig(
        name="toy", root=None, labels=["y"], uncertain={}, blank={}, smooth={}, soft="weights", imratio=None,
        val_fraction=0.1, test_fraction=0.0, folds=None, fold=None, window="file",
        split_seed=0, unit="image", merge="mean", leakage="refuse",
        on_bad_image="refuse", colour="auto", fit="squash", store=str(tmp_path_factory.mktemp("store")),
    )  # fmt: skip
    return open_store(ImageTable(frame, ("y",), Path(root), "toy", ()), cfg, SIZE, 2)[0]


def augment() -> Augment:
    return Augment(AugmentConfig([{"name": "HorizontalFlip", "p": 0.5}, {"name": "GaussNoise", "p": 0.5}]), SIZE, 1)


def loader(store: ImageStore, workers: int, augment: Augment | None = None) -> Loader:
    rows = np.arange(N)[::-1].copy()
    return Loader(store, rows, TARGETS, augment, np.arange(N) + 100, workers)


def draws(epoch: int = 0, batch_size: int = 8) -> list[Draw]:
    return make_sampler(SamplerConfig("shuffle"), TARGETS, batch_size, 0).epoch(epoch)


def test_batches_hold_what_was_drawn(store: ImageStore) -> None:
    plan = draws()
    for draw, batch in zip(plan, loader(store, 2).batches(plan), strict=True):
        assert batch.images.dtype == torch.uint8
        assert batch.targets.dtype == torch.float32
        assert np.array_equal(batch.images.numpy(), store.take(N - 1 - draw.rows))
        assert np.array_equal(batch.targets.numpy(), TARGETS[draw.rows])
        assert np.array_equal(batch.rows, draw.rows)


def test_threads_do_not_matter(store: ImageStore) -> None:
    plan = draws(1, 16)
    expected = list(loader(store, 0, augment()).batches(plan))
    for workers in (1, 2, 5):
        for a, b in zip(expected, loader(store, workers, augment()).batches(plan), strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.targets, b.targets)
    next_epoch = {int(r): image for b in loader(store, 2, augment()).batches(draws(2)) for r, image in _rows(b)}
    differ = [not torch.equal(image, next_epoch[int(r)]) for b in expected for r, image in _rows(b)]
    assert sum(differ) > N / 2


FLIPS_AND_WARP = [
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "Affine", "rotate": [-30, 30], "translate_percent": [-0.2, 0.2], "p": 0.7},
    {"name": "RandomBrightnessContrast", "p": 0.5},
]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("rest", [[], [{"name": "GaussNoise", "p": 0.5}]])
def test_an_image_does_not_depend_on_its_batch(store: ImageStore, there: bool, rest: list[dict[str, object]]) -> None:
    if there and rest:
        return
    augment = Augment(AugmentConfig([*FLIPS_AND_WARP, *rest]), SIZE, 3)

    def images(workers: int, size: int) -> torch.Tensor:
        order = np.random.default_rng(size).permutation(N)
        plan = [Draw(rows, rows % 4) for rows in np.split(order, range(size, N, size))]
        made = Loader(store, np.arange(N), TARGETS, augment, np.arange(N), workers, augment_there=there).batches(plan)
        return torch.cat([batch.images for batch in made])[torch.from_numpy(order.argsort())]

    expected = images(0, N)
    for workers, size in ((0, 1), (1, 7), (3, 20)):
        assert torch.equal(images(workers, size), expected)
    assert not torch.equal(expected, torch.from_numpy(store.take(np.arange(N))))


def test_on_the_device_the_same_draws_give_nearly_the_same_images(store: ImageStore) -> None:
    augment = Augment(AugmentConfig(FLIPS_AND_WARP), SIZE, 3)
    here, there = (
        torch.cat([batch.images for batch in Loader(*args, 2, augment_there=flag).batches(draws())]).int()
        for flag in (False, True)
        for args in [(store, np.arange(N), TARGETS, augment, np.arange(N))]
    )
    assert (here - there).abs().max() <= 2  # noise, interpolated: one level, times the contrast
    assert (here != there).float().mean() < 0.02
    with pytest.raises(ValueError, match="one warp"):
        noise = Augment(AugmentConfig([{"name": "GaussNoise"}]), SIZE, 1)
        Loader(store, np.arange(N), TARGETS, noise, np.arange(N), 0, augment_there=True)


def test_on_the_host_nothing_is_copied_to_hand_it_over() -> None:
    images = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    assert HandOver(torch.device("cpu"))(images, None) is images


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("there", [False, True])
def test_batches_arrive_on_the_gpu(store: ImageStore, there: bool) -> None:
    augment = Augment(AugmentConfig(FLIPS_AND_WARP), SIZE, 3)
    args = (store, np.arange(N), TARGETS, augment, np.arange(N), 2)
    here = Loader(*args, augment_there=there).batches(draws())
    for a, b in zip(here, Loader(*args, torch.device("cuda"), there).batches(draws()), strict=True):
        assert b.images.is_cuda
        assert b.targets.is_pinned()
        assert (a.images.int() - b.images.cpu().int()).abs().max() <= 2 * there


@pytest.mark.parametrize("workers", [0, 2])
def test_draws_are_asked_for_as_they_are_needed(store: ImageStore, workers: int) -> None:
    asked = []

    def endless() -> Iterator[Draw]:
        for number in count():
            asked.append(number)
            yield Draw(np.arange(4), np.full(4, number))

    with closing(loader(store, workers).batches(endless())) as batches:
        for _ in range(5):
            next(batches)
    assert 5 <= len(asked) <= 5 + PREFETCH


@pytest.mark.parametrize(("size", "announced"), [(64, 0), (160, 6)])
def test_all_but_tiny_rows_are_announced_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, announced: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, size, size, 1), dtype=np.uint8)
    pixels.tofile(tmp_path / "gray.u8")
    names = [str(row) for row in range(9)]
    index = {"format": FORMAT, "size": size, "channels": 1, "file": "gray.u8", "locators": names, "digests": names}
    (tmp_path / "index.json").write_text(json.dumps(index | {"skipped": {}, "remarks": {}}))
    calls: list[tuple[str, int]] = []
    read = os.preadv
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, count, what: calls.append(("announced", start)))
    monkeypatch.setattr(os, "preadv", lambda *args: calls.append(("read", args[2])) or read(*args))
    rows = np.array([7, 1, 8, 0, 3, 3])
    assert np.array_equal(ImageStore(tmp_path).take(rows), pixels[rows])
    starts = sorted((rows * size * size).tolist())
    assert calls == [("announced", start) for start in starts[:announced]] + [("read", start) for start in starts]


def _rows(batch: Batch) -> list[tuple[int, torch.Tensor]]:
    return list(zip(batch.rows.tolist(), batch.images, strict=True))


class Failing(Augment):
    """Fails on one row of the table."""

    def __init__(self, error: Exception) -> None:
        super().__init__(AugmentConfig([{"name": "GaussNoise"}]), SIZE, 0)
        self.error = error

    def finish(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
        if index == 107:
            raise self.error
        return image


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("error", "kind"), [(UserError("odd"), UserError), (KeyError("odd"), RuntimeError)])
def test_errors_name_the_image(store: ImageStore, workers: int, error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"image 52\.png \(data row 108\).*odd"):
        list(loader(store, workers, Failing(error)).batches(draws()))
    assert not _loader_threads()


def test_closing_stops_everything(store: ImageStore) -> None:
    class Slow(Augment):
        calls = 0

        def finish(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
            Slow.calls += 1
            time.sleep(0.01)
            return image

    slow = Slow(AugmentConfig([{"name": "GaussNoise"}]), SIZE, 0)
    batches = loader(store, 2, slow).batches(draws())
    next(batches)
    assert _loader_threads()
    start = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 0.5
    assert not _loader_threads()
    calls = Slow.calls
    assert calls < N
    time.sleep(0.05)
    assert Slow.calls == calls


def _loader_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("dam-loader")]


def test_no_draws_no_batches(store: ImageStore) -> None:
    assert list(loader(store, 2).batches([])) == []


def test_lengths_must_agree(store: ImageStore) -> None:
    with pytest.raises(ValueError, match="one entry a row"):
        Loader(store, np.arange(3), TARGETS, None, np.arange(3), 0)
