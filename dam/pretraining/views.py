"""Two augmented views of every image of a batch, by the loader that every stage has."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable
from contextlib import closing

import numpy as np

from dam.data.loader import Batch, Batches
from dam.data.sampling import Draw


class TwoViewSampler:
    """Every row of ``count`` twice in a row, as two passes of its own, in random order; what does not fill a batch is
    left out of the epoch (other rows in each). A function of (seed, epoch)."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self.steps_per_epoch = count // batch_size

    def epoch(self, epoch: int) -> list[Draw]:
        """All batches of an epoch; of an image's two views one has the pass 2 epoch, the other 2 epoch + 1."""
        order = np.random.default_rng([self._seed, zlib.crc32(b"views"), epoch]).permutation(self._count)
        batches = order[: self.steps_per_epoch * self._batch_size].reshape(-1, self._batch_size)
        passes = np.tile(np.array([2 * epoch, 2 * epoch + 1], np.int64), self._batch_size)
        return [Draw(np.repeat(rows, 2), passes) for rows in batches]


class PairedBatches:
    """Batches whose images are (N, 2, S, S, C), two views of each row that this process has."""

    def __init__(self, loader: Batches) -> None:
        self._loader = loader

    def batches(self, draws: Iterable[Draw]) -> Generator[Batch]:
        """The batches of ``draws`` of a ``TwoViewSampler``."""
        with closing(self._loader.batches(draws)) as single:  # type: ignore[type-var]
            for batch in single:
                yield Batch(batch.images.view(-1, 2, *batch.images.shape[1:]), batch.targets[::2], batch.rows[::2])
