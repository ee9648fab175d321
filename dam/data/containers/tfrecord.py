"""TFRecord files without TensorFlow: framing, checksums and ``tf.train.Example``, read by position.

A file is records back to back: length (uint64 LE), masked CRC-32C of the length, payload, masked CRC-32C of the
payload. The payload is a protocol buffer: Example {1: Features {1: map of name -> Feature}}, where a Feature is one of
{1: bytes, 2: floats, 3: integers}. Only headers are read to index a file, and only the features asked for are decoded.
"""

from __future__ import annotations

import functools
import math
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dam.data.containers import ItemError, item_number
from dam.data.containers.crc32c import masked_crc32c
from dam.errors import UserError

MAX_RECORD = 1 << 28  # bytes; a larger record holds no medical image, and would have to fit in memory
MAX_LIST = 1 << 22  # numbers, or their bytes, in a feature; Python's lists are large
Values = list[bytes] | list[int] | list[float]

_HEADER = 12  # bytes before a payload; four follow it
_WINDOW = 512  # bytes read at a time where only a record's small features are wanted
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
_BYTES, _FLOATS, _INTEGERS = 1, 2, 3
_MINUS = 1 << 63


class TFRecordFile:
    """Records of one file. ``read(item)`` is the image of a record, ``features(i)`` all that is in it, ``scan(names)``
    small features of all records without reading their images. Safe to share between threads: reads are positioned.

    The file is opened and indexed at first use. ``len`` counts the records that are whole; ``problem`` says what is
    wrong where the file does not end with the last of them, or holds none.
    """

    def __init__(self, path: Path | str, image: str = "image") -> None:
        self.path = Path(path)
        self.image = image  # name of the feature that holds the image
        self._handle = -1
        self._lock = threading.Lock()
        self._index: _Index | None = None

    def __len__(self) -> int:
        return len(self._opened().lengths)

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            os.close(self._handle)

    @property
    def problem(self) -> str:
        """A sentence; empty if the file is whole."""
        return self._opened().problem

    def read(self, item: str) -> bytes | np.ndarray:
        """The image of record ``item``: its bytes if they are an encoded image, else the square image they are the
        pixels of, uint8 ``(S, S)`` or ``(S, S, 3)``. Raises ``ItemError``; ``UserError`` if the file cannot be read."""
        number = item_number(item, len(self))
        values = self.features(number, self.image).get(self.image)
        if values is None:
            raise ItemError(f"the record has no feature {self.image!r}")
        if len(values) != 1 or not isinstance(values[0], bytes):
            raise ItemError(f"the record's feature {self.image!r} is not one byte string")
        return _image(values[0])

    def features(self, number: int, *names: str) -> dict[str, Values]:
        """Features of record ``number`` (0 .. len - 1), all or those named, each a list of bytes, int or float; the
        payload's checksum is verified. Raises ``ItemError`` for a damaged record, ``IndexError`` for a wrong number."""
        payload = self._payload(number)
        try:
            return _example(payload, len(payload), names)
        except _Damaged as error:
            raise ItemError(f"the record is no tf.train.Example ({error})") from error

    def scan(self, *names: str, damaged: Literal["refuse", "skip"] = "refuse") -> Iterator[dict[str, Values]]:
        """The named features of every record, in order, absent ones left out; other features are passed over unread,
        so payload checksums are not verified here. A record that cannot be parsed, and a file cut short, raise
        ``UserError``; with ``damaged="skip"`` such a record is ``{}`` and the rest of a cut file is left out."""
        index = self._opened()
        if damaged == "refuse" and index.problem:
            raise UserError(index.problem)
        for number in range(len(index.lengths)):
            length = int(index.lengths[number])
            source = _Window(self._handle, int(index.offsets[number]), length)
            try:
                yield _example(source, length, names)
            except _Damaged as error:
                if damaged == "refuse":
                    raise UserError(
                        f"{self.path}, record {number}, is no tf.train.Example ({error}): get the file again, or leave "
                        "such records out with data.on_bad_image=skip."
                    ) from error
                yield {}

    def _payload(self, number: int) -> bytes:
        index = self._opened()
        if not 0 <= number < len(index.lengths):
            raise IndexError(f"{self.path} has records 0 to {len(index.lengths) - 1}, not {number}")
        offset, length = int(index.offsets[number]), int(index.lengths[number])
        data = _pread(self._handle, length + 4, offset)
        if len(data) < length + 4:
            raise ItemError("the file became shorter while it was read")
        payload, (crc,) = data[:length], struct.unpack("<I", data[length:])
        if masked_crc32c(payload) != crc:
            raise ItemError("its checksum is wrong, so the record is damaged")
        return payload

    def _opened(self) -> _Index:
        with self._lock:
            if self._index is None:
                try:
                    self._handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                    status = os.fstat(self._handle)
                    self._index = _index(str(self.path), status.st_size, status.st_mtime_ns)
                except OSError as error:
                    raise UserError(f"{self.path} cannot be read: {error.strerror or error}.") from error
            return self._index


