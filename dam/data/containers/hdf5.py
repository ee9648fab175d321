"""Images in HDF5 files, by h5py (``pip install "dam[hdf5]"``), and unpacking gzipped ones once.

HDF5 handles do not survive a fork, and one handle is not for several threads to close: each thread of each process
opens its own at first use; it is closed when the thread ends or the container is dropped.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import shutil
import struct
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dam.data.containers import ItemError, item_number
from dam.errors import UserError
from dam.files import atomic_path

if TYPE_CHECKING:
    import h5py

_CACHE = 1 << 25  # bytes of decompressed chunks kept by a handle
_BLOCK = 1 << 22  # bytes copied at a time
_MOST_NUMBERS = 1 << 28
_MOST_BYTES = 1 << 29  # of an image, and of a chunk, which is unpacked whole to read one image
_log = logging.getLogger(__name__)


class H5Images:
    """Items are ``dataset/number``, such as ``x/17``: a row of a uint8 dataset ``(n, H, W)`` or ``(n, H, W, 1 or 3)``,
    read as uint8 ``(H, W)`` or ``(H, W, 3)``. Safe to share between threads and forked processes."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._own = threading.local()

    def read(self, item: str) -> np.ndarray:
        """Pixels of an item. Raises ``ItemError``; ``UserError`` if the file or dataset holds no images."""
        name, _, number = item.rpartition("/")
        if not name:
            raise ItemError("an item of an HDF5 file is named dataset/number, such as x/0")
        images = self._dataset(name)
        row = item_number(number, len(images))
        try:
            pixels = np.asarray(images[row], np.uint8)
        except OSError as error:
            raise ItemError(f"it is damaged ({_first_line(error)})") from error
        return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels

    def close(self) -> None:
        """Close this thread's handle; the next ``read`` opens a new one."""
        if getattr(self._own, "process", None) == os.getpid():
            self._own.file.close()
        self._own.__dict__.clear()

    def _dataset(self, name: str) -> h5py.Dataset:
        if getattr(self._own, "process", None) != os.getpid():  # none yet, or the parent's, which is not ours to close
            self._own.file = open_file(self.path)
            self._own.process, self._own.datasets = os.getpid(), {}
        datasets: dict[str, Any] = self._own.datasets
        if name not in datasets:
            datasets[name] = _image_dataset(self._own.file, name, self.path)
        return datasets[name]


