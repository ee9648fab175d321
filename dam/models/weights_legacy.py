"""Whole modules in torch's format before 1.6, made readable for its safe reader without importing what they name.

In that format every class of a module is wrapped in a persistent id ``("module", class, file, source)``, which the
``weights_only`` reader refuses. The pickle is rewritten so that such an id becomes a call of ``class_of`` below, which
gives back the class; and the class is a stand-in by then. Nothing else of the stream changes.
"""

from __future__ import annotations

import io
import pickletools
from pathlib import Path
from typing import Any

CALL = "dam.class_of"  # what the rewritten pickle asks for
_GLOBAL = b"c" + CALL.replace(".", "\n").encode() + b"\n"
_HEADS = 3  # magic number, protocol and system, each a pickle, come before the object


def class_of(*identity: Any) -> Any:
    """The class of a persistent id ``("module", class, file, source)``; called by the rewritten pickle."""
    return identity[1]


def is_whole_module(error: Exception) -> bool:
    """Whether the safe reader stopped at a persistent id of a module."""
    return "Only persistent_load of storage is allowed" in str(error)


def rewritten(path: Path) -> io.BytesIO:
    """The file with its persistent ids of modules as calls. Raises ``ValueError`` if it is no such file."""
    data = path.read_bytes()
    stream = io.BytesIO(data)
    for _ in range(_HEADS):
        for _ in pickletools.genops(stream):
            pass
    begin = stream.tell()
    edits = _edits(stream)
    pieces, last = [data[:begin]], begin
    for place, removed, put in sorted(edits):
        pieces += [data[last : begin + place], put]
        last = begin + place + removed
    return io.BytesIO(b"".join([*pieces, data[last:]]))


def _edits(stream: io.BytesIO) -> list[tuple[int, int, bytes]]:
    """(offset from where the stream stands, bytes to remove, bytes to put) of the next pickle."""
    edits: list[tuple[int, int, bytes]] = []
    marks: list[int] = []
    strings: dict[int, str] = {}  # of the memo
    first: dict[int, str] = {}  # mark -> the text right behind it
    previous: tuple[str, str | None] = ("", None)
    offset, tuple_at = stream.tell(), -1
    for operation, argument, absolute in pickletools.genops(stream):
        place, name = (absolute or 0) - offset, operation.name
        text = argument if name == "BINUNICODE" and isinstance(argument, str) else None
        if name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
            text = strings.get(argument)
        if previous[0] == "MARK" and isinstance(text, str):
            first[marks[-1]] = text
        if name in ("BINPUT", "LONG_BINPUT"):
            if isinstance(previous[1], str) and isinstance(argument, int):
                strings[argument] = previous[1]
            continue  # a memo leaves the stack as it was
        if name == "MARK":
            marks.append(place)
        elif name in ("TUPLE", "APPENDS", "SETITEMS", "LIST", "DICT"):
            closed = marks.pop()
            tuple_at = closed if name == "TUPLE" else -1
        elif name == "BINPERSID" and previous[0] == "TUPLE" and first.get(tuple_at) == "module":
            edits += [(tuple_at, 0, _GLOBAL), (place, 1, b"R")]
        previous = (name, text)
    return edits
