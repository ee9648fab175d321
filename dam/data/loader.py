"""From planned draws to batches of tensors, by threads that read the store and augment ahead of the consumer.

Threads, not processes: reading, warping and copying release the interpreter lock, an epoch starts at once, nothing is
forked beside a GPU and nothing is pickled. A batch is cut into slices so that all threads work on the batch that is
needed next. Content and order do not depend on the number of threads. Images stay uint8 up to the device.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple, Protocol

import numpy as np
import torch

from dam.data.augment import Augment
from dam.data.geometry import Plan
from dam.data.handover import HandOver
from dam.data.sampling import Draw
from dam.data.store import ImageStore
from dam.errors import UserError

PREFETCH = 3  # batches under way or ready, beside the one the consumer holds
_CPU = torch.device("cpu")
_SMALLEST_SLICE = 4  # images; less work than this is not worth handing over


class Batch(NamedTuple):
    """``images`` uint8 (B, S, S, C) on the loader's device, or float32 (B, F) features; ``targets`` float32 (B, K) in
    the host's memory, NaN unknown; ``rows`` int64 (B,) of the stage."""

    images: torch.Tensor
    targets: torch.Tensor
    rows: np.ndarray


class Batches(Protocol):
    """What a stage and an evaluation read from."""

    def batches(self, draws: Iterable[Draw]) -> Iterator[Batch]:
        """The batches of ``draws``, in that order; ``draws`` are asked for as they are needed."""
        ...


class FeatureLoader:
    """Batches of float32 ``features`` (n, F) and ``targets`` (n, K), one row a row of the stage, from memory."""

    def __init__(self, features: np.ndarray, targets: np.ndarray) -> None:
        self._features = torch.from_numpy(np.ascontiguousarray(features, np.float32))
        self._targets = torch.from_numpy(np.ascontiguousarray(targets, np.float32))

    def batches(self, draws: Iterable[Draw]) -> Iterator[Batch]:
        """The batches of ``draws``, in that order."""
        for draw in draws:
            yield Batch(self._features[draw.rows], self._targets[draw.rows], draw.rows)


class Loader:
    """Batches of one stage's rows.

    ``store_rows`` (n,) says where in the store each of the stage's rows is, ``targets`` (n, K) its labels, and
    ``table_rows`` (n,) its number in the table, the index of its augmentation. ``augment=None`` gives images as
    stored. ``workers=0`` prepares each batch when it is asked for, in the caller's thread. Batches for a CUDA
    ``device`` are made in pinned memory and copied while the step before is computed. ``augment_there``: the
    augmentation, which must be one warp, is done on the device. ``names`` (n,) are what errors call the images, by
    default what the store calls them.
    """

    names: Sequence[str] | None = None

    def __init__(
        self,
        store: ImageStore,
        store_rows: np.ndarray,
        targets: np.ndarray,
        augment: Augment | None,
        table_rows: np.ndarray,
        workers: int,
        device: torch.device = _CPU,
        augment_there: bool = False,
    ) -> None:
        self._store = store
        self._store_rows = np.asarray(store_rows, np.int64)
        self._targets = np.ascontiguousarray(targets, np.float32)
        used = None if augment is None or augment.is_identity else augment
        self._augment = None if augment_there else used
        self._augment_there = used if augment_there else None
        self._table_rows = np.asarray(table_rows, np.int64)
        self._workers = workers
        self._device = device
        if not len(self._store_rows) == len(self._targets) == len(self._table_rows):
            raise ValueError("store_rows, targets and table_rows must have one entry a row of the stage")
        if self._augment_there is not None and not self._augment_there.is_one_warp:
            raise ValueError("only an augmentation that is one warp can be done on the device")

    def batches(self, draws: Iterable[Draw]) -> Generator[Batch]:
        """The batches of ``draws``, in that order. Closing the iterator stops all work.

        An error of a thread is raised here when its batch is due: ``UserError`` stays one, others become
        ``RuntimeError``; both name the image.
        """
        hand_over = HandOver(self._device)
        with closing(self._ahead(draws) if self._workers > 0 else self._inline(draws)) as made:
            for batch, plan in made:
                yield batch._replace(images=hand_over(batch.images, plan))

    def _inline(self, draws: Iterable[Draw]) -> Generator[tuple[Batch, Plan | None]]:
        go_on = threading.Event()
        for draw in draws:
            batch = self._allocate(draw)
            self._fill(batch, draw, slice(0, len(draw.rows)), go_on)
            yield batch, self._plan(draw)

    def _ahead(self, draws: Iterable[Draw]) -> Generator[tuple[Batch, Plan | None]]:
        stop = threading.Event()
        ready: deque[tuple[Batch, list[Future[None]], Future[Plan | None]]] = deque()
        waiting = iter(draws)
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="dam-loader")
        try:
            while True:
                while len(ready) <= PREFETCH and (draw := next(waiting, None)) is not None:
                    batch = self._allocate(draw)
                    parts = _slices(len(draw.rows), self._workers)
                    work = [pool.submit(self._fill, batch, draw, part, stop) for part in parts]
                    ready.append((batch, work, pool.submit(self._plan, draw)))
                if not ready:
                    return
                batch, work, plan = ready.popleft()
                for future in work:
                    future.result()
                yield batch, plan.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _allocate(self, draw: Draw) -> Batch:
        store = self._store
        shape = (len(draw.rows), store.size, store.size, store.channels)
        pin = self._device.type == "cuda"
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
        targets = torch.from_numpy(self._targets[draw.rows])
        return Batch(images, targets.pin_memory() if pin else targets, draw.rows)

    def _plan(self, draw: Draw) -> Plan | None:
        """What is left to do on the device."""
        if self._augment_there is None:
            return None
        return self._augment_there.plan(self._table_rows[draw.rows], draw.passes)

    def _fill(self, batch: Batch, draw: Draw, part: slice, stop: threading.Event) -> None:
        if stop.is_set():
            return
        images, rows = batch.images.numpy()[part], draw.rows[part]
        stored = self._store_rows[rows]
        try:
            self._store.take(stored, images)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:  # whatever ends a thread is told where its batch is due
            reason = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            raise RuntimeError(f"cannot read {self._name(int(rows[0]))} or one near it: {reason}") from error
        if self._augment is None:
            return
        self._augment.warp(images, self._table_rows[rows], draw.passes[part])
        if self._augment.is_one_warp:
            return
        for i, (row, number) in enumerate(zip(rows.tolist(), draw.passes[part].tolist(), strict=True)):
            if stop.is_set():
                return
            try:
                images[i] = self._augment.finish(images[i], int(self._table_rows[row]), number)
            except UserError as error:
                raise UserError(f"{self._name(row)}: {error}") from error
            except MemoryError:
                raise
            except (Exception, SystemExit) as error:  # whatever a transform raises, it belongs to this image
                reason = f"{type(error).__name__}: {error}"
                raise RuntimeError(f"augmentation failed on {self._name(row)}: {reason}") from error

    def _name(self, row: int) -> str:
        name = self._store.locators[int(self._store_rows[row])] if self.names is None else self.names[row]
        return f"image {name} (data row {int(self._table_rows[row]) + 1})"


def _slices(length: int, workers: int) -> list[slice]:
    step = max(_SMALLEST_SLICE, -(-length // workers))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
