"""Predictions on disk while they grow: an append-only file of checked records, so that a kill loses one block.

``<out>.partial`` begins with a JSON line that says which command made it. A record is a line
``start stop length sha256`` and that many bytes of JSON: rows (CSV text), failed, remarks. At the end the rows go to
``<out>`` and the failed to ``<stem>_failed.csv``, each whole or not at all, and the partial is removed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dam.errors import UserError
from dam.files import atomic_path, locked

FORMAT = 1
FAILED = ("image", "reason")


@dataclass
class Summary:
    """What a finished table holds: images scored, failed (name, reason) and skipped by name, the first few of each,
    and how many images a remark."""

    scored: int = 0
    failed: int = 0
    skipped: int = 0
    first: list[tuple[str, str]] | None = None
    remarks: Counter[str] | None = None


class Partial:
    """The file of an unfinished job. ``done``: how many entries of the list are in it. Closing keeps it."""

    def __init__(self, out: Path, facts: dict[str, Any], restart: bool) -> None:
        """Open or begin it. ``facts``: what identifies the command, plain values. Raises ``UserError`` where another
        command's work is there (unless ``restart``), and where another process is at it."""
        self.path = partial_name(out)
        self.resumed = False
        self.done = 0
        self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115  held until close()
        if not locked(self._file, out):
            self._file.close()
            raise UserError(f"{out} is being written by another process; wait for it or choose another --out")
        header = json.dumps({"dam": "predict", "format": FORMAT, **facts}).encode() + b"\n"
        self._start = len(header)
        self._file.seek(0)
        first = self._file.readline()
        if first and first != header and not restart:
            self._file.close()
            raise UserError(
                f"{self.path} holds the unfinished work of another command ({_difference(first, header)}); repeat that "
                "command to go on with it, say --restart to begin anew, or choose another --out"
            )
        if first != header or restart:
            self._file.truncate(0)
            self._file.write(header)
            self._file.flush()
            return
        self._recover()
        self.resumed = self.done > 0

    def _recover(self) -> None:
        """Keep the records that are whole and follow on one another; cut off what a kill left behind them."""
        end = self._start
        for start, stop, _, position in self._read():
            if start != self.done:
                break
            self.done, end = stop, position
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def add(self, start: int, stop: int, rows: Iterable[Sequence[str]], failed: Sequence[tuple[str, str, bool]],
            remarks: Counter[str]) -> None:  # fmt: skip
        """Append a record."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*map(safe_name, row[:1]), *row[1:]] for row in rows)
        told = [[safe_name(name), reason, skipped] for name, reason, skipped in failed]
        content = json.dumps({"rows": text.getvalue(), "failed": told, "remarks": remarks}).encode()
        line = f"{start} {stop} {len(content)} {hashlib.sha256(content).hexdigest()}\n".encode()
        self._file.write(line + content + b"\n")
        self._file.flush()
        self.done = stop

    def finish(self, out: Path, failed_out: Path, header: Sequence[str]) -> Summary:
        """Write the table and the list of the failed (removed where there are none) and remove the partial file."""
        summary = Summary(first=[], remarks=Counter())
        with (
            atomic_path(out) as table,
            atomic_path(failed_out) as failed_table,
            open(table, "w", encoding="utf-8", newline="") as rows,
            open(failed_table, "w", encoding="utf-8", newline="") as failed,
        ):
            csv.writer(rows, lineterminator="\n").writerow(header)
            writer = csv.writer(failed, lineterminator="\n")
            writer.writerow(FAILED)
            for start, stop, content, _ in self._read():
                rows.write(content["rows"])
                writer.writerows(entry[:2] for entry in content["failed"])
                _count(summary, stop - start, content)
        if not summary.failed + summary.skipped:
            failed_out.unlink()
        self.path.unlink()
        self.close()
        return summary

    def _read(self) -> Iterator[tuple[int, int, dict[str, Any], int]]:
        """Whole records: start, stop, content and the position behind it."""
        self._file.seek(self._start)
        while True:
            try:
                start, stop, length, digest = self._file.readline(200).split()
                content = self._file.read(int(length))
            except ValueError:
                return
            if hashlib.sha256(content).hexdigest().encode() != digest or self._file.read(1) != b"\n":
                return
            yield int(start), int(stop), json.loads(content), self._file.tell()

    def close(self) -> None:
        """Let go of it; what is written stays. With nothing done it is removed, to be in no other command's way."""
        if not self.done and not self._file.closed:
            self.path.unlink(missing_ok=True)
        self._file.close()


def partial_name(out: Path) -> Path:
    """Where unfinished work is kept."""
    return out.with_name(f"{out.name}.partial")


def explain_name(out: Path) -> Path:
    """The folder of overlays, where the user names none."""
    return out.with_name(f"{out.stem}_explain")


def own_files(out: Path) -> tuple[Path, ...]:
    """All that a command may leave beside ``out``."""
    return out, partial_name(out), failed_name(out), explain_name(out)


def failed_name(out: Path) -> Path:
    """Where the images without a score are listed."""
    return out.with_name(f"{out.stem}_failed.csv")


def check_out(out: Path) -> None:
    """Raise ``UserError`` unless ``out`` can be written and is no file of another kind."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file, such as {out / 'predictions.csv'}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it first")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: the folder {out.parent} cannot be written")
    for file, first in ((out, b"image,label,"), (failed_name(out), b"image,reason")):
        if file.exists() and not (file.is_file() and _begins(file, first)):
            where = f"--out {out}" if file == out else f"--out {out}: {file}, for what cannot be read,"
            raise UserError(f"{where} is there already and is no table of `dam predict`; choose another name")


def _begins(file: Path, first: bytes) -> bool:
    with open(file, "rb") as stream:
        return stream.read(len(first)) == first


def _count(summary: Summary, entries: int, content: dict[str, Any]) -> None:
    skipped = sum(bool(entry[2]) for entry in content["failed"])
    summary.skipped += skipped
    summary.failed += len(content["failed"]) - skipped
    summary.scored += entries - len(content["failed"])
    if summary.first is not None:
        room = 10 - len(summary.first)
        summary.first += [(name, reason) for name, reason, _ in content["failed"][:room]] if room > 0 else []
    if summary.remarks is not None:
        summary.remarks.update(content["remarks"])


def _difference(first: bytes, header: bytes) -> str:
    try:
        theirs, ours = json.loads(first), json.loads(header)
        names = [key for key in ours if theirs.get(key) != ours[key]]
    except (ValueError, AttributeError):
        return "it cannot be read"
    return f"differing in {', '.join(names)}" if names else "other options"


def safe_name(name: str) -> str:
    """A file name that is no UTF-8 in a form that can be written."""
    return name.encode("utf-8", "backslashreplace").decode()
