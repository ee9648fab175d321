"""Sixteen bits to eight: by a stated window, exactly, and never by a silent wrap."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dam.data.readers import ImageError, ImageReader, decode, decode_noted
from dam.data.window import Window, WindowError, apply, check_window, scale
from dam.errors import UserError

DEEP = (np.arange(600, dtype=np.uint16).reshape(20, 30) * 100) + 7  # 7 .. 59907


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, sample_format: int, photometric: int = 1) -> bytes:
    """An uncompressed gray TIFF written by hand, one strip."""
    height, width = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    tags = [(256, width), (257, height), (258, 8 * pixels.itemsize), (259, 1), (262, photometric), (273, 0),
            (277, 1), (278, height), (279, len(data)), (339, sample_format)]  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    fields = b"".join(struct.pack("<HHII", t, 4, 1, start if t == 273 else v) for t, v in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + fields + b"\0\0\0\0" + data


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = (np.clip(values.astype(float), low, high) - low) / (high - low)
    return np.floor(share * 255 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("window", "ends"), [("full", (0, 65535)), ("stretch", (7, 59907)), ([1000, 2000], (1000, 2000))]
)
def test_sixteen_bits(kind: str, window: Window, ends: tuple[float, float]) -> None:
    pixels, remarks = decode_noted(encoded(DEEP, kind), "x", window)
    assert np.array_equal(pixels, expected(DEEP, *ends))
    said = "[1000, 2000]" if isinstance(window, list) else window
    assert remarks == (f"gray of more than 8 bits: window {said}",)


@pytest.mark.parametrize("window", ["file", "refuse"])
def test_without_a_window_deep_images_are_refused(window: str) -> None:
    with pytest.raises(ImageError, match=r"more than 8 bits.*choose one: data\.window=full, stretch or \[low, high\]"):
        decode(encoded(DEEP, "PNG"), "x", window)


@pytest.mark.parametrize(
    ("pixels", "sample_format", "full"),
    [
        (np.linspace(-30000, 30000, 600).astype(np.int16).reshape(20, 30), 2, (-(2**15), 2**15 - 1)),
        (np.linspace(0, 2**32 - 1, 600).astype(np.uint32).reshape(20, 30), 1, (0, 2**32 - 1)),
        (np.linspace(-(2**31), 2**31 - 1, 600).astype(np.int32).reshape(20, 30), 2, (-(2**31), 2**31 - 1)),
    ],
)
def test_other_tiffs(pixels: np.ndarray, sample_format: int, full: tuple[float, float]) -> None:
    assert np.array_equal(decode(tiff(pixels, sample_format), "x", "full"), expected(pixels, *full))


def test_white_is_zero_is_turned() -> None:
    turned = decode(tiff(DEEP, 1, photometric=0), "x", "full")
    assert np.array_equal(turned, 255 - expected(DEEP, 0, 65535))


def test_floating_point() -> None:
    pixels = np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30)
    data = encoded(pixels, "TIFF")
    assert np.array_equal(decode(data, "x", [0, 1]), expected(pixels, 0, 1))
    assert np.array_equal(decode(data, "x", "stretch"), expected(pixels, -1, 1))
    with pytest.raises(ImageError, match=r"floating-point values, which have no full range"):
        decode(data, "x", "full")
    pixels = np.array([[np.nan, 0, np.inf, -np.inf, 2, 4]])
    assert apply(pixels, "stretch", None)[0].tolist() == [[0, 0, 255, 0, 128, 255]]


def test_eight_bits_are_never_windowed() -> None:
    shallow = (np.arange(600) % 200).astype(np.uint8).reshape(20, 30)
    for window in ("refuse", "file", "full", "stretch", [10, 20]):
        assert decode_noted(encoded(shallow, "PNG"), "x", window)[1] == ()
        assert np.array_equal(decode(encoded(shallow, "PNG"), "x", window), shallow)


def test_orientation_after_the_window() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEEP).save(buffer, "PNG", exif=exif)
    assert np.array_equal(decode(buffer.getvalue(), "x", "full"), np.rot90(expected(DEEP, 0, 65535), -1))


def test_gray_and_alpha_of_sixteen_bits_is_refused() -> None:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 4, 0, 0, 0)
    row = b"\0" + b"\x01\x02\xff\xff" * 2
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="write it without alpha"):
        decode(png, "x", "full")


def test_scale_edges() -> None:
    flat = np.full((2, 2), 9, np.uint16)
    assert scale(flat, 9, 9).tolist() == [[0, 0], [0, 0]]
    assert apply(flat, "stretch", (0, 65535))[0].max() == 0
    assert scale(np.array([-32768, -1, 0, 32767], np.int16), -32768, 32767).tolist() == [0, 127, 128, 255]
    with pytest.raises(WindowError):
        apply(flat, "file", (0, 65535))


@pytest.mark.parametrize("window", ["auto", [1], [2, 1], [1, 1], [0, float("inf")]])
def test_windows_that_are_none(window: Window, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.window="):
        check_window(window)
    with pytest.raises(UserError, match=r"data\.window="):
        ImageReader(tmp_path, window)
