"""Files: names that are safe, and writing so that a reader sees the old file or the new one, never half of either."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

log = logging.getLogger("dam")


def locked(file: IO[bytes] | int, of: Path, wait: bool = False, shared: bool = False) -> bool:
    """Take the lock of an open file, which dies with its owner; False if another process has it.

    ``of`` is what the lock is for; on a disk that knows no locks (some network disks) a warning names it and nothing is
    locked. ``wait``: until the other lets go. ``shared``: beside others that share it.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s cannot be locked (%s): see to it that no second process works on it", of, error.strerror)
    return True


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path``; when the block ends well, flush it to disk and rename it to ``path``.

    The temporary name starts with a dot and holds the process id, so two writers never share it. On an exception the
    temporary file is removed and ``path`` stays as it was. Raises ``OSError`` as the file system does.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_bytes(path: Path | str, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8, newlines as given) to ``path`` atomically."""
    atomic_write_bytes(path, text.encode("utf-8"))


def slugs(labels: tuple[str, ...]) -> dict[str, str]:
    """A folder name a label: lower case letters, digits and ``_``; made unique by a number where two would collide."""
    result: dict[str, str] = {}
    for label in labels:
        base = re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_") or "label"
        slug, number = base, 2
        while slug in result.values():
            slug, number = f"{base}_{number}", number + 1
        result[label] = slug
    return result


def _sync_directory(folder: Path) -> None:
    # The rename itself must survive a power cut.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
