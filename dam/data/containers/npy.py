"""Images in one ``.npy`` array, read through a memory map; nothing pickled is ever loaded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from dam.data.containers import item_number
from dam.errors import UserError

MOST_BYTES = 1 << 29  # of an image


class NpyImages:
    """Items are numbers along the first axis of a uint8 array ``(n, H, W)``, ``(n, H, W, 1 or 3)`` or ``(n, 3, H, W)``;
    each is read as uint8 ``(H, W)`` or ``(H, W, 3)``. The map is opened at first use and serves all threads."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._array: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._opened())

    def read(self, item: str) -> np.ndarray:
        """Pixels of an item. Raises ``ItemError``; ``UserError`` if the file holds no images."""
        array = self._opened()
        return np.array(array[item_number(item, len(array))])

    def _opened(self) -> np.ndarray:
        if self._array is None:  # two threads may both map it; either map is good
            self._array = _as_images(load_array(self.path), self.path)
        return self._array


def load_array(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file, memory-mapped and read-only. Raises ``UserError`` for anything else, for Python
    objects, and for a file cut short."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, EOFError, SyntaxError) as error:
        raise UserError(
            f"{path} is no plain numpy array ({_first_line(error)}): it was cut short, or holds Python objects, which "
            "are never loaded; get the file again."
        ) from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is no numpy array but an archive of several: unpack it first.")
    return array


def load_numbers(path: Path, count: int, largest: int) -> np.ndarray:
    """A label file: ``count`` whole numbers 0 .. ``largest`` of any integer or float width and any shape of that size,
    as int64 ``(count,)``. Raises ``UserError``."""
    array = load_array(path)
    if array.dtype.kind not in "iufb" or array.size != count:
        raise UserError(
            f"{path} holds an array of shape {array.shape} and type {array.dtype}, where {count} labels were expected: "
            "it does not belong to its images."
        )
    values = np.asarray(array).reshape(-1).astype(np.float64)
    bad = np.flatnonzero(~((values >= 0) & (values <= largest) & (values == np.round(values))))
    if len(bad):
        raise UserError(f"{path}, row {bad[0]}: {values[bad[0]]:g} is no label; labels are 0 to {largest}.")
    return values.astype(np.int64)


def _as_images(array: np.ndarray, path: Path) -> np.ndarray:
    planar = array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] == 3
    images = array.transpose(0, 2, 3, 1) if planar else array
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if images.dtype != np.uint8 or not fits or 0 in images.shape[1:]:
        raise UserError(
            f"{path} holds an array of shape {array.shape} and type {array.dtype}, not images: uint8 (n, height, "
            "width) or (n, height, width, 1 or 3)."
        )
    if math.prod(images.shape[1:]) > MOST_BYTES:
        raise UserError(f"{path} holds images of shape {images.shape[1:]}, which have too many pixels to be read.")
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
