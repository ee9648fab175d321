"""A disk that is full from one certain write on: pretended for the tests, real on a small tmpfs for the documents.

    mkdir /mnt/small && mount -t tmpfs -o size=24m tmpfs /mnt/small
    python tests/full_disk.py --disk /mnt/small        a row of a table for each kind of write

The run and its image store lie on that disk. From the chosen write on it is full; then there is room again, and the run
is resumed (or started again, if it was none yet) and compared bit by bit with one that never saw a full disk.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fault_harness import Scene, child, ended, everything, prepare
from tiny import words

WORDS = (
    *("auc=auc_square", "auc.labels=[Edema]", "auc.steps=4", "warm_start.steps=4", "data.patients=30", "batch_size=8"),
    *("data.labels=[Edema,Cardiomegaly]", "tta.copies=2"),
)


class Disk:
    """Stands in for ``os`` in the modules that write: knows every write, and is full from write ``full_at`` on.

    A pretended full disk (without ``ballast``) takes half of a file, then raises ``ENOSPC``. ``ballast`` is a file on
    a real small disk that is made to take all the room.
    """

    def __init__(self, full_at: int | None = None, ballast: Path | None = None) -> None:
        self.writes: list[str] = []
        self.full_at, self.ballast = full_at, ballast

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @property
    def full(self) -> bool:
        return self.full_at is not None and len(self.writes) > self.full_at

    def begin(self, name: str) -> None:
        self.writes.append(name)
        if self.full_at is not None and len(self.writes) == self.full_at + 1 and self.ballast is not None:
            fill(self.ballast)

    def getpid(self) -> int:
        """What ``atomic_path`` asks first."""
        self.begin(Path(sys._getframe(1).f_locals["path"]).name)
        return os.getpid()

    def fsync(self, descriptor: int) -> None:
        """What ``atomic_path`` does last."""
        if self.full and self.ballast is None:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        """A row of the image store."""
        self.begin("rows of the image store")
        if self.full and self.ballast is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(descriptor, data, offset)


def fill(ballast: Path) -> None:
    """Take all room of the disk that ``ballast`` lies on."""
    size = 1 << 20
    with open(ballast, "wb", buffering=0) as file:
        while size:
            try:
                file.write(b"\1" * size)
            except OSError:
                size //= 2


@contextmanager
def installed(disk: Disk) -> Iterator[Disk]:
    """``disk`` under every file that dam writes atomically, and under the rows of its image store."""
    import dam.data.store_build
    import dam.files

    modules: tuple[Any, ...] = (dam.files, dam.data.store_build)
    for module in modules:
        module.os = disk
    try:
        yield disk
    finally:
        for module in modules:
            module.os = os


def half_files(run: Path) -> list[str]:
    """Files of a run that are not whole: temporary names, and JSON that cannot be read."""
    found = [str(path.relative_to(run)) for path in run.rglob(".*.tmp")]
    for path in run.rglob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            found.append(str(path.relative_to(run)))
    return found


# ---------------------------------------------------------------- on a real small disk


class OnDisk(Scene):
    """A run whose directory and store lie on the small disk; what it prints does not."""

    disk = Path()

    @property
    def run(self) -> Path:
        return self.disk / "run"

    @property
    def store(self) -> Path:
        return self.disk / "store"

    def command(self) -> list[str]:
        if (self.run / "config.yaml").exists():
            return ["train", f"resume={self.run}"]
        return ["train", *words(self.run, *WORDS)]


def train(scene: OnDisk, full_at: int | None) -> int:
    """The next command; afterwards the names of its writes lie beside its output."""
    from dam.cli import main

    with installed(Disk(full_at, scene.disk / "ballast")) as disk:
        try:
            return main(scene.command())
        finally:
            (scene.folder / "writes.json").write_text(json.dumps(disk.writes))


def kinds(writes: list[str]) -> dict[str, int]:
    """The write at which each kind is tried: the middle one of its name; pictures are one kind each."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(writes):
        kind = f"*{Path(name).suffix}" if name.endswith((".png", ".svg")) else name
        places.setdefault(kind, []).append(place)
    return {name: found[len(found) // 2] for name, found in places.items()}


def again(scene: OnDisk, full_at: int | None = None) -> tuple[int | None, list[str]]:
    """Run the next command: its exit code and the lines it printed."""
    output = scene.folder / "output.txt"
    output.unlink(missing_ok=True)
    code = ended(child(scene, partial(train, scene, full_at)), 600)
    return code, output.read_text().splitlines()


def clean(scene: OnDisk) -> None:
    for path in (scene.run, scene.store):
        shutil.rmtree(path, ignore_errors=True)


def rows(scene: OnDisk, chosen: Callable[[str], bool]) -> Iterator[str]:
    """A row of the table for each kind of write that is ``chosen``."""
    clean(scene)
    code, lines = again(scene)
    assert code == 0, lines
    whole, writes = everything(scene.run), json.loads((scene.folder / "writes.json").read_text())
    for name, place in kinds(writes).items():
        if not chosen(name):
            continue
        clean(scene)
        code, lines = again(scene, place)
        halves = half_files(scene.run) if scene.run.exists() else []
        (scene.disk / "ballast").unlink()
        resumed = "equal" if again(scene)[0] == 0 and everything(scene.run) == whole else "NOT EQUAL"
        warned = "warning; " if any("could not be written" in line for line in lines) else ""
        said = "TRACEBACK" if any("Traceback" in line for line in lines) else lines[-1].replace(str(scene.disk), "DISK")
        yield f"| {name} | {code} | {len(halves)} | {warned}{said} | {resumed} |"
    clean(scene)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disk", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="for what the runs print")
    given = parser.parse_args()
    prepare()
    print("| full from the write of | exit | half files | what it said | resumed |\n|---|---|---|---|---|", flush=True)
    for figures in (False, True):
        scene = OnDisk(given.folder / f"full-disk-{os.getpid()}", figures=figures)
        scene.disk = given.disk
        for row in rows(scene, lambda name, pictures=figures: name.startswith("*") == pictures):  # type: ignore[misc]
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
