"""Data parallelism: several processes train one model, each on its share of every batch.

The loss is that of the whole batch: every process gathers the scores of all and computes it alike. So batch score
normalization, class means and class counts are global, and the mean of the processes' gradients is exactly the
gradient that one process would have. With one process every function here does nothing and costs nothing.

All processes come to each of these functions in the same order. The first process (rank 0) alone writes files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from dam.data.loader import Batch, Batches
from dam.data.sampling import Draw
from dam.errors import ToldByAnother, UserError
from dam.processes import Place, place

log = logging.getLogger("dam")

T = TypeVar("T")

# Of one exchange between processes that are all at work. Waiting for the first process (image store, report) has none.
_TIMEOUT = timedelta(minutes=10)


@dataclass
class _Group:
    place: Place
    store: Any
    waits: int = 0  # how often the first process was waited for: the name of the next time


_group: _Group | None = None


# ---------------------------------------------------------------- joining


def join() -> None:
    """Meet the other processes of the launch; nothing with one process.

    All but the first keep their log quiet.
    """
    global _group  # noqa: PLW0603  a process is in one group, as torch.distributed has it
    here = place()
    if here.world == 1 or _group is not None:
        return
    meeting = rendezvous(here.url, here.rank, here.world, timeout=_TIMEOUT)
    store, _, _ = next(meeting)
    session = _session(store, here)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    own = PrefixStore(f"{session}/torch", store)
    dist.init_process_group(backend, store=own, rank=here.rank, world_size=here.world, timeout=_TIMEOUT)
    _group = _Group(here, PrefixStore(f"{session}/dam", store))
    if here.rank > 0:
        log.addHandler(logging.NullHandler())
        log.propagate = False


def _session(store: Any, here: Place) -> str:
    """A name for this meeting, agreed on by the processes that are alive: torchrun's store outlives its restarts and
    still holds what the processes before them left in it."""
    store.set(f"hello/{here.rank}", uuid4().hex)
    seen = set()
    while True:
        tokens = b"".join(store.get(f"hello/{r}") for r in range(here.world))  # perhaps one of a process long dead
        session = hashlib.sha256(tokens).hexdigest()[:16]
        count = store.add(f"met/{session}", int(session not in seen))
        if count == here.world:  # each has seen the token of each
            return session
        seen.add(session)
        time.sleep(0.02)


def leave() -> None:
    """Part from the other processes, when all are done.

    Not after a failure: the others would tell of the lost connection before this process has told why.
    """
    global _group  # noqa: PLW0603  a process is in one group, as torch.distributed has it
    if _group is not None:
        barrier()
        dist.destroy_process_group()
        _group = None


def rank() -> int:
    """Which process this is, from 0."""
    return _group.place.rank if _group else 0


def world() -> int:
    """How many processes train together."""
    return _group.place.world if _group else 1


def is_main() -> bool:
    """Whether this process writes files, log and screen."""
    return rank() == 0


# ---------------------------------------------------------------- waiting for one another


@contextmanager
def main_first() -> Iterator[None]:
    """The block is entered by the first process, and by the others when that has left it.

    They wait as long as it takes. If it left with an exception, they raise one of the same text.
    """
    if _group is None:
        yield
        return
    key = f"first/{_group.waits}"
    _group.waits += 1
    if not is_main():
        _told(_group.store, key)
        yield
        return
    try:
        yield
    except BaseException as error:
        _tell_failure(_group.store, key, error)
        raise
    _group.store.set(key, "null")


def failed(error: BaseException) -> None:
    """Tell the others, who may be waiting already for what this process, the first, comes to next, that it will not."""
    if _group is not None and is_main():
        _tell_failure(_group.store, f"first/{_group.waits}", error)


def from_main(work: Callable[[], T]) -> T:
    """What ``work``, done by the first process alone, returns there: given to all as JSON. Raises as ``main_first``."""
    if _group is None:
        return work()
    answer = f"answer/{_group.waits}"
    with main_first():
        if is_main():
            result = work()
            _group.store.set(answer, json.dumps(result))
            return result
    given: T = json.loads(_group.store.get(answer))
    return given


def _tell_failure(store: Any, key: str, error: BaseException) -> None:
    store.set(key, json.dumps([type(error).__name__, str(error), isinstance(error, UserError)]))


def _told(store: Any, key: str) -> None:
    """Wait for ``key``, in small pieces so that a signal is heard between them."""
    pause = 0.01
    while not store.check([key]):
        time.sleep(pause)
        pause = min(0.5, pause * 1.5)
    failure = json.loads(store.get(key))
    if failure is not None:
        name, words, mistake = failure
        if name in ("KeyboardInterrupt", "Interrupted"):
            raise KeyboardInterrupt
        raise ToldByAnother(words) if mistake else RuntimeError(f"{name} in the first process: {words}")


def barrier() -> None:
    """Return when all processes have come here."""
    any_of(False)


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is set in any process."""
    if _group is None:
        return flag
    flags = torch.tensor([flag], dtype=torch.int32)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


