"""A run is a directory: making one, opening one, its lock, its log and its progress file."""

from __future__ import annotations

import errno
import json
import logging
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import IO, Any

from dam.errors import UserError, in_a_line
from dam.files import atomic_write_text, locked
from dam.training import checkpoint
from dam.training.distributed import from_main, is_main, main_first

DONE = "stage.json"
_NOTED = ("progress.json", "resumed.json")  # nothing is made of them
_BEGUN = re.compile(r"\.lock|\.config\.yaml\.\d+\.tmp")

log = logging.getLogger("dam")


@dataclass
class RunDirectory:
    """``path`` with the names of what lies in it. The lock is held while the process lives.

    Of several processes that train together, the first writes and locks; the others only read.
    """

    path: Path
    _lock: IO[bytes] | None = None
    _where: dict[str, Any] = field(default_factory=dict)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    def stage(self, part: str, slug: str | None = None) -> Path:
        """The folder of a stage: ``warm_start``, ``auc/<slug>`` or ``control/<slug>``."""
        return self.path / part / slug if slug else self.path / part

    def write_json(self, name: str, content: Any) -> None:
        if is_main():
            atomic_write_text(self.path / name, json.dumps(content, indent=2, default=str) + "\n")

    def read_json(self, name: str) -> Any:
        """What a JSON file of the run holds. Raises ``UserError`` if it is damaged."""
        file = self.path / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            reason = in_a_line(error)
            way = "put back a copy of it, or start a new run"
            if name in _NOTED:
                way = "remove it and resume again"
            elif name.startswith("report/"):
                way = f"make it anew with `dam report {quote(str(self.path))}`"
            raise UserError(f"{file} is damaged ({reason}); {way}") from error

    def progress(self, state: str, **where: Any) -> None:
        """Say in progress.json where the run stands: ``running``, ``interrupted``, ``failed`` or ``done``.

        Without a stage in ``where`` it stands where it stood before.
        """
        if "stage" in where or not self._where:
            self._where = where
        content = {**self._where, **where}
        self.write_json("progress.json", {"state": state, **content, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")})

    def append_json(self, name: str, content: Any) -> None:
        """Add ``content`` to the list in a JSON file."""
        if not is_main():
            return
        self.write_json(name, [*self.read_list(name), content])

    def read_list(self, name: str) -> list[Any]:
        """The list in a JSON file, empty without one. Raises ``UserError`` if it is damaged."""
        found = self.read_json(name) if (self.path / name).exists() else []
        if not isinstance(found, list):
            raise UserError(f"{self.path / name} is damaged: it holds no list; remove it and resume again")
        return found

    def finished(self) -> bool:
        """Whether the run has come to its end, report included."""
        file = self.path / "progress.json"
        stored = self.read_json(file.name) if file.exists() else {"state": None}
        if not isinstance(stored, dict) or "state" not in stored:
            raise UserError(f"{file} is damaged: it holds no state; remove it and resume again")
        return bool(stored["state"] == "done")

    @staticmethod
    def stage_done(folder: Path) -> bool:
        """Whether a stage has ended. Raises ``UserError`` if its marker is damaged."""
        marker = folder / DONE
        if not marker.exists():
            return False
        try:
            facts = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(_damaged_marker(marker, in_a_line(error))) from error
        if not isinstance(facts, dict) or "steps" not in facts:
            raise UserError(_damaged_marker(marker, "it does not hold the facts of a stage"))
        return True

    def check_markers(self) -> None:
        """Raise ``UserError`` if the marker of a stage that has ended, in whatever fold, is damaged."""
        for marker in sorted(self.path.rglob(DONE)):
            self.stage_done(marker.parent)

    @staticmethod
    def mark_done(folder: Path, facts: dict[str, Any]) -> None:
        """Write the marker of a finished stage, then remove what only its resume needed. No process goes on before."""
        with main_first():
            if is_main():
                atomic_write_text(folder / DONE, json.dumps(facts, indent=2) + "\n")
                checkpoint.remove(folder)

    def tidy(self) -> None:
        """Remove what a kill left: half-written files, and checkpoints of stages that have ended."""
        if not is_main():
            return
        for path in self.path.rglob(".*.tmp"):
            path.unlink()
        for marker in self.path.rglob(DONE):
            checkpoint.remove(marker.parent)

    def lock(self) -> None:
        """Refuse a second process on this run. The lock belongs to the open file, so it dies with its owner."""
        if not is_main():
            return
        self._lock = open(self.path / ".lock", "ab")  # noqa: SIM115  held until close()
        if not locked(self._lock, self.path):
            self.close()
            raise UserError(f"{self.path} is in use by another process; wait for it or stop it first")

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _damaged_marker(marker: Path, reason: str) -> str:
    return f"{marker} is damaged ({reason}); put back a copy of it, or remove it, and a resume trains that stage again"


def create(run_dir: str | None, name: str, config_text: str) -> RunDirectory:
    """Make the run's directory and write its ``config.yaml`` first: from then on it is a run.

    ``run_dir`` is taken exactly; otherwise ``outputs/<name>/<date_time>`` with a suffix where two start in one second.
    Raises ``UserError`` if the directory holds anything already or cannot be written.
    """
    run = RunDirectory(Path())

    def make() -> str:
        run.path = _exact(Path(run_dir)) if run_dir else _fresh(Path("outputs") / name)
        run.lock()
        run.tidy()
        atomic_write_text(run.config_file, config_text)
        return str(run.path)

    try:
        run.path = Path(from_main(make))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot make the run directory {run_dir or 'under outputs/'}: {reason}; set run_dir=PATH"
        ) from error
    return run


def open_run(path: Path) -> RunDirectory:
    """An existing run, locked. Raises ``UserError`` if ``path`` is no run directory or is in use."""
    if not path.exists():
        raise UserError(
            f"there is no directory {path}; `dam train resume=` takes a run directory such as outputs/NAME/TIME"
        )
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path} is no run directory: it has no config.yaml; give the folder that `dam train` printed")
    run = RunDirectory(path)
    run.lock()
    return run


def resume_command(path: Path) -> str:
    """What to type to go on with a run; the path quoted for the shell."""
    return f"dam train resume={quote(str(path))}"


def fold_folder(outer: Path, fold: int) -> Path:
    """Where the outer run of ``data.fold=all`` has the run of one fold."""
    return outer / f"fold_{fold}"


def check_free(path: Path) -> None:
    """Raise ``UserError`` unless ``path`` is absent or an empty directory: a run is never written over.

    What a run leaves that was killed before its config.yaml was there is nothing.
    """
    if (path / "config.yaml").exists():
        raise UserError(
            f"{path} already holds a run; continue it with `{resume_command(path)}` or choose another run_dir"
        )
    if path.exists() and not path.is_dir():
        raise UserError(f"run_dir={path} is a file; choose a new or empty directory")
    if path.is_dir() and any(not _BEGUN.fullmatch(inner.name) for inner in path.iterdir()):
        raise UserError(f"run_dir={path} is not empty and holds no run; choose a new or empty directory")


def _exact(path: Path) -> Path:
    check_free(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _fresh(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        path = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise OSError(errno.EEXIST, "too many runs were started in this second", str(parent))