# ---------------------------------------------------------------- framing


@dataclass(frozen=True)
class _Index:
    """Where the payloads of the whole records are, int64 (n,) each, and what is wrong after the last of them."""

    offsets: np.ndarray
    lengths: np.ndarray
    problem: str


@functools.lru_cache(maxsize=256)
def _index(path: str, size: int, modified: int) -> _Index:  # a changed file has another index
    offsets: list[int] = []
    lengths: list[int] = []
    problem, position = "" if size else f"{path} is empty: the file was not copied, get it again.", 0
    handle = os.open(path, os.O_RDONLY)
    try:
        while position < size and not problem:
            header = _pread(handle, _HEADER, position)
            problem = _header_fault(header, position, size, path, len(offsets))
            if not problem:
                length = int.from_bytes(header[:8], "little")
                offsets.append(position + _HEADER)
                lengths.append(length)
                position += _HEADER + length + 4
    finally:
        os.close(handle)
    return _Index(np.array(offsets, np.int64), np.array(lengths, np.int64), problem)


def _header_fault(header: bytes, position: int, size: int, path: str, number: int) -> str:
    """What is wrong with a record that begins at ``position``, as a sentence; empty if nothing is."""
    place = f"{path}, record {number} (byte {position})"
    if number == 0 and header.startswith(b"\x1f\x8b"):
        return f"{path} is compressed by gzip, so records cannot be found by position: unpack it with gunzip first."
    if len(header) < _HEADER:
        return f"{place}, is cut off within its header: the file was not copied whole, get it again."
    if masked_crc32c(header[:8]) != int.from_bytes(header[8:], "little"):
        if number == 0:
            return (f"{path} is no TFRecord file, or its beginning is damaged (wrong checksum of the first length): "
                    "get it again.")  # fmt: skip
        return f"{place}, has a length with a wrong checksum: the file is damaged from there on, get it again."
    length = int.from_bytes(header[:8], "little")
    left = size - position - _HEADER - 4
    if length > left:
        return (
            f"{place}, should have {length} bytes, but only {max(left, 0)} follow: the file was not copied whole, get "
            "it again."
        )
    if length > MAX_RECORD:
        return f"{place}, has {length} bytes, more than the {MAX_RECORD} that are read: it holds no image."
    return ""


def _pread(handle: int, count: int, offset: int) -> bytes:
    parts = []
    while count > 0 and (part := os.pread(handle, count, offset)):
        parts.append(part)
        count, offset = count - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _Window:
    """A payload on disk that is read in small pieces as it is looked at."""

    def __init__(self, handle: int, offset: int, length: int) -> None:
        self._handle, self._offset, self._length = handle, offset, length
        self._start, self._data = 0, b""

    def cut(self, start: int, stop: int) -> bytes:
        if start < self._start or stop > self._start + len(self._data):
            count = min(max(stop - start, _WINDOW), self._length - start)
            self._start, self._data = start, _pread(self._handle, count, self._offset + start)
        return self._data[start - self._start : stop - self._start]


# ---------------------------------------------------------------- protocol buffer


class _Damaged(Exception):
    """The bytes are not the message they should be; says why."""