class Agreement:
    """Flags of which all processes learn at the same step whether any set them, without waiting for one another: what
    is set at a step is known at the next."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, Any] | None = None

    def __call__(self, *flags: bool) -> tuple[bool, ...]:
        """The flags of the step before, of all processes; with one process those given."""
        if _group is None:
            return flags
        mine = torch.tensor(flags, dtype=torch.int32)
        before, self._pending = self._pending, (mine, dist.all_reduce(mine, dist.ReduceOp.MAX, async_op=True))
        if before is None:
            return (False,) * len(flags)
        before[1].wait()
        return tuple(bool(flag) for flag in before[0])


# ---------------------------------------------------------------- a batch shared out


def shared_out(size: int) -> np.ndarray:
    """Which images of a batch each process takes: int64 (world, n) of positions, -1 for a filler.

    Neighbours stay together and shares differ by one at most. All get n images, two at least, since every process
    has to take part in each exchange and BatchNorm can do nothing with one.
    """
    count = world()
    sizes = np.full(count, size // count) + (np.arange(count) < size % count)
    places = np.full((count, max(int(sizes.max()), min(2, size))), -1, np.int64)
    for share, end, length in zip(places, np.cumsum(sizes), sizes, strict=True):
        share[:length] = np.arange(end - length, end)
    return places


class SharedBatches:
    """The batches of ``inner``, of which each process loads and augments its share.

    ``images`` are this process's share; ``rows`` those of the whole batch; ``targets`` (world * n, K) those of all
    shares, one after another. Fillers are copies of images of the batch with targets NaN, which every loss leaves out.
    """

    def __init__(self, inner: Batches, targets: np.ndarray) -> None:
        self._inner, self._targets = inner, np.ascontiguousarray(targets, np.float32)

    def batches(self, draws: Iterable[Draw]) -> Generator[Batch]:
        """The batches of ``draws``, in that order; ``draws`` are asked for as they are needed."""
        under_way: deque[Draw] = deque()

        def mine() -> Iterator[Draw]:
            for draw in draws:
                under_way.append(draw)
                places = shared_out(len(draw.rows))[rank()]
                places = np.where(places < 0, np.arange(len(places)) % len(draw.rows), places)
                yield Draw(draw.rows[places], draw.passes[places])

        with closing(self._inner.batches(mine())) as parts:  # type: ignore[type-var]
            for part in parts:
                rows = under_way.popleft().rows
                places = shared_out(len(rows)).reshape(-1)
                targets = np.where(places[:, None] < 0, np.float32(np.nan), self._targets[rows[places]])
                yield Batch(part.images, torch.from_numpy(targets), rows)


def spread(loader: Batches, targets: np.ndarray) -> Batches:
    """``loader`` shared out among the processes; itself with one. ``targets``: those of its rows."""
    return loader if _group is None else SharedBatches(loader, targets)


def part_of(targets: Tensor, part: slice) -> Tensor:
    """Of ``targets`` of all shares those that belong to ``part`` of every share."""
    return targets.reshape(world(), -1, targets.shape[-1])[:, part].flatten(0, 1)


# ---------------------------------------------------------------- exchanging tensors


def gathered(tensor: Tensor) -> Tensor:
    """The tensors (n, ...) of all processes, of one shape, below one another; without gradient."""
    if _group is None:
        return tensor.detach()
    everyone = tensor.new_empty((world() * len(tensor), *tensor.shape[1:]))
    dist.all_gather_into_tensor(everyone, tensor.detach().contiguous())
    return everyone


def gathered_with_gradient(tensor: Tensor) -> Tensor:
    """As ``gathered``, with the gradient that belongs to it where all processes compute the same loss of the result.

    Afterwards the processes' gradients are averaged (``replicas.GradientMean``), so this part is taken ``world`` times.
    """
    return tensor if _group is None else _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.size = len(tensor)
        return gathered(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # The loss is the same everywhere, so its gradient needs no exchange.
        begin = rank() * ctx.size
        return gradient[begin : begin + ctx.size] * world()


def in_turns(mine: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """All rows, each once and in order, float64 (sum(sizes), K), of batches of ``sizes`` rows of which process r took
    number r, r + world, ...; ``mine`` are the rows of this process's, one batch after another."""
    if _group is None:
        return mine
    width = int(gathered(torch.tensor([mine.shape[1]])).max())  # a process without a batch does not know it
    padded = np.zeros((-(-len(sizes) // world()), max(sizes), width))
    for room, batch in zip(padded, np.split(mine, np.cumsum(sizes[rank() :: world()])[:-1]), strict=False):
        room[: len(batch), : batch.shape[1]] = batch
    everyone = gathered(torch.from_numpy(padded)).numpy().reshape(world(), *padded.shape)
    return np.concatenate([everyone[i % world(), i // world(), :size] for i, size in enumerate(sizes)])
