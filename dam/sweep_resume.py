"""``sweep.resume=true``: which sweep is meant, whether it may go on, and what to type to complete one.

A sweep is known by the configs of its jobs, not by the spelling of its command: the same words after a change in
``configs/`` would mix two experiments in one table, and are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import join
from typing import Any

from dam.compose import with_absolute_paths, with_value
from dam.config import Config
from dam.errors import UserError, in_a_line
from dam.files import locked
from dam.sweep_table import read_records

NOTES = "sweep.json"
KEY = "sweep.resume"
_OWN = re.compile(r"\+*(sweep\.resume|run_dir|hydra\.sweep\.dir)=")  # words that say where, not what


class Running(UserError):
    """Another process works on the sweep."""


def identity(configs: Sequence[Config]) -> str:
    """SHA-256 of the jobs' configs in order, apart from their directories."""
    digest = hashlib.sha256()
    for config in configs:
        plain = dataclasses.asdict(with_value(with_absolute_paths(config), "run_dir", None))
        digest.update(json.dumps(plain, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def find_sweep(name: str, given: Path | None, wanted: str, words: Sequence[str]) -> Path:
    """The folder of the sweep to go on with: ``given``, else the newest of experiment ``name`` with the same jobs.

    Raises ``UserError`` if there is none, or if the sweep was started with other words.
    """
    if given is not None:
        if not (given / NOTES).is_file():
            raise UserError(f"run_dir={given} holds no sweep to go on with (no {NOTES}); leave out {KEY} to start one")
        if read_notes(given).get("identity") != wanted:
            raise UserError(_other(given, words))
        return given
    parent = Path("outputs", name, "sweeps").absolute()
    folders = sorted((file.parent for file in parent.glob(f"*/{NOTES}")), key=_age, reverse=True)
    for folder in folders:
        if read_notes(folder).get("identity") == wanted:
            return folder
    if not folders:
        raise UserError(f"there is no sweep under {parent} to go on with; leave out {KEY} to start one, or name the "
                        "folder of another with run_dir=PATH")  # fmt: skip
    raise UserError(_other(folders[0], words))


def _age(folder: Path) -> tuple[str, int]:
    """By the time in the name, then by the number of a second sweep in that second."""
    number = folder.name[20:]
    return folder.name[:19], int(number) if number.isdecimal() else 0


def _other(folder: Path, words: Sequence[str]) -> str:
    before = read_notes(folder)["command"][3:]
    if [word for word in before if not _OWN.match(word)] == [word for word in words if not _OWN.match(word)]:
        return (
            f"the sweep {folder} was started by the same words, but they give other configs now (a file of configs/, a "
            f"path or dam itself changed): put that back, or start a new sweep without {KEY}"
        )
    return (
        f"the sweep {folder} was started by other words: `{join(['dam', 'train', '-m', *before])}`; type those with "
        f"{KEY}=true, or start a new sweep without it"
    )


def read_notes(folder: Path) -> dict[str, Any]:
    """A sweep's ``sweep.json``. Raises ``UserError`` if it is damaged."""
    file = folder / NOTES
    try:
        notes = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(notes, dict) or not all(isinstance(notes.get(key), list) for key in ("command", "jobs")):
            raise ValueError("it lacks the command or the jobs")
        if not all(isinstance(word, str) for word in notes["command"]):
            raise ValueError("its command is not made of words")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({in_a_line(error)}); put back a copy of it, or start a new sweep without "
                        f"{KEY}") from error  # fmt: skip
    return notes


def command(folder: Path) -> str:
    """What to type to complete the sweep in ``folder``, quoted for the shell."""
    words = [word for word in read_notes(folder)["command"][3:] if not _OWN.match(word)]
    return join(["dam", "train", "-m", *words, f"run_dir={folder}", f"{KEY}=true"])


@contextmanager
def held(folder: Path, alone: bool = False, what: str = "sweep") -> Iterator[None]:
    """Keep the lock of a sweep (``what`` it is), which every process at work on it shares; it dies with the last of
    them.

    ``alone``: first make sure that nobody else has it. Raises ``Running`` where another process works on it.
    """
    with open(folder / ".lock", "ab") as lock:
        if alone and not locked(lock, folder):
            raise Running(f"the {what} {folder} is still running in another process; wait for it or stop it first")
        locked(lock, folder, wait=True, shared=True)
        yield


def how_to_complete(folder: Path) -> str | None:
    """What to type to complete a sweep, and how much of it is open; "" if it is done or at work. None where its jobs
    can only go on one by one."""
    try:
        notes = read_notes(folder)
        records = read_records(folder, notes["jobs"])
        with held(folder, alone=True):
            pass
    except Running:
        return ""
    except (UserError, OSError):
        return None
    if not notes["jobs"] or "identity" not in notes:
        return None
    missing = sum(record.state != "done" for record in records)
    verb = "is" if missing == 1 else "are"
    return f"{command(folder.absolute())}  # {missing} of {len(records)} jobs {verb} not done" if missing else ""
