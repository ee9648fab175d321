"""The image store: every image decoded and resized once to uint8, read at random for ever after.

A store is a folder with one flat file of rows ``(N, S, S, C)`` and ``index.json``, written last: without an index it
is not a store but a build to go on with. Its name is a digest of what it was made of (locators, sizes, modification
times, image size, colour, fit, window, format version), so runs, folds and experiments over the same images share it,
and a changed image makes a new one. Processes that want the same store at once wait for the first by a file lock that
dies with its owner, then reuse its work.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dam.config import DataConfig
from dam.data.readers import ImageError, ImageReader
from dam.data.store_build import MANY_BAD, Builder, Built
from dam.data.table import Naming, counted
from dam.errors import UserError
from dam.files import atomic_write_text, locked

if TYPE_CHECKING:
    from dam.data.table import ImageTable

FORMAT = 2
Progress = Callable[[int, int], None] | bool
_INDEX = "index.json"
_ANNOUNCED = 1 << 14  # bytes a row; less comes along with its neighbours anyway
_log = logging.getLogger(__name__)


class _Damaged(Exception):
    """The folder holds an index that does not fit its rows."""


class ImageStore:
    """Random access to the rows of a finished store. Safe to share between threads and forked processes.

    ``channels`` is 1 or 3, ``size`` the side in pixels, ``path`` the folder. By row: ``locators`` and ``digests``
    (BLAKE2b-128 of the source bytes, hex). ``skipped`` gives the reason for each locator that could not be read,
    ``remarks`` how many images were read in a way worth saying (a window, the first of several frames).
    """

    def __init__(self, path: Path) -> None:
        index = _read_index(path)
        self.path = path
        self.size: int = index["size"]
        self.channels: int = index["channels"]
        self.locators: list[str] = index["locators"]
        self.digests: list[str] = index["digests"]
        self.skipped: dict[str, str] = index["skipped"]
        self.remarks: dict[str, int] = index["remarks"]
        self._row_bytes = self.size * self.size * self.channels
        self._row_of = pd.Index(self.locators)  # a tenth of a dict's time at a million images
        if not self._row_of.is_unique:
            raise _Damaged("its index names an image twice")
        self._file = os.open(path / index["file"], os.O_RDONLY)
        self._state = _state(self._file)
        weakref.finalize(self, os.close, self._file)
        self._announce = self._row_bytes >= _ANNOUNCED and hasattr(os, "posix_fadvise")

    def __len__(self) -> int:
        return len(self.locators)

    def rows_for(self, table: ImageTable) -> np.ndarray:
        """Store row, int64, of each table row; table rows with the same image share one. ``KeyError`` if not stored."""
        images = table.frame["image"]
        rows = np.asarray(self._row_of.get_indexer(images), np.int64)
        if (rows < 0).any():
            raise KeyError(images.iloc[int(np.argmin(rows))])
        if self.skipped and any(self.locators[row] in self.skipped for row in rows.tolist()):
            raise KeyError("the table has images that this store skipped; use the table that open_store returned")
        return rows

    def take(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Copy rows into ``out`` (C-contiguous uint8, n rows) or a new array ``(n, S, S, C)``, in the given order.

        Reads at file offsets, in ascending order, outside the interpreter lock, and maps nothing into memory. All but
        tiny rows are first announced to the kernel, which fetches what it has not cached in parallel. Raises
        ``IndexError`` for a row out of range, ``OSError`` if the file ends early or was written to since it was opened.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"store rows are 0 to {len(self) - 1}")
        if out is None:
            out = np.empty((len(rows), self.size, self.size, self.channels), np.uint8)
        if out.nbytes != len(rows) * self._row_bytes or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous with room for {len(rows)} rows of {self._row_bytes} bytes")
        if _state(self._file) != self._state:
            raise OSError(f"the image store {self.path} was changed by another program; remove that folder and resume")
        buffer = out.reshape(-1).data
        n, order = self._row_bytes, np.argsort(rows, kind="stable").tolist()
        offsets = (rows * n).tolist()
        if self._announce:
            for i in order:
                os.posix_fadvise(self._file, offsets[i], n, os.POSIX_FADV_WILLNEED)
        for i in order:
            if os.preadv(self._file, [buffer[i * n : (i + 1) * n]], offsets[i]) != n:
                raise OSError(f"the image store {self.path} ends early; remove that folder and run again")
        return out


def default_store_dir() -> Path:
    """``$DAM_STORE``, else ``~/.cache/dam``."""
    return Path(os.environ.get("DAM_STORE") or "~/.cache/dam").expanduser()


def open_store(
    table: ImageTable, cfg: DataConfig, image_size: int, workers: int, progress: Progress = False
) -> tuple[ImageStore, ImageTable]:
    """The store of a table's images, built if there is none yet, and the table without skipped rows.

    ``progress``: True for a bar if standard error is a terminal, or a callable ``(done, total)`` in images. Raises
    ``UserError`` for images that cannot be read (unless ``on_bad_image=skip``), for byte-equal images in train and
    test (unless ``leakage=allow``), and for a full disk. What else was noticed is a note of the returned table.
    """
    reader = ImageReader(table.root, cfg.window)
    locators = sorted(set(table.frame["image"]))
    identities, missing = _identities(reader, locators)
    if missing and cfg.on_bad_image == "refuse":
        raise _bad_image_error(table, missing)
    key = _key(locators, identities, image_size, cfg)
    base = Path(cfg.store).expanduser() if cfg.store else default_store_dir()
    folder = base / f"images-{image_size}-{key}"
    notes: list[str] = []
    store = _try_open(folder, notes)
    if store is None:
        with _locked(base, folder.name):
            store = _try_open(folder, [])  # another process may have finished it meanwhile
            if store is None:
                with _reporter(progress, len(locators)) as report:
                    builder = Builder(folder, reader, locators, image_size, cfg.colour, cfg.fit, workers, report)
                    store = _build(builder, table, cfg, notes)
    return store, adapt_table(store, table, cfg, notes)


def adapt_table(store: ImageStore, table: ImageTable, cfg: DataConfig, notes: Sequence[str] = ()) -> ImageTable:
    """``table``, whose images are among those of an open store, without the rows that the store skipped and with a
    note of whatever was noticed. Raises ``UserError`` as ``open_store`` does."""
    remarks = [f"{count} image{'s' * (count != 1)}: {remark}" for remark, count in sorted(store.remarks.items())]
    return _check_leakage(store, _without_bad(store, table, cfg), cfg, [*notes, *remarks])


def known_digests(folder: Path) -> dict[str, str]:
    """Locator -> digest of the images that the finished store in ``folder`` did not skip; none if it cannot be read."""
    try:
        index = _read_index(folder)
    except (OSError, _Damaged):
        return {}
    pairs = zip(index["locators"], index["digests"], strict=True)
    return {name: digest for name, digest in pairs if name not in index.get("skipped", ())}


def changed_images(before: Path, now: Path) -> list[str]:
    """Locators whose bytes differ between two stores, or which only one of them has; none if one cannot be read."""
    try:
        first, second = (dict(zip(i["locators"], i["digests"], strict=True)) for i in map(_read_index, (before, now)))
    except (OSError, _Damaged):
        return []
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


# ---------------------------------------------------------------- opening and building


def _key(locators: Sequence[str], identities: Sequence[tuple[int, int]], size: int, cfg: DataConfig) -> str:
    digest = hashlib.blake2b(digest_size=10)
    digest.update(json.dumps([FORMAT, size, cfg.colour, cfg.fit, cfg.window]).encode())
    for locator, identity in zip(locators, identities, strict=True):
        digest.update(json.dumps([locator, *identity]).encode())
    return digest.hexdigest()


def _identities(reader: ImageReader, locators: Sequence[str]) -> tuple[list[tuple[int, int]], dict[str, str]]:
    identities: list[tuple[int, int]] = []
    missing: dict[str, str] = {}
    for locator in locators:
        try:
            identities.append(reader.identity(locator))
        except ImageError as error:
            identities.append((-1, -1))
            missing[locator] = error.reason
    return identities, missing


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((path / _INDEX).read_text("utf-8"))
        if Path(index["file"]).name != index["file"]:
            raise ValueError(f"{index['file']} leads out of it")
        expected = len(index["locators"]) * index["size"] ** 2 * index["channels"]
        actual = (path / index["file"]).stat().st_size
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"its index is unreadable ({error})") from error
    if index.get("format") != FORMAT or actual != expected or len(index["digests"]) != len(index["locators"]):
        raise _Damaged(f"its rows have {actual} bytes where the index says {expected}")
    return index


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _try_open(folder: Path, notes: list[str]) -> ImageStore | None:
    try:
        return ImageStore(folder)
    except _Damaged as error:
        notes.append(f"image store {folder.name} was damaged ({error}) and is built anew")
    except FileNotFoundError:
        if (folder / _INDEX).exists():
            notes.append(f"image store {folder.name} had lost its rows and is built anew")
    return None


def _build(builder: Builder, table: ImageTable, cfg: DataConfig, notes: list[str]) -> ImageStore:
    folder = builder.folder
    if (folder / _INDEX).exists():  # damaged: nothing in it can be trusted
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    _log.info("building the image store %s: %d images", folder, len(builder.locators))
    built = builder.build(MANY_BAD if cfg.on_bad_image == "refuse" else None)
    if len(built.digests) < len(builder.locators):
        raise _bad_image_error(table, built.bad)
    _write_index(builder, built, table.name)
    builder.clean(built)
    notes.append(f"image store built: {len(built.digests) - len(built.bad)} images of {builder.size} pixels")
    return ImageStore(folder)


def _write_index(builder: Builder, built: Built, name: str) -> None:
    index = {
        "format": FORMAT,
        "first_built_for": name,
        "size": builder.size,
        "channels": built.channels,
        "colour": builder.colour,
        "fit": builder.fit,
        "file": built.file,
        "skipped": built.bad,
        "remarks": built.remarks,
        "locators": list(builder.locators),
        "digests": built.digests,
    }
    atomic_write_text(builder.folder / _INDEX, json.dumps(index))


@contextmanager
def _locked(base: Path, name: str) -> Iterator[None]:
    """Hold the store's lock; the operating system lets go of it when the process ends in whatever way."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(base / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"Cannot write the image store in {base} ({error.strerror}): "
            "set data.store or $DAM_STORE to a folder of your own."
        ) from error
    try:
        if not locked(descriptor, base / name):
            _log.info("another process is building the image store %s; waiting for it", name)
            locked(descriptor, base / name, wait=True)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _reporter(progress: Progress, total: int) -> Iterator[Callable[[int, int], None]]:
    if callable(progress):
        yield progress
        return
    from tqdm import tqdm

    # disable=None: no bar unless standard error is a terminal
    with tqdm(total=total, desc="image store", unit="image", disable=None if progress else True) as bar:

        def report(done: int, _: int) -> None:
            bar.update(done - bar.n)

        yield report


