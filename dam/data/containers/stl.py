"""The binary image files of STL-10 (``train_X.bin``, ``test_X.bin``), read by position."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

from dam.data.containers import ItemError, item_number
from dam.errors import UserError

SIDE = 96
RECORD = 3 * SIDE * SIDE  # red, green and blue plane, each column by column


class StlImages:
    """Items are numbers; each is uint8 ``(96, 96, 3)`` RGB, turned from the file's column order into rows."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._handle = -1
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        self._opened()
        return self._count

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            os.close(self._handle)

    def read(self, item: str) -> np.ndarray:
        """Pixels of an item. Raises ``ItemError``; ``UserError`` if the file is no STL-10 file."""
        number = item_number(item, len(self))
        data = os.pread(self._opened(), RECORD, number * RECORD)
        if len(data) < RECORD:
            raise ItemError("the file became shorter while it was read")
        planes = np.frombuffer(data, np.uint8).reshape(3, SIDE, SIDE)  # channel, column, row
        return np.ascontiguousarray(planes.transpose(2, 1, 0))

    def _opened(self) -> int:
        with self._lock:
            if self._handle < 0:
                self._count = count_images(self.path)
                self._handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            return self._handle


def count_images(path: Path) -> int:
    """Images in a file. Raises ``UserError`` for one that does not hold whole images."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if size == 0 or size % RECORD:
        raise UserError(
            f"{path} has {size} bytes, not a multiple of {RECORD} (an image of 96 x 96 x 3): it is no STL-10 file, or "
            "was cut short; unpack stl10_binary.tar.gz again."
        )
    return size // RECORD
