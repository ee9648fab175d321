"""From more than 8 bits to 8: which range of values becomes black to white. Nothing is ever cut off silently.

``data.window`` says which: ``full``, the whole range that the bits can hold; ``stretch``, the image's own least and
largest value; ``[low, high]``, these values; ``file``, the window that the file names (DICOM may, PNG and TIFF cannot);
``refuse``, none. Values at or below the low end become 0, at or above the high end 255, those between are scaled and
rounded to the nearest: ``floor(255 * (v - low) / (high - low) + 0.5)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dam.errors import UserError

Window = str | Sequence[float]
WINDOWS = ("refuse", "file", "full", "stretch")
CHOOSE = "choose one: data.window=full, stretch or [low, high]"


class WindowError(Exception):
    """This image has no such window; the text is the reason in a few words."""


def check_window(window: Window) -> None:
    """Raise ``UserError`` unless it is one of ``WINDOWS`` or two finite numbers, the first below the second."""
    if isinstance(window, str):
        if window not in WINDOWS:
            raise UserError(f"data.window={window} is none of {', '.join(WINDOWS)} and [low, high].")
    elif len(window) != 2 or not all(math.isfinite(end) for end in window) or window[0] >= window[1]:
        raise UserError(f"data.window={list(window)} is no window: give [low, high] with low below high.")


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from ``low`` to ``high`` as uint8, 0 to 255; beyond them cut. Not-a-number becomes 0.

    Where ``low`` equals ``high`` (a flat image under ``stretch``) all becomes 0.
    """
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:  # by table: 65,536 entries instead of every pixel
        info = np.iinfo(values.dtype)
        table = _scaled(np.arange(info.min, info.max + 1, dtype=np.float64), low, high)
        return np.asarray(table[values.astype(np.int32) - info.min])
    return _scaled(values.astype(np.float64), low, high)


def apply(
    values: np.ndarray, window: Window, full: tuple[float, float] | None, kept: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """Gray values ``(H, W)`` as uint8 by a window, and what was done, in a few words.

    ``full`` is the range that the bits can hold, ``None`` for floating point. ``kept`` marks the pixels that belong
    to the image (``stretch`` looks at no others). Raises ``WindowError`` where the window cannot be had.
    """
    if not isinstance(window, str):
        return scale(values, window[0], window[1]), f"window [{window[0]:g}, {window[1]:g}]"
    if window == "full" and full is not None:
        return scale(values, *full), "window full"
    if window == "stretch":
        looked = values if kept is None else values[kept]
        looked = looked[np.isfinite(looked)] if values.dtype.kind == "f" else looked
        ends = (float(looked.min()), float(looked.max())) if looked.size else (0.0, 0.0)
        return scale(values, *ends), "window stretch"
    if window == "full":
        raise WindowError("it holds floating-point values, which have no full range; set data.window to stretch or "
                          "[low, high]")  # fmt: skip
    if window == "refuse":
        raise WindowError(f"it has more than 8 bits a pixel, which data.window=refuse does not take; {CHOOSE}")
    raise WindowError(f"it has more than 8 bits a pixel and names no window of its own; {CHOOSE}")


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip(np.nan_to_num((values - low) / (high - low), nan=0.0), 0, 1)
    return np.asarray(np.floor(share * 255 + 0.5).astype(np.uint8))
