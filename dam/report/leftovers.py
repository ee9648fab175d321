"""What a run keeps for its resume alone: checkpoints, and what a killed process left half-written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from dam.errors import UserError
from dam.files import locked

CHECKPOINTS = ("last.ckpt", "previous.ckpt", "next.ckpt")  # as dam.training.checkpoint names them
HALVES = (".*.tmp", ".*.partial")


@dataclass(frozen=True)
class Leftovers:
    """What can go from one run: checkpoints of its stages, and half-written files and folders."""

    run: Path
    checkpoints: tuple[Path, ...]
    halves: tuple[Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of it."""
        return self.checkpoints + self.halves

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(_size(path) for path in self.paths)


def leftovers(run: Path) -> Leftovers:
    """What is there to remove; links are left alone."""
    checkpoints = [path for name in CHECKPOINTS for path in run.rglob(name) if path.is_file() and not path.is_symlink()]
    halves = [path for pattern in HALVES for path in run.rglob(pattern) if not path.is_symlink()]
    outermost = [path for path in halves if not any(other in path.parents for other in halves)]
    return Leftovers(run, tuple(sorted(checkpoints)), tuple(sorted(outermost)))


def remove(found: Leftovers) -> int:
    """Remove it while the run's lock is held, so that no resume begins meanwhile; returns the bytes.

    Raises ``UserError`` if a process works on the run.
    """
    lock = found.run / ".lock"
    with open(lock, "ab") as file:
        if not locked(file, found.run):
            raise UserError(f"{found.run} is in use by another process: nothing of it was removed")
        size = 0
        for path in found.paths:
            size += _size(path)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    return size


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
        return path.stat().st_size
    except OSError:
        return 0
