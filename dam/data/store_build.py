"""Building an image store: decode and resize every image once, in threads, so that a kill at any moment loses little.

The rows go into one flat file; a chunk of rows counts as done once its record (digests, bad images) is on disk, and
the records of a killed build are reused by the next. ``store.py`` writes the index when all chunks are done and holds
the lock. With ``colour=auto`` the build starts with one channel; at the first colour image it starts over with three,
widening the finished gray chunks instead of decoding them again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dam.data.readers import ImageError, ImageReader
from dam.errors import UserError
from dam.files import atomic_write_text

MANY_BAD = 10  # a build that must refuse bad images anyway stops after so many
_CHUNK_BYTES = 1 << 25
_FILES = {1: "gray.u8", 3: "rgb.u8"}


class _ColourFound(Exception):
    """A colour image met while building with one channel."""


@dataclass(frozen=True)
class _Stored:
    """Digest and reason of failure of one image, exactly one of them empty, and the reader's remarks."""

    digest: str
    reason: str
    remarks: tuple[str, ...] = ()


@dataclass
class Built:
    """What a build leaves: the name of the file of rows, its channels, digests by row, and reasons by bad locator."""

    file: str
    channels: int
    digests: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)  # images a remark of the reader


@dataclass(frozen=True)
class Builder:
    """Builds into ``folder``, which nobody else may write meanwhile. ``report(done, total)`` is called per chunk."""

    folder: Path
    reader: ImageReader
    locators: Sequence[str]
    size: int
    colour: str
    fit: str
    workers: int
    report: Callable[[int, int], None]

    def build(self, stop_at_bad: int | None) -> Built:
        """Decode all that is not yet done. Stops early, with the bad images so far, at ``stop_at_bad`` of them.

        Raises ``UserError`` if the disk has not enough room.
        """
        import cv2

        cv2.setNumThreads(0)  # one image a thread; OpenCV's own threads would only compete with them
        try:
            return self._build(3 if self.colour == "rgb" else 1, stop_at_bad)
        except _ColourFound:
            return self._build(3, stop_at_bad)

    def clean(self, built: Built) -> None:
        """Remove what only a build in progress needs."""
        for channels, name in _FILES.items():
            shutil.rmtree(self._records(channels), ignore_errors=True)
            if name != built.file:
                (self.folder / name).unlink(missing_ok=True)

    def _build(self, channels: int, stop_at_bad: int | None) -> Built:
        built = Built(_FILES[channels], channels)
        descriptor = self._open_rows(channels)
        pending: deque[tuple[int, range, list[Future[_Stored]]]] = deque()
        pool = ThreadPoolExecutor(max(1, self.workers), thread_name_prefix="dam-store")
        try:
            self._widen_gray_chunks(descriptor, channels)
            for chunk, rows in enumerate(self._chunks()):
                done = self._record(channels, chunk) is not None
                work = [] if done else [pool.submit(self._store_row, descriptor, channels, row) for row in rows]
                pending.append((chunk, rows, work))
                if len(pending) > 2:  # the next chunk is under way while the oldest one ends
                    self._finish(descriptor, built, *pending.popleft())
                if stop_at_bad and len(built.bad) >= stop_at_bad:
                    return built
            while pending:
                self._finish(descriptor, built, *pending.popleft())
        except OSError as error:
            raise self._disk_error(error) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            os.close(descriptor)
        return built

    def _finish(self, descriptor: int, built: Built, chunk: int, rows: range, work: list[Future[_Stored]]) -> None:
        record = self._record(built.channels, chunk)
        if record is None:
            results = [future.result() for future in work]
            bad = {self.locators[row]: end.reason for row, end in zip(rows, results, strict=True) if end.reason}
            remarks = Counter(remark for stored in results for remark in stored.remarks)
            record = {"digests": [stored.digest for stored in results], "bad": bad, "remarks": remarks}
            self._write_record(descriptor, built.channels, chunk, record)
        built.digests += record["digests"]
        built.bad |= record["bad"]
        built.remarks.update(record["remarks"])
        self.report(len(built.digests), len(self.locators))

    def _store_row(self, descriptor: int, channels: int, row: int) -> _Stored:
        try:
            decoded = self.reader.decode(self.locators[row])
        except ImageError as error:
            return _Stored("", error.reason)
        if decoded.pixels.ndim == 3 and channels == 1 and self.colour == "auto":
            raise _ColourFound
        image = network_image(decoded.pixels, self.size, self.fit, channels)
        _write(descriptor, image, row * self._row_bytes(channels))
        return _Stored(decoded.digest, "", decoded.remarks)

    # ------------------------------------------------------------ files

    def _chunks(self) -> list[range]:
        # The same boundaries for one and three channels, so that gray chunks can be widened.
        length = min(512, max(16, _CHUNK_BYTES // self._row_bytes(3)))
        total = len(self.locators)
        return [range(start, min(start + length, total)) for start in range(0, total, length)]

    def _row_bytes(self, channels: int) -> int:
        return self.size * self.size * channels

    def _records(self, channels: int) -> Path:
        return self.folder / f"{_FILES[channels]}.done"

    def _record(self, channels: int, chunk: int) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads((self._records(channels) / f"{chunk}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return record

    def _write_record(self, descriptor: int, channels: int, chunk: int, record: dict[str, Any]) -> None:
        os.fsync(descriptor)  # the record promises that the rows are on disk
        atomic_write_text(self._records(channels) / f"{chunk}.json", json.dumps(record))

    def _open_rows(self, channels: int) -> int:
        path = self.folder / _FILES[channels]
        needed = len(self.locators) * self._row_bytes(channels)
        if not path.is_file() or path.stat().st_size != needed:
            shutil.rmtree(self._records(channels), ignore_errors=True)
            path.unlink(missing_ok=True)
        there = path.stat().st_blocks * 512 if path.is_file() else 0
        free = shutil.disk_usage(self.folder).free
        if free < needed - there:
            raise UserError(
                f"The image store needs {_size(needed - there)} in {self.folder.parent}, where only "
                f"{_size(free)} are free: make room, set data.store (or $DAM_STORE) to a larger disk, "
                "or lower image_size."
            )
        self._records(channels).mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(descriptor, needed)
        return descriptor

    def _widen_gray_chunks(self, descriptor: int, channels: int) -> None:
        gray = self.folder / _FILES[1]
        if channels != 3 or self.colour != "auto" or not gray.is_file():
            return
        rows_of_gray = np.memmap(gray, np.uint8, "r", shape=(len(self.locators), self.size, self.size))
        for chunk, rows in enumerate(self._chunks()):
            record = self._record(1, chunk)
            if record and not self._record(3, chunk):
                wide = np.repeat(rows_of_gray[rows.start : rows.stop, ..., None], 3, axis=-1)
                _write(descriptor, wide, rows.start * self._row_bytes(3))
                self._write_record(descriptor, 3, chunk, record)

    def _disk_error(self, error: OSError) -> Exception:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return UserError(
                f"The disk of {self.folder.parent} is full: make room, or set data.store to a larger disk; "
                "what is done so far is kept."
            )
        return error


def _size(count: int) -> str:
    """Bytes in the unit that shows them: ``740 MB``, ``3.2 GB``."""
    unit, scale = next(((u, s) for u, s in (("TB", 1e12), ("GB", 1e9)) if count >= s), ("MB", 1e6))
    return f"{count / scale:.3g} {unit}"


def network_image(image: np.ndarray, size: int, fit: str, channels: int) -> np.ndarray:
    """A decoded image ``(H, W[, 3])`` as a store holds it: uint8, ``size`` pixels a side, ``(S, S)`` gray for one
    channel, ``(S, S, 3)`` for three."""
    if image.ndim == 3 and channels == 1:
        image = _to_gray(image)
    return _with_channels(fit_image(image, size, fit), channels)


def fit_image(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Make an image ``(H, W[, 3])`` square, ``size`` pixels a side.

    ``squash`` ignores the aspect ratio, ``crop`` takes the central square, ``pad`` centres it on black. Area
    averaging where an axis shrinks, linear interpolation where it grows.
    """
    height, width = image.shape[:2]
    if fit == "squash":
        return _resize(image, size, size)
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _resize(image[top : top + side, left : left + side], size, size)
    scale = size / max(height, width)
    inner = _resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    out = np.zeros((size, size, *image.shape[2:]), np.uint8)
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    out[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return out


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    import cv2

    smaller = (min(width, image.shape[1]), min(height, image.shape[0]))
    if smaller != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def _to_gray(image: np.ndarray) -> np.ndarray:
    import cv2

    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 and channels == 3 else image


def _write(descriptor: int, rows: np.ndarray, offset: int) -> None:
    data = np.ascontiguousarray(rows).reshape(-1).data
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
