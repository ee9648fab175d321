"""Files that hold many images. A locator ``container::item`` names one; each kind of container has a module here.

A kind is a class made from a path that has ``read(item) -> encoded bytes | uint8 pixels``. Opening is lazy (at the
first ``read``) or cheap, memory stays bounded, and one object serves many threads: by a lock, by positioned reads
(``os.pread``), or by a handle for each thread. What is wrong with one item is an ``ItemError`` and may be skipped
by ``data.on_bad_image=skip``; what is wrong with the whole file is a ``UserError``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dam.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SEPARATOR = "::"  # between a container and its item: "cifar-10-batches-py/data_batch_1::17", "images.zip::a/b.png"
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
RECORDS = (".tfrec", ".tfrecord", ".tfrecords")


class ItemError(Exception):
    """One item cannot be read; the text is the reason in a few words, without file or item."""


class Container(Protocol):
    """What every kind of container offers."""

    def read(self, item: str) -> bytes | np.ndarray:
        """An item: an encoded image file as bytes, or pixels, uint8 ``(H, W)`` or ``(H, W, 3)`` RGB.

        Raises ``ItemError`` for an item that is not there or damaged, ``UserError`` for a file that cannot be used.
        """
        ...


def open_container(path: Path) -> Container:
    """The container at ``path``, its kind chosen by the file's name. Each kind is imported when it is first met."""
    name = path.name.lower()
    if name.endswith(ARCHIVES):
        from dam.data.containers.archive import open_archive

        return open_archive(path)
    if name.endswith(RECORDS):
        from dam.data.containers.tfrecord import TFRecordFile

        return TFRecordFile(path)
    if name.endswith((".h5", ".hdf5")):
        from dam.data.containers.hdf5 import H5Images

        return H5Images(path)
    if name.endswith(".npy"):
        from dam.data.containers.npy import NpyImages

        return NpyImages(path)
    if name.endswith("_x.bin"):
        from dam.data.containers.stl import StlImages

        return StlImages(path)
    if path.suffix not in ("", ".bin"):
        raise UserError(
            f"{path} is no file of many images ({', '.join((*ARCHIVES, *RECORDS))}, .h5, .npy), so {SEPARATOR} cannot "
            "follow its name."
        )
    from dam.data.containers.cifar import CifarImages

    return CifarImages(path)


def is_archive(name: str | Path) -> bool:
    """Whether a file's name is that of a zip or tar archive."""
    return str(name).lower().endswith(ARCHIVES)


def item_number(item: str, count: int) -> int:
    """An item's number, 0 to ``count - 1``. Raises ``ItemError``."""
    if not (item.isascii() and item.isdecimal()) or int(item[:20]) >= count:
        raise ItemError(f"the container has items 0 to {count - 1}" if count else "the container has no items")
    return int(item)