def _example(source: bytes | _Window, length: int, names: tuple[str, ...]) -> dict[str, Values]:
    """Features of an Example; of a name that comes twice the later one."""
    found: dict[str, Values] = {}
    for field, start, stop in _fields(source, 0, length):
        if field == 1:
            for inner, first, last in _fields(source, start, stop):
                if inner == 1:
                    _entry(source, first, last, names, found)
    return found


def _entry(source: bytes | _Window, start: int, stop: int, names: tuple[str, ...], found: dict[str, Values]) -> None:
    name, value = "", (stop, stop)
    for field, first, last in _fields(source, start, stop):
        if field == 1:
            name = _cut(source, first, last).decode("utf-8", "replace")
        elif field == 2:
            value = (first, last)
    if not names or name in names:
        found[name] = _feature(_cut(source, *value))


def _feature(data: bytes) -> Values:
    values: list[Any] = []
    kind = 0
    for field, start, stop in _fields(data, 0, len(data)):
        if field in (_BYTES, _FLOATS, _INTEGERS):
            if field != kind:  # the last of several kinds holds; parts of one kind are one list
                values, kind = [], field
            values += _list(data, start, stop, field)
    return values


def _list(data: bytes, start: int, stop: int, kind: int) -> Values:
    if kind == _BYTES:
        return [data[first:last] for field, first, last in _fields(data, start, stop) if field == 1]
    values: list[int] | list[float] = []
    for wire, number, first, last in _wires(data, start, stop):
        if number != 1:
            continue
        if last - first > MAX_LIST or len(values) > MAX_LIST:
            raise _Damaged(f"a list of more than {MAX_LIST} numbers")
        if kind == _FLOATS:
            if wire not in (2, 5) or (last - first) % 4:
                raise _Damaged("a list of floats has another type")
            values += np.frombuffer(data[first:last], "<f4").tolist()
        elif wire in (0, 2):
            values += _integers(data, first, last)
        else:
            raise _Damaged("a list of integers has another type")
    return values


def _integers(data: bytes, start: int, stop: int) -> list[int]:
    values = []
    while start < stop:
        value, start = _varint(data, start, stop)
        values.append(value - 2 * _MINUS if value >= _MINUS else value)
    return values


def _fields(source: bytes | _Window, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of the length-delimited fields of a message; others are passed over."""
    for wire, number, first, last in _wires(source, start, stop):
        if wire == 2:
            yield number, first, last


def _wires(source: bytes | _Window, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Wire type, number, begin and end of the value of every field of the message in ``start:stop``."""
    while start < stop:
        tag, start = _varint(source, start, stop)
        wire, number = tag & 7, tag >> 3
        if wire == 0:
            first = start
            _, start = _varint(source, start, stop)
        elif wire in (1, 5):
            first, start = start, start + (8 if wire == 1 else 4)
        elif wire == 2:
            length, first = _varint(source, start, stop)
            start = first + length
        else:
            raise _Damaged(f"a field of type {wire}")
        if start > stop:
            raise _Damaged("a field is longer than what holds it")
        yield wire, number, first, start


def _varint(source: bytes | _Window, start: int, stop: int) -> tuple[int, int]:
    """An unsigned integer of up to 64 bits, and where it ends."""
    value = shift = 0
    for byte in _cut(source, start, min(start + 10, stop)):
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, start
        shift += 7
    raise _Damaged("a number does not end")


def _cut(source: bytes | _Window, start: int, stop: int) -> bytes:
    return source[start:stop] if isinstance(source, bytes) else source.cut(start, stop)


def _image(data: bytes) -> bytes | np.ndarray:
    """Encoded bytes as they are; raw bytes as the square image that has as many, gray or RGB."""
    if data.startswith(_SIGNATURES):
        return data
    if not data:
        raise ItemError("the record's image is empty")
    for channels in (1, 3):
        side = math.isqrt(len(data) // channels)
        if side * side * channels == len(data):
            pixels = np.frombuffer(data, np.uint8)
            return pixels.reshape((side, side) if channels == 1 else (side, side, 3))
    raise ItemError(f"the record's image is neither an encoded image nor a square one ({len(data)} raw bytes)")
