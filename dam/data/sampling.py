"""Which training rows make which batch, as pure functions of (seed, epoch).

Nothing here keeps state: any epoch of any run can be drawn again, by every rank and after every resume, and a position
in training is just (epoch, step). All batches of an epoch are planned at once; for 200,000 rows that takes some
milliseconds.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from dam.config import SamplerConfig, TwoClassConfig
from dam.errors import UserError


class Draw(NamedTuple):
    """One batch. ``rows``: int64 (B,) positions into the stage's training rows. ``passes``: int64 (B,) which time it
    is that the image is drawn, the "epoch" of its augmentation: no two draws of a row share one."""

    rows: np.ndarray
    passes: np.ndarray


class Sampler(Protocol):
    """Plans epochs of ``steps_per_epoch`` batches; ``epoch(e)`` depends on the constructor's arguments and e only."""

    steps_per_epoch: int

    def epoch(self, epoch: int) -> list[Draw]: ...


class ShuffleSampler:
    """Every row with a known label once an epoch, in random order.

    The last batch is smaller where rows are left. It never has one row, of which BatchNorm could make nothing: a
    single row left takes one from the batch before, or joins it where batches have two.
    """

    def __init__(self, targets: np.ndarray, batch_size: int, seed: int) -> None:
        self._rows = np.flatnonzero(~np.isnan(targets).all(axis=1))
        if len(self._rows) < 2:
            raise UserError(f"Training needs two rows with a known label; there are {len(self._rows)}.")
        self._seed = seed
        self._ends = _batch_ends(len(self._rows), batch_size)
        self.steps_per_epoch = len(self._ends)

    def epoch(self, epoch: int) -> list[Draw]:
        """All batches of an epoch."""
        rows = self._rows[_generator(self._seed, b"shuffle", epoch).permutation(len(self._rows))]
        return [Draw(part, np.full(len(part), epoch, np.int64)) for part in np.split(rows, self._ends[:-1])]


class TwoClassSampler:
    """A fixed number of positives in every batch: round(sampling_rate * batch_size), at least one of either class.

    Each class is drawn without replacement until used up, then in a new order. An epoch sees every negative once; its
    last batch is filled up from the beginning of the same order. Positives go on from epoch to epoch where they
    stopped. Rows with an unknown label are left out; a soft target of .5 or more is positive. A class smaller than its
    number in a batch is repeated within the batch, each time with another augmentation. The order within a batch is
    random, so that any part of it (a rank's, a micro-batch) holds about the same mixture.
    """

    def __init__(self, targets: np.ndarray, batch_size: int, sampling_rate: float, seed: int) -> None:
        if targets.shape[1] != 1:
            raise UserError(
                f"The sampler two_class balances one label, but {targets.shape[1]} are trained together: "
                "use sampler=shuffle for them, or auc.heads=per_disease."
            )
        values = targets[:, 0]
        self._positives = np.flatnonzero(values >= 0.5)
        self._negatives = np.flatnonzero(values < 0.5)
        for rows, kind in ((self._positives, "positive"), (self._negatives, "negative")):
            if not len(rows):
                raise UserError(
                    f"The sampler two_class needs both classes, but no training row is {kind}: "
                    "leave the label out with auc.labels=[...], or use sampler=shuffle."
                )
        self._seed = seed
        self.positives_per_batch = min(max(round(sampling_rate * batch_size), 1), batch_size - 1)
        self.negatives_per_batch = batch_size - self.positives_per_batch
        self.steps_per_epoch = -(-len(self._negatives) // self.negatives_per_batch)

    def epoch(self, epoch: int) -> list[Draw]:
        """All batches of an epoch."""
        steps = self.steps_per_epoch
        positives = steps * self.positives_per_batch
        pos_rows, pos_passes = self._stream(epoch * positives, positives)
        neg_rows, neg_passes = self._negatives_of(epoch, steps * self.negatives_per_batch)
        rows = np.concatenate([pos_rows.reshape(steps, -1), neg_rows.reshape(steps, -1)], axis=1)
        passes = np.concatenate([pos_passes.reshape(steps, -1), neg_passes.reshape(steps, -1)], axis=1)
        order = _generator(self._seed, b"order", epoch).random(rows.shape).argsort(axis=1)
        rows, passes = np.take_along_axis(rows, order, axis=1), np.take_along_axis(passes, order, axis=1)
        return [Draw(*batch) for batch in zip(rows, passes, strict=True)]

    def _stream(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws start..start+count-1 of the endless sequence of positives: one permutation after another."""
        size = len(self._positives)
        position = np.arange(start, start + count)
        passes = position // size
        first = int(passes[0])
        orders = np.concatenate([self._positive_order(k) for k in _blocks(size, first, int(passes[-1]))])
        skipped = first % _block_length(size) * size  # of the first block
        rows = orders[skipped + position - first * size]
        return self._positives[rows], passes

    def _positive_order(self, block: int) -> np.ndarray:
        # A tiny class needs thousands of permutations an epoch: draw them in blocks, each a function of its number.
        size = len(self._positives)
        orders = np.tile(np.arange(size), (_block_length(size), 1))
        return _generator(self._seed, b"positives", block).permuted(orders, axis=1).reshape(-1)

    def _negatives_of(self, epoch: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        size = len(self._negatives)
        order = _generator(self._seed, b"negatives", epoch).permutation(size)
        position = np.arange(count)
        rounds = -(-count // size)  # 2 where the last batch is filled up: its second draws need passes of their own
        return self._negatives[order[position % size]], epoch * rounds + position // size


def _two_class(cfg: SamplerConfig, targets: np.ndarray, batch_size: int, seed: int) -> Sampler:
    if not isinstance(cfg, TwoClassConfig):
        raise TypeError(f"two_class is configured by a TwoClassConfig, not {type(cfg).__name__}")
    return TwoClassSampler(targets, batch_size, cfg.sampling_rate, seed)


def _shuffle(cfg: SamplerConfig, targets: np.ndarray, batch_size: int, seed: int) -> Sampler:
    return ShuffleSampler(targets, batch_size, seed)


SAMPLERS: dict[str, Callable[[SamplerConfig, np.ndarray, int, int], Sampler]] = {
    "shuffle": _shuffle,
    "two_class": _two_class,
}


def make_sampler(cfg: SamplerConfig, targets: np.ndarray, batch_size: int, seed: int) -> Sampler:
    """The sampler that ``cfg`` names, over rows with ``targets`` float (n, K), NaN unknown. Raises ``UserError``."""
    return SAMPLERS[cfg.name](cfg, targets, batch_size, seed)


def _batch_ends(rows: int, batch_size: int) -> np.ndarray:
    ends = [*range(batch_size, rows, batch_size), rows]
    if len(ends) > 1 and ends[-1] - ends[-2] == 1:
        if batch_size > 2:
            ends[-2] -= 1
        else:
            del ends[-2]
    return np.array(ends)


def _block_length(size: int) -> int:
    return max(1, 1024 // size)


def _blocks(size: int, first: int, last: int) -> range:
    length = _block_length(size)
    return range(first // length, last // length + 1)


def _generator(seed: int, purpose: bytes, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(purpose), number])
