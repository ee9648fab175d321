"""Reading a text table whatever program wrote it, and saying what is wrong with it in the words of its reader."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path

import pandas as pd

from dam.data.table import counted, named
from dam.errors import UserError

SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_WORDS = "comma, semicolon, tab or bar (|)"
MOST_ROWS, MOST_BYTES = 5_000_000, 1 << 30  # a row costs about 0.4 kB while it is read (measured with 1e6 rows)
_BLOCK = 1 << 24
_SHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods are zip archives; .xls is an OLE file
_reading: ContextVar[list[tuple[str, str]] | None] = ContextVar("text files read", default=None)
_TEXT_CONTROLS = b"\t\n\r\f\x1a"


@contextmanager
def recorded() -> Iterator[list[tuple[str, str]]]:
    """The text files that are read within, with the SHA-256 of what they hold (unpacked), each once, in order."""
    found: list[tuple[str, str]] = []
    token = _reading.set(found)
    try:
        yield found
    finally:
        _reading.reset(token)
        found[:] = dict.fromkeys(found)


def read_text_table(path: Path) -> pd.DataFrame:
    """A table of text cells, blank cells as empty strings.

    The separator (comma, semicolon, tab, bar) is that which cuts header and first rows alike, into most columns. UTF-8
    with or without mark, UTF-16 with one; ``.gz`` too. Raises ``UserError`` for what is no such table: no text, another
    encoding, no header, a column twice, a row of another length than the header.
    """
    text = _decode(_content(path), path)
    text = re.sub(r"(?m)^ +$\n?", "", text)  # pandas skips blank lines, but not those of spaces
    if not text.strip():
        raise UserError(f"{path} is empty: give a table with a header and one row an image.")
    separator = max(SEPARATORS, key=lambda mark: _columns(text[:65536], mark))
    header = _check_shape(text, separator, path)
    try:
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(
            f"{path} cannot be read as a table, perhaps a quote is never closed: {_line(error)}."
        ) from error
    frame.columns = [name or f"Unnamed: {number}" for number, name in enumerate(header)]
    if len(frame) == 0:
        raise UserError(f"{path} holds a header but no rows.")
    return frame


def read_text(path: Path) -> str:
    """A text file, UTF-8 or UTF-16 with a mark, also ``.gz``. Raises ``UserError``."""
    return _decode(_content(path), path)


def _content(path: Path) -> bytes:
    """The bytes of the file, unpacked; refused while reading once they are more than a table of images can need."""
    blocks: list[bytes] = []
    size = rows = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            while block := file.read(_BLOCK):
                size, rows = size + len(block), rows + block.count(b"\n")
                if size > MOST_BYTES or rows > MOST_ROWS:
                    raise UserError(
                        f"{path} has more than {MOST_ROWS:,} rows or {MOST_BYTES >> 20:,} MiB of text, which is more "
                        "than is read into memory: cut it into a table of the images you train on."
                    )
                blocks.append(block)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {_line(error)}.") from error
    data = b"".join(blocks)
    if (found := _reading.get()) is not None:
        found.append((str(path), hashlib.sha256(data).hexdigest()))
    return data


def _decode(data: bytes, path: Path) -> str:
    if data.startswith(_SHEETS):
        raise UserError(f"{path} is a spreadsheet or an archive, not a text table: export it as CSV (UTF-8).")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} begins like UTF-16 text and is damaged: save it again as UTF-8.") from error
    head = data[:4096]
    if any(byte < 32 and byte not in _TEXT_CONTROLS for byte in head):
        raise UserError(f"{path} is no text file: give a table as text (CSV, UTF-8), with a header.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, row {row}, is not UTF-8 text (perhaps Latin-1, an older encoding): save the table as UTF-8, "
            "for example by `iconv -f latin1 -t utf-8`."
        ) from error


def _check_shape(text: str, separator: str, path: Path) -> list[str]:
    """The names in the header, after every row was seen to have as many cells. One pass, nothing is kept."""
    header: list[str] = []
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for cells in rows:
            if not cells:
                continue
            if not header:
                header = _check_header([cell.strip() for cell in cells], path)
            elif len(cells) != len(header):
                told = f"has {counted(len(cells), 'cell')} where the header has {len(header)}"
                way_out = "put quotes around a cell that holds the separator" if len(cells) > len(header) else (
                    "fill in the rest, or see whether the file was cut off")  # fmt: skip
                raise UserError(f"{path}, row {rows.line_num}, {told} (separator {_shown(separator)}): {way_out}.")
    except csv.Error as error:
        raise UserError(f"{path}, row {rows.line_num}, cannot be read: perhaps a quote is never closed.") from error
    return header


def _check_header(names: list[str], path: Path) -> list[str]:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise UserError(
            f"{path} has the column {named(twice, 5)} twice in its header: rename or delete one of the two."
        )
    return names


def _columns(sample: str, separator: str) -> tuple[bool, int, int]:
    """How well a separator suits: whether it cuts the header, how many of the next rows alike, into how many cells."""
    try:
        rows = list(islice(filter(None, csv.reader(io.StringIO(sample, newline=""), delimiter=separator)), 20))
    except csv.Error:
        rows = []
    width = len(rows[0]) if rows else 0
    return width > 1, sum(len(row) == width for row in rows), width


def _shown(separator: str) -> str:
    return {"\t": "tab"}.get(separator, f"'{separator}'")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
