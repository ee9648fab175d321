"""Fewer points for figures: what no eye can see costs bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEP = 1 / 300  # of the unit square, about half of a line's width in a tile


def thin(x: ArrayLike, y: ArrayLike, step: float = STEP) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of a line in the unit square, of neighbours in one cell of ``step`` only the first; the last point stays.

    x, y: (N,) finite. The points returned are points given, so their numbers are exact.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 3:
        return a, b
    cells = np.stack([np.floor(a / step), np.floor(b / step)])
    keep = np.append(True, (np.diff(cells, axis=1) != 0).any(axis=0))
    keep[-1] = True
    return a[keep], b[keep]