def open_file(path: Path) -> h5py.File:
    """The file, open for reading. Raises ``UserError`` where h5py is missing or this is no HDF5 file."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(f'{path.name} is an HDF5 file, which needs h5py: pip install "dam[hdf5]".') from error
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CACHE)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read as HDF5 ({_first_line(error)}): it was cut short, or is another kind of file; get "
            "it again."
        ) from error


def count_images(path: Path, name: str) -> int:
    """Images in a dataset. Raises ``UserError`` if it holds none."""
    with open_file(path) as file:
        return len(_image_dataset(file, name, path))


def read_numbers(path: Path, name: str) -> np.ndarray:
    """A dataset of whole numbers, one a row, such as ``(n, 1, 1, 1)``, as int64 ``(n,)``. Raises ``UserError``."""
    with open_file(path) as file:
        dataset = _own_dataset(file, name, path)
        if dataset.dtype.kind not in "iub" or dataset.ndim == 0 or not 0 < dataset.size <= _MOST_NUMBERS:
            raise UserError(
                f"{path}: {name!r} has shape {dataset.shape} and type {dataset.dtype}, not one whole number a row."
            )
        if dataset.size != len(dataset):
            raise UserError(f"{path}: {name!r} has shape {dataset.shape}, where one number a row was expected.")
        try:
            return np.asarray(dataset[()]).reshape(-1).astype(np.int64)
        except OSError as error:
            raise UserError(f"{path}: {name!r} is damaged ({_first_line(error)}); get the file again.") from error


def _image_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    dataset = _own_dataset(file, name, path)
    shape = dataset.shape
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if dataset.dtype != np.uint8 or not fits or 0 in shape[1:]:
        raise UserError(
            f"{path}: {name!r} has shape {shape} and type {dataset.dtype}, not images: uint8 (n, height, width) or "
            "(n, height, width, 1 or 3)."
        )
    if max(math.prod(shape[1:]), math.prod(dataset.chunks or ())) > _MOST_BYTES:
        raise UserError(
            f"{path}: {name!r} has shape {shape} in pieces of {dataset.chunks}, more than {_MOST_BYTES >> 20} MiB to "
            "read an image: it is not read."
        )
    return dataset


def _own_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """A dataset whose numbers lie in this very file: a link could make pixels of any file of the machine."""
    import h5py

    parts = name.split("/")
    for step in ("/".join(parts[: end + 1]) for end in range(len(parts))):
        if isinstance(file.get(step, getlink=True), h5py.SoftLink | h5py.ExternalLink):
            raise UserError(f"{path}: {step!r} is a link, perhaps to another file, which is not followed.")
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        inside = ", ".join(sorted(map(str, file))[:10]) or "nothing"
        raise UserError(f"{path} has no dataset {name!r}; it holds {inside}.")
    if found.is_virtual or found.external:
        raise UserError(f"{path}: {name!r} keeps its numbers in other files, which are not followed.")
    return found


# ---------------------------------------------------------------- .h5.gz


def unpack_once(packed: Path, folder: Path, progress: bool = True) -> Path:
    """``packed`` (``name.gz``) unpacked to ``folder/name``, unless that is there from before; returns its path.

    Block by block, never whole in memory, under a temporary name that is renamed at the end; the unpacked file gets
    the modification time of the packed one, which is how a later call knows it. With a progress bar on a terminal.
    Raises ``UserError`` for a damaged file and where the disk has not enough room, before anything is written.
    """
    status = packed.stat()
    target = folder / packed.name.removesuffix(".gz")
    if target.is_file() and target.stat().st_mtime_ns == status.st_mtime_ns:
        return target
    size = _unpacked_size(packed, status.st_size)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size + _BLOCK:
        raise UserError(
            f"Unpacking {packed.name} needs {size / 1e9:.3g} GB in {folder}, where only {free / 1e9:.3g} GB are free: "
            f"make room, set data.store (or $DAM_STORE) to a larger disk, or unpack it yourself: gunzip -k {packed}"
        )
    _log.info("unpacking %s to %s, once (%.3g GB)", packed.name, folder, size / 1e9)
    try:
        with atomic_path(target) as temporary:
            _unpack(packed, temporary, size, progress)
            os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{packed} is damaged or was cut short ({_first_line(error)}): get it again.") from error
    return target


def _unpack(packed: Path, target: Path, size: int, progress: bool) -> None:
    from tqdm import tqdm

    bar = tqdm(total=size, desc=packed.name, unit="B", unit_scale=True, disable=None if progress else True)
    written = 0
    with gzip.open(packed) as source, open(target, "wb") as out, bar:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > size:  # the room for it was not asked for
                raise gzip.BadGzipFile("it holds more than its last bytes say")
            out.write(block)
            bar.update(len(block))


def _unpacked_size(packed: Path, size: int) -> int:
    """Bytes it unpacks to, at least: the file's last four bytes give them modulo 2**32, and gzip enlarges by 0.1 % at
    most."""
    with open(packed, "rb") as file:
        if size < 18 or file.read(2) != b"\x1f\x8b":
            raise UserError(f"{packed} is no gzip file, or was cut short: get it again.")
        file.seek(-4, os.SEEK_END)
        (low,) = struct.unpack("<I", file.read(4))
    missing = max(0, size - size // 1000 - int(low))
    return int(low) + (-(-missing >> 32) << 32)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
