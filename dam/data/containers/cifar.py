"""The images of one CIFAR batch, python or binary version."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dam.data.containers import item_number


class CifarImages:
    """Items are numbers; each is uint8 ``(32, 32, 3)`` RGB. The batch (30 MB, or 150 MB) is read whole, once."""

    def __init__(self, path: Path) -> None:
        from dam.data.datasets.cifar_pickle import load_batch

        data: np.ndarray = load_batch(path)["data"]
        self._images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))

    def read(self, item: str) -> np.ndarray:
        """Pixels of an item. Raises ``ItemError``."""
        image: np.ndarray = self._images[item_number(item, len(self._images))]
        return image
