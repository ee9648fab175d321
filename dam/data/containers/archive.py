"""Images inside a zip or tar archive, read where they are: nothing is ever unpacked to a name from the archive.

So a name that leads out of the archive (absolute, or with ``..``) can do no harm; it is refused all the same, as are
links, encrypted members, and members too large or too dense to be images (zip bombs). A tar archive compressed by gzip
cannot be read at random; it is expanded once into a nameless temporary file, with a limit and an eye on the disk.
"""

from __future__ import annotations

import os
import shutil
import struct
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO

from dam.data.containers import ItemError
from dam.errors import UserError

MOST_MEMBERS = 2_000_000  # about 1 GB of names
MOST_BYTES = 1 << 31  # of one member, unpacked
DENSE, DENSE_FROM = 200, 1 << 26  # unpacked : packed of a bomb, for what unpacks to 64 MiB or more
_SPARE_DISK = 1 << 30
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, struct.error)


class Archive:
    """Members are named as the archive names them. One handle, shared by all threads.

    ``names``: the members that can be images (files, in the archive's order, as the keys of a dictionary).
    ``refused``: the reason for each other member that is no folder. ``damage``: why the list may be incomplete, or "".
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: dict[str, str] = {}
        self.damage = ""
        self._places: dict[str, tuple[int, int]] = {}  # tar: offset and size
        self._zip: zipfile.ZipFile | None = None
        self._file: int = -1
        try:
            if path.name.lower().endswith(".zip"):
                self.names = self._open_zip()
            else:
                self.names = self._open_tar()
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, struct.error) as error:
            raise UserError(f"{path} is no archive, or damaged ({_line(error)}): fetch it again.") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or _line(error)}).") from error

    def read(self, item: str) -> bytes:
        """The bytes of a member. Raises ``ItemError``."""
        reason = self.refused.get(item) or _bad_name(item)
        if reason:
            raise ItemError(reason)
        if self._zip is not None:
            return self._read_zip(self._zip, item)
        if item not in self._places:
            raise ItemError(f"the archive has no such member{self.damage and f' ({self.damage})'}")
        offset, size = self._places[item]
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise ItemError("the archive is cut short in this member")
        return data

    # ------------------------------------------------------------ zip

    def _open_zip(self) -> dict[str, None]:
        if _zip_entries(self.path) > MOST_MEMBERS:
            raise UserError(f"{self.path} has more than {MOST_MEMBERS:,} members: unpack it and give the folder.")
        self._zip = zipfile.ZipFile(self.path)
        names: dict[str, None] = {}
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            reason = _bad_name(info.filename) or _bad_zip_member(info)
            if reason:
                self.refused[info.filename] = reason
            else:
                names[info.filename] = None
        return names

    @staticmethod
    def _read_zip(archive: zipfile.ZipFile, item: str) -> bytes:
        try:
            size = archive.getinfo(item).file_size
            with archive.open(item) as member:
                data = member.read(size + 1)
        except KeyError as error:
            raise ItemError("the archive has no such member") from error
        except _DAMAGE as error:
            raise ItemError(f"it is damaged in the archive ({_line(error)})") from error
        if len(data) != size:
            raise ItemError(f"it unpacks to another size than the {size} bytes that the archive says")
        return data

    # ------------------------------------------------------------ tar

    def _open_tar(self) -> dict[str, None]:
        with open(self.path, "rb") as packed:
            compressed = packed.read(2) == b"\x1f\x8b"
        file: IO[bytes] = self._expand() if compressed else open(self.path, "rb")  # noqa: SIM115
        with file:
            self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)
            length = os.fstat(self._file).st_size
            try:
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    for count, info in enumerate(archive):
                        if count == MOST_MEMBERS:
                            raise UserError(f"{self.path} has more than {MOST_MEMBERS:,} members: unpack it and give "
                                            "the folder.")  # fmt: skip
                        archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header
                        self._note_tar_member(info, length)
            except (tarfile.TarError, EOFError, ValueError) as error:
                if not self._places:
                    raise
                last = next(reversed(self._places))
                self.damage = self.damage or f"the archive is cut short or damaged after {last}: {_line(error)}"
        return dict.fromkeys(self._places)

    def _note_tar_member(self, info: tarfile.TarInfo, length: int) -> None:
        if info.isdir():
            return
        name = info.name.removeprefix("./")
        reason = _bad_name(name) or _bad_tar_member(info)
        if not reason and info.offset_data + info.size > length:
            reason = "the archive is cut short in this member"
        if reason:
            self.refused[name] = reason
        else:
            self._places[name] = (info.offset_data, info.size)

    def _expand(self) -> IO[bytes]:
        """The tar file without its compression, in a nameless file of the temporary folder."""
        out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        packed, total = max(1, self.path.stat().st_size), 0
        try:
            for block in _inflated(self.path):
                total += len(block)
                if total > DENSE_FROM and total > DENSE * packed:
                    raise UserError(f"{self.path} unpacks to more than {DENSE} times its size: it looks like a "
                                    "decompression bomb and is not read.")  # fmt: skip
                self._check_disk(total)
                out.write(block)
        except UserError:
            out.close()
            raise
        except (EOFError, zlib.error) as error:
            self.damage = f"its compression is cut short or damaged: {_line(error)}"
        out.flush()
        out.seek(0)
        return out

    def _check_disk(self, total: int) -> None:
        folder = tempfile.gettempdir()
        if shutil.disk_usage(folder).free < _SPARE_DISK:
            raise UserError(f"{self.path} does not fit unpacked into the temporary folder {folder} ({total >> 20} MiB "
                            "so far): unpack it yourself and give the folder, or set TMPDIR.")  # fmt: skip


def open_archive(path: Path) -> Archive:
    """The archive at ``path``; the last few are kept, for listing and reading to share. Raises ``UserError``."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    return _kept(path, status.st_size, status.st_mtime_ns)