# ---------------------------------------------------------------- what the images say about the table


def _bad_image_error(table: ImageTable, bad: dict[str, str]) -> UserError:
    images = table.frame["image"]
    rows = np.flatnonzero(images.isin(list(bad)).to_numpy())
    named = "; ".join(f"data row {row + 1}: {images.iloc[row]} ({bad[images.iloc[row]]})" for row in rows[:10].tolist())
    more = f"; and {len(rows) - 10} more rows" if len(rows) > 10 else ""
    return UserError(
        f"{len(bad)} image{'s' * (len(bad) != 1)} of {table.name} cannot be used: {named}{more}. "
        "Mend or remove them, or leave them out with data.on_bad_image=skip (the report counts them)."
    )


def _without_bad(store: ImageStore, table: ImageTable, cfg: DataConfig) -> ImageTable:
    bad = table.frame["image"].isin(list(store.skipped)).to_numpy()
    if not bad.any():
        return table
    if cfg.on_bad_image == "refuse":
        raise _bad_image_error(table, store.skipped)
    if bad.all():
        first = store.locators[0]
        raise UserError(f"None of the {len(bad)} images can be read; {first}: {store.skipped[first]}.")
    frame = table.frame[~bad].reset_index(drop=True)
    told = "; ".join(f"{image} ({reason})" for image, reason in list(store.skipped.items())[:10])
    more = f"; and {len(store.skipped) - 10} more" if len(store.skipped) > 10 else ""
    note = f"data.on_bad_image=skip: {counted(int(bad.sum()), 'row')} left out, unreadable"
    return table.with_frame(frame, Naming(note, f": {told}{more}"))


def _check_leakage(store: ImageStore, table: ImageTable, cfg: DataConfig, notes: list[str]) -> ImageTable:
    digests = np.asarray(store.digests)[store.rows_for(table)]
    splits = table.frame["split"].to_numpy()
    for first, second in (("train", "test"), ("train", "val"), ("val", "test")):
        in_first, in_second = np.flatnonzero(splits == first), np.flatnonzero(splits == second)
        shared, a, b = np.intersect1d(digests[in_first], digests[in_second], return_indices=True)
        if not len(shared):
            continue
        images = table.frame["image"]
        pairs = [f"{images.iloc[in_first[i]]} = {images.iloc[in_second[j]]}" for i, j in zip(a[:3], b[:3], strict=True)]
        found = f"{len(shared)} image{'s' * (len(shared) != 1)} in both {first} and {second}, byte for byte"
        if second == "test" and first == "train" and cfg.leakage == "refuse":
            raise UserError(
                f"{found} ({', '.join(pairs)}): a test on training images means nothing. "
                "Remove them from one of the two, or set data.leakage=allow if you know better."
            )
        notes.append(Naming(found, f" ({', '.join(pairs)})"))
    for note in notes:
        table = table.with_frame(table.frame, note)
    return table
