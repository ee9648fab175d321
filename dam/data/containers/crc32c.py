"""CRC-32C (Castagnoli), the checksum of TFRecords, fast enough to check every record that is read.

A CRC is linear over GF(2), so a message is cut into pieces whose remainders are computed side by side in numpy, two
bytes a step, and joined pairwise: the remainder of a left piece is moved past the zeros that stand for the right one.
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # reflected
_WORDS = 64  # of two bytes, in a piece
_PIECE = 2 * _WORDS
_MASK_DELTA = 0xA282EAD8


def crc32c(data: bytes) -> int:
    """CRC-32C of ``data``; of ``b"123456789"`` it is 0xE3069283."""
    if len(data) < 4 * _PIECE:
        return _bytewise(data)
    pieces = -(-len(data) // _PIECE)
    padded = np.zeros(pieces * _PIECE, np.uint8)  # zeros in front do not change a remainder that starts at 0
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    start = len(padded) - len(data)
    padded[start : start + 4] ^= 0xFF  # the same as starting from 0xFFFFFFFF
    return _join(_remainders(padded)) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The CRC as TFRecords store it: rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _bytewise(data: bytes) -> int:
    table, crc = _byte_list(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _remainders(padded: np.ndarray) -> np.ndarray:
    """Remainder of each piece, starting from 0, uint32 (pieces,)."""
    words = np.ascontiguousarray(padded.view("<u2").reshape(-1, _WORDS).T)
    table = _word_table()
    crc = np.zeros(words.shape[1], np.uint32)
    for column in words:
        crc = table[crc.astype(np.uint16) ^ column] ^ crc >> np.uint32(16)
    return crc


def _join(crc: np.ndarray) -> int:
    level = 0
    while len(crc) > 1:
        if len(crc) % 2:
            crc = np.concatenate([np.zeros(1, np.uint32), crc])
        crc = _moved(crc[0::2], _moving_tables(level)) ^ crc[1::2]
        level += 1
    return int(crc[0])


def _moved(crc: np.ndarray, tables: np.ndarray) -> np.ndarray:
    moved: np.ndarray = tables[0][crc & 0xFF]
    for k in (1, 2, 3):
        moved = moved ^ tables[k][crc >> np.uint32(8 * k) & 0xFF]
    return moved


@functools.cache
def _byte_table() -> np.ndarray:
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, crc >> np.uint32(1) ^ np.uint32(_POLYNOMIAL), crc >> np.uint32(1))
    return crc.astype(np.uint32)


@functools.cache
def _byte_list() -> list[int]:
    table: list[int] = _byte_table().tolist()
    return table


@functools.cache
def _word_table() -> np.ndarray:
    return _past_zeros(np.arange(65536, dtype=np.uint32), 2)


@functools.cache
def _moving_tables(level: int) -> np.ndarray:
    """uint32 (4, 256): what the k-th byte of a remainder becomes past ``2**level`` pieces of zeros."""
    if level == 0:
        units = np.arange(256, dtype=np.uint32)[None, :] << np.array([[0], [8], [16], [24]], np.uint32)
        return _past_zeros(units, _PIECE)
    before = _moving_tables(level - 1)
    return _moved(before, before)


def _past_zeros(crc: np.ndarray, count: int) -> np.ndarray:
    table = _byte_table()
    for _ in range(count):
        crc = table[crc & 0xFF] ^ crc >> np.uint32(8)
    return crc