_opening = threading.Lock()


def _kept(path: Path, size: int, modified: int) -> Archive:
    with _opening:  # two threads must not expand the same archive twice
        return _open(path, size, modified)


@lru_cache(maxsize=4)
def _open(path: Path, _size: int, _modified: int) -> Archive:
    return Archive(path)


def _inflated(path: Path) -> Iterator[bytes]:
    """The content of a gzip file in blocks, all that can be had before a fault is raised."""
    inflater = zlib.decompressobj(31)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            while piece:
                if inflater.eof:  # another gzip member follows, or zeros
                    piece = piece.lstrip(b"\0")
                    if not piece:
                        break
                    inflater = zlib.decompressobj(31)
                yield inflater.decompress(piece, 1 << 22)
                piece = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    while not inflater.eof and (rest := inflater.decompress(b"", 1 << 22)):
        yield rest
    if not inflater.eof:
        raise EOFError("it ends early")


def _bad_name(name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    out = name.startswith(("/", "\\")) or ".." in parts or name[1:2] == ":" or "\0" in name
    return "its name leads out of the archive" if out else ""


def _bad_zip_member(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "it is encrypted; unpack the archive with its password and give the folder"
    if (info.external_attr >> 16) & 0o170000 == 0o120000:
        return "it is a link"
    return _too_large(info.file_size, info.compress_size)


def _bad_tar_member(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "it is a link"
    if not info.isreg() or info.issparse():
        return "it is no regular file"
    return _too_large(info.size, info.size)


def _too_large(size: int, packed: int) -> str:
    if size > MOST_BYTES:
        return f"it unpacks to {size >> 20} MiB, which no image needs"
    if size > DENSE_FROM and size > DENSE * max(1, packed):
        return f"it unpacks to {size // max(1, packed)} times its size, like a zip bomb"
    return ""


def _zip_entries(path: Path) -> int:
    """How many members the end of a zip file announces, read before the whole directory is."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        start = max(0, file.tell() - 65_557 - 20)
        file.seek(start)
        tail = file.read()
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or len(tail) < end + 22:
            raise zipfile.BadZipFile("it has no directory at its end")
        count: int = struct.unpack_from("<H", tail, end + 10)[0]
        if count == 0xFFFF and end >= 20 and tail[end - 20 : end - 16] == b"PK\x06\x07":
            file.seek(struct.unpack_from("<Q", tail, end - 12)[0])
            record = file.read(56)
            count = struct.unpack_from("<Q", record, 32)[0] if record[:4] == b"PK\x06\x06" else MOST_MEMBERS + 1
    return count


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
