"""How often a test set was scored: RUN/history.json, one entry for each different way it was judged.

The same predictions judged again in the same way count nothing, so a report may be rebuilt, and a run resumed, without
adding to it. The times stay in this file: nothing in a report depends on the clock.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from dam.errors import UserError
from dam.files import atomic_write_text

FILE = "history.json"
_JUDGED = ("evaluation.json", "config.yaml")  # what beside the predictions decides what a report says


def record(run_dir: Path | str) -> tuple[dict[str, Any], ...]:
    """Add an entry {time, what, digest} for the test set and each external set whose digest is new -> all entries.

    The digest is over the predictions file, config.yaml and the settings of `dam evaluate`. Validation chooses, so it
    is not counted. Raises ``UserError`` for a damaged history.
    """
    run_dir = Path(run_dir)
    entries = read(run_dir)
    known = {(entry.get("what"), entry.get("digest")) for entry in entries}
    new = [
        {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "what": what, "digest": digest}
        for what, digest in _digests(run_dir)
        if (what, digest) not in known
    ]
    if new:
        entries += new
        atomic_write_text(run_dir / FILE, json.dumps(entries, indent=1) + "\n")
    return tuple(entries)


def read(run_dir: Path | str) -> list[dict[str, Any]]:
    """The entries so far; none where there is no file."""
    file = Path(run_dir) / FILE
    if not file.is_file():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged and cannot be read: {error}; put back a copy of it or remove it") from error
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{file} is damaged: it should hold a list of entries; put back a copy of it or remove it")
    return content


def merge(judged: Path | str, run_dir: Path | str) -> None:
    """Add to the run's history what was counted in ``judged``, a copy of it that was judged elsewhere."""
    entries = read(run_dir)
    known = {(entry.get("what"), entry.get("digest")) for entry in entries}
    new = [entry for entry in read(judged) if (entry.get("what"), entry.get("digest")) not in known]
    if new:
        atomic_write_text(Path(run_dir) / FILE, json.dumps(entries + new, indent=1) + "\n")


def times_scored(entries: list[dict[str, Any]] | tuple[dict[str, Any], ...], what: str) -> int:
    """In how many different ways the set ``what`` (test, external_<name>) was judged so far."""
    return len({entry.get("digest") for entry in entries if entry.get("what") == what})


def _digests(run_dir: Path) -> list[tuple[str, str]]:
    folder = run_dir / "predictions"
    files = [
        *([folder / "test.csv"] if (folder / "test.csv").is_file() else []),
        *sorted(folder.glob("external_*.csv")),
    ]
    settings = hashlib.sha256()
    for name in _JUDGED:
        file = run_dir / name
        settings.update(name.encode() + (file.read_bytes() if file.is_file() else b""))
    found = []
    for file in files:
        digest = settings.copy()
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        found.append((file.stem, digest.hexdigest()[:32]))
    return found
