"""Images made ready ahead of the networks: decoded once, in threads, and brought to every form that is asked for."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dam.data.readers import ImageError, ImageReader, from_pillow, gray_if_equal
from dam.data.store_build import network_image
from dam.data.window import Window
from dam.errors import UserError
from dam.inference.run import LoadedRun

AHEAD = 2  # blocks under way beside the one that is scored
LONG = 2.0  # an image this many times as long as wide is worth saying


class Form(NamedTuple):
    """What a network takes: pixels a side, channels, ``data.fit`` and ``data.window`` (a list as a tuple)."""

    size: int
    channels: int
    fit: str
    window: Any


@dataclass(frozen=True)
class Ready:
    """One image in all forms, or the ``reason`` it has none; ``remarks`` are the same words for like images."""

    forms: Mapping[Form, np.ndarray] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Item:
    """One image to be scored: a locator, pixels or a Pillow image, with its name and metadata."""

    name: str
    source: Any
    metadata: tuple[Any, ...] = ()
    skip: str = ""


@dataclass(frozen=True)
class Block:
    """Items ``start`` to ``stop``. ``items``: those that could be read; ``pixels`` theirs, uint8 (n, S, S, C) a form.
    ``failed``: name, reason and whether it was skipped by its name; ``remarks``: how many images a remark."""

    start: int
    stop: int
    items: Sequence[Item]
    pixels: Mapping[Form, np.ndarray]
    failed: Sequence[tuple[str, str, bool]]
    remarks: Counter[str]
    problems: Mapping[int, str] = field(default_factory=dict)  # position within the block -> reason


def form_of(run: LoadedRun, window: Window | None = None) -> Form:
    """The form of a single run's images; ``window`` instead of the run's own."""
    chosen = run.config.data.window if window is None else window
    data = run.config.data
    return Form(run.config.image_size, run.channels, data.fit, chosen if isinstance(chosen, str) else tuple(chosen))


def default_workers() -> int:
    """Threads that decode: one a core that this process may use, at most 16."""
    return max(1, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


class Decoder:
    """Reads items into ``forms``. Safe to share between threads."""

    def __init__(self, forms: Iterable[Form]) -> None:
        import cv2

        cv2.setNumThreads(0)  # one image a thread; OpenCV's own threads would only compete with them
        self.forms = tuple(dict.fromkeys(forms))
        windows = dict.fromkeys(form.window for form in self.forms)
        self._readers = {w: ImageReader(Path(), w if isinstance(w, str) else list(w)) for w in windows}

    def ready(self, item: Item) -> Ready:
        """The image, or why there is none; never an exception, whatever is in the file."""
        if item.skip:
            return Ready(reason=item.skip)
        try:
            return self._ready(item)
        except ImageError as error:
            return Ready(reason=error.reason)
        except UserError as error:  # an archive that is damaged as a whole, an extra that is not installed
            return Ready(reason=str(error).rstrip("."))
        except Exception as error:  # one odd image among a million must not stop the others
            return Ready(reason=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def _ready(self, item: Item) -> Ready:
        forms: dict[Form, np.ndarray] = {}
        remarks: dict[str, None] = {}
        for window, reader in self._readers.items():
            pixels, said = _decoded(item, reader)
            remarks |= dict.fromkeys(said)
            for form in (form for form in self.forms if form.window == window):
                remarks |= dict.fromkeys(_differences(pixels, form))
                fitted = network_image(pixels, form.size, form.fit, form.channels)
                forms[form] = fitted if fitted.ndim == 3 else fitted[..., None]
        return Ready(forms, tuple(remarks))

    def blocks(self, items: Iterable[Item], size: int, workers: int, start: int = 0) -> Iterator[Block]:
        """Blocks of ``size`` items, in order, numbered from ``start``; closing the iterator ends the threads."""
        waiting = iter(items)
        ahead: deque[tuple[list[Item], list[Future[Ready]]]] = deque()
        pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="dam-predict")
        try:
            while True:
                while len(ahead) <= AHEAD and (more := list(islice(waiting, size))):
                    ahead.append((more, [pool.submit(self.ready, item) for item in more]))
                if not ahead:
                    return
                block, work = ahead.popleft()
                yield self._block(start, block, [future.result() for future in work])
                start += len(block)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _block(self, start: int, items: list[Item], ready: list[Ready]) -> Block:
        good = [i for i, one in enumerate(ready) if not one.reason]
        pixels = {form: np.stack([ready[i].forms[form] for i in good]) for form in self.forms} if good else {}
        failed = [
            (item.name, one.reason, bool(item.skip)) for item, one in zip(items, ready, strict=True) if one.reason
        ]
        remarks = Counter(remark for one in ready for remark in one.remarks)
        problems = {i: one.reason for i, one in enumerate(ready) if one.reason}
        return Block(start, start + len(items), [items[i] for i in good], pixels, failed, remarks, problems)


def _decoded(item: Item, reader: ImageReader) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(item.source, str):
        decoded = reader.decode(item.source)
        return decoded.pixels, decoded.remarks
    if isinstance(item.source, np.ndarray):
        return gray_if_equal(item.source), ()
    return from_pillow(item.source, item.name, reader.window)


def _differences(pixels: np.ndarray, form: Form) -> Iterator[str]:
    """How an image differs from what the run was trained on, so far as its shape tells."""
    height, width = pixels.shape[:2]
    if form.channels == 1 and pixels.ndim == 3:
        yield "in colour, turned to gray: the run was trained on gray images"
    if form.channels == 3 and pixels.ndim == 2:
        yield "gray, given to three channels: the run was trained on colour images"
    if 2 * max(height, width) < form.size:
        yield f"less than half of the {form.size} pixels a side that the network takes, enlarged"
    if max(height, width) > LONG * min(height, width):
        how = {"squash": "squeezed into a square", "crop": "cut to their middle square", "pad": "padded to a square"}
        yield f"more than {LONG:g} times as long as wide (or wide as long), {how[form.fit]}"
