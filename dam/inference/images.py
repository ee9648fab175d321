"""Which images are to be scored: files, folders, globs, archives or the rows of a CSV, as a list that lies on disk.

The list is spooled to a nameless file, so a million images cost no memory. Its digest (names, sizes, times) tells a
continued command from another one.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from dam.data.containers import SEPARATOR, is_archive
from dam.errors import UserError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".dcm", ".dicom"}
)
IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "image_path")  # any case, in this order
_CONTAINERS = (".tfrec", ".tfrecord", ".tfrecords", ".h5", ".hdf5", ".npy")


@dataclass(frozen=True)
class Entry:
    """One line of the list: ``name`` as it is reported, ``locator`` for ``ImageReader``, metadata, and, where nothing
    is to be read, the reason ``skip``."""

    name: str
    locator: str
    metadata: tuple[str, ...] = ()
    skip: str = ""


@dataclass(frozen=True)
class Asked:
    """What the user named: words (paths, globs, ``container::item``), or a CSV with ``column`` (None: found by name)
    relative to ``root`` (None: the CSV's folder)."""

    words: tuple[str, ...] = ()
    csv: Path | None = None
    column: str | None = None
    root: Path | None = None
    ours: tuple[Path, ...] = ()  # files and folders of results, left alone where a folder holds them


@dataclass
class Listing:
    """The spooled list: ``count`` entries, of which ``skipped`` are no images; ``metadata``: the columns that were
    found; ``hidden``: files and folders left out because their name begins with a dot; ``repeated``: names given
    twice."""

    spool: IO[str]
    metadata: tuple[str, ...] = ()
    count: int = 0
    skipped: int = 0
    hidden: int = 0
    repeated: int = 0
    digest: str = ""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """The entries from number ``start`` on, in order."""
        self.spool.seek(0)
        for number, line in enumerate(self.spool):
            if number >= start:
                name, locator, metadata, skip, _ = json.loads(line)
                yield Entry(name, locator, tuple(metadata), skip)


def list_images(asked: Asked, metadata: Sequence[str], scratch: Path) -> Listing:
    """List what is ``asked`` for, in its own order (folders sorted); a file that comes twice is listed once.

    ``metadata``: columns to take from a CSV, all or none of them. ``scratch``: a folder that can be written. Raises
    ``UserError`` for a word that names nothing, and where nothing was found.
    """
    spool = tempfile.TemporaryFile("w+", encoding="utf-8", dir=scratch)  # noqa: SIM115  closed with the listing
    listing = Listing(spool)
    entries = _of_csv(asked, metadata, listing) if asked.csv is not None else _of_words(asked, asked.words, listing)
    names = array("Q")  # 8 bytes a name: a collision among a million has a chance of 3e-8
    for entry in entries:
        names.append(_hashed(entry.locator))
        json.dump([entry.name, entry.locator, entry.metadata, entry.skip, _stamp(entry)], spool)
        spool.write("\n")
    _finish(listing, np.frombuffer(names, np.uint64))
    if listing.count == listing.skipped:
        raise UserError(_nothing(asked, listing))
    return listing


def _finish(listing: Listing, names: np.ndarray) -> None:
    """Take out what came before, count, and digest the list."""
    first = np.zeros(len(names), bool)
    first[np.unique(names, return_index=True)[1]] = True
    spool = listing.spool
    if not first.all():
        spool.seek(0)
        listing.spool = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        listing.spool.writelines(line for line, kept in zip(spool, first.tolist(), strict=True) if kept)
        spool.close()
    listing.repeated = int((~first).sum())
    digest = hashlib.sha256()
    listing.spool.seek(0)
    for line in listing.spool:
        digest.update(line.encode())
        listing.count += 1
        listing.skipped += bool(json.loads(line)[3])
    listing.digest = digest.hexdigest()


def _hashed(name: str) -> int:
    path = os.path.normpath(name) if SEPARATOR not in name else name
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _stamp(entry: Entry) -> tuple[int, int]:
    """Size and time of the file, so that a changed image makes another list."""
    file = entry.locator.partition(SEPARATOR)[0]
    try:
        status = Path(file).stat()
    except (OSError, ValueError):
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


def _nothing(asked: Asked, listing: Listing) -> str:
    if asked.csv is not None:
        return f"{asked.csv} names no image: it has no rows"
    where = ", ".join(asked.words[:3])
    if listing.skipped:
        first = next(listing.entries())
        return f"no image in {where}: of {listing.skipped} files none is one by its name (such as {first.name})"
    return f"no image in {where}: the folder is empty" + (
        f" but for what is hidden ({listing.hidden})" * bool(listing.hidden)
    )


# ---------------------------------------------------------------- words


def _of_words(asked: Asked, words: Sequence[str], listing: Listing) -> Iterator[Entry]:
    for word in words:
        path = Path(os.path.expanduser(word))  # noqa: PTH111  Path's own raises for ~ and no user's name
        if path.is_dir():
            yield from _folder(str(path), asked, listing)
        elif is_archive(word) and path.is_file():
            yield from _archive(path)
        elif path.exists():
            if path.name.lower().endswith(_CONTAINERS):
                raise UserError(
                    f"{word} holds many images: name those to score, as in {word}{SEPARATOR}0, or list them in a CSV"
                )
            yield Entry(word, str(path))
        elif SEPARATOR in word:
            yield Entry(word, str(path))
        elif glob.has_magic(word):
            found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  absolute or not, and **
            if not found:
                raise UserError(f"nothing matches {word}")
            for name in found:
                if not os.path.isdir(name) or os.path.islink(name):  # noqa: PTH112 PTH114
                    yield from _found(name)
                elif "**" not in word:  # which finds what is in the folder itself
                    yield from _folder(name, asked, listing)
        else:
            raise UserError(f"there is no file or folder {word}")


def _folder(folder: str, asked: Asked, listing: Listing) -> Iterator[Entry]:
    ours = {path.name: path.absolute() for path in asked.ours}

    def is_ours(where: str, name: str) -> bool:
        return name in ours and Path(where, name).resolve() == ours[name].resolve()

    def refuse(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not is_ours(where, name))
        listing.hidden += sum(name.startswith(".") for name in folders)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (os.path.join(where, name) for name in folders):  # noqa: PTH118
            if os.path.islink(path):  # noqa: PTH114  os.walk does not go into it
                yield from _found(path)
        for name in sorted(files):
            if name.startswith("."):
                listing.hidden += 1
                continue
            if is_ours(where, name):
                continue
            yield from _found(os.path.join(where, name))  # noqa: PTH118  a Path object a file is slow for a million


def _found(path: str) -> Iterator[Entry]:
    """What a folder or glob holds beside folders; a link to a folder could lead in circles."""
    if os.path.isdir(path):  # noqa: PTH112
        yield Entry(path, path, skip="a link to a folder, which is not followed: name it itself")
    elif is_archive(path) and os.path.isfile(path):  # noqa: PTH113
        yield from _archive(Path(path))
    else:
        yield _by_name(path)


def _by_name(path: str) -> Entry:
    """A file that the user did not name himself: no image if its suffix is another kind's."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    # DICOM files have no suffix, or end in the number of an identifier.
    candidate = suffix in SUFFIXES or not suffix[1:] or suffix[1:].isdigit()
    return Entry(path, path, skip="" if candidate else f"not an image by its name ({suffix})")


def _archive(path: Path) -> Iterator[Entry]:
    from dam.data.containers.archive import open_archive

    try:
        archive = open_archive(path)
    except UserError as error:
        yield Entry(str(path), str(path), skip=str(error).rstrip("."))
        return
    for name in archive.names:
        entry = _by_name(name)
        locator = f"{path}{SEPARATOR}{name}"
        yield Entry(locator, locator, skip=entry.skip)
    for name, reason in archive.refused.items():
        yield Entry(f"{path}{SEPARATOR}{name}", f"{path}{SEPARATOR}{name}", skip=reason)
    if archive.damage:
        yield Entry(str(path), str(path), skip=f"the archive is damaged, there may be more in it ({archive.damage})")


# ---------------------------------------------------------------- a CSV


def _of_csv(asked: Asked, metadata: Sequence[str], listing: Listing) -> Iterator[Entry]:
    if asked.csv is None:
        return
    root = asked.root or asked.csv.parent
    try:
        with open(asked.csv, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            names = [name for name in rows.fieldnames or () if name]
            column = _image_column(asked, names)
            taken = tuple(metadata) if set(metadata) <= set(names) else ()
            listing.metadata = taken
            for row in rows:
                name = (row[column] or "").strip()
                values = tuple(row[name_] or "" for name_ in taken)
                if not name:
                    blank = f"{asked.csv}, line {rows.line_num}"
                    yield Entry(blank, blank, values, f"the column {column} is blank")
                    continue
                yield Entry(name, str(root / os.path.expanduser(name)), values)  # noqa: PTH111
    except OSError as error:
        raise UserError(f"--csv {asked.csv} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--csv {asked.csv} is no CSV table in UTF-8 ({error})") from error


def _image_column(asked: Asked, names: Sequence[str]) -> str:
    if asked.column is not None:
        if asked.column not in names:
            raise UserError(f"{asked.csv} has no column {asked.column}; its columns are {', '.join(names) or 'none'}")
        return asked.column
    lower = {name.strip().lower(): name for name in reversed(names)}
    found = next((lower[name] for name in IMAGE_COLUMNS if name in lower), None)
    if found is None:
        raise UserError(
            f"which column of {asked.csv} names the images? Say --image-column NAME; there are "
            f"{', '.join(names) or 'none'}"
        )
    return found
