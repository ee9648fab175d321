"""The loader: the same batches whatever the threads, errors that name their image, and a prompt end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dam.config import AugmentConfig, DataConfig, SamplerConfig
from dam.data.augment import Augment
from dam.data.loader import Batch, Loader
from dam.data.sampling import Draw, make_sampler
from dam.data.store import ImageStore, open_store
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


def _rows(batch: Batch) -> list[tuple[int, torch.Tensor]]:
    return list(zip(batch.rows.tolist(), batch.images, strict=True))


class Failing(Augment):
    """Fails on one row of the table."""

    def __init__(self, error: Exception) -> None:
        super().__init__(AugmentConfig([{"name": "HorizontalFlip"}]), SIZE, 0)
        self.error = error

    def __call__(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
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

        def __call__(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
            Slow.calls += 1
            time.sleep(0.01)
            return image

    slow = Slow(AugmentConfig([{"name": "HorizontalFlip"}]), SIZE, 0)
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
