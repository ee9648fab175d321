"""Reading images: every kind of file becomes gray or RGB uint8, and each fault has its reason."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dam.data.readers import ImageError, ImageReader, decode

Y, X = np.mgrid[:20, :30]
RGB = np.stack([Y * 5, X * 5, Y + X], axis=-1).astype(np.uint8)
GRAY = (Y * 5 + X).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(RGB)


def gray() -> Image.Image:
    return Image.fromarray(GRAY)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files(kind: str) -> None:
    assert np.array_equal(decode(encoded(gray(), kind), "x"), GRAY)
    assert np.array_equal(decode(encoded(rgb(), kind), "x"), RGB)
    assert np.array_equal(decode(encoded(gray().convert("RGB"), kind), "x"), GRAY)  # equal channels are gray


def test_other_colour_spaces() -> None:
    assert np.array_equal(decode(encoded(rgb().convert("RGBA"), "PNG"), "x"), RGB)
    assert np.array_equal(decode(encoded(gray().convert("LA"), "PNG"), "x"), GRAY)
    palette = rgb().quantize(16)
    assert np.array_equal(decode(encoded(palette, "PNG"), "x"), np.asarray(palette.convert("RGB")))
    assert np.array_equal(
        decode(encoded(gray().convert("1"), "PNG"), "x"), np.asarray(gray().convert("1").convert("L"))
    )
    cmyk = encoded(rgb().convert("CMYK"), "JPEG", quality=100)
    assert decode(cmyk, "x").shape == (20, 30, 3)
    assert np.abs(decode(cmyk, "x").astype(int) - RGB).max() < 8


def test_one_coloured_pixel_is_colour() -> None:
    pixels = np.full((40, 40, 3), 7, np.uint8)
    pixels[21, 3] = (7, 7, 8)  # where the sparse look does not see it
    assert decode(encoded(Image.fromarray(pixels), "PNG"), "x").shape == (40, 40, 3)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    assert np.array_equal(decode(encoded(gray(), "PNG", exif=exif), "x"), np.rot90(GRAY, -1))


def jpeg() -> bytes:
    return encoded(rgb(), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>" * 20, "it is not a JPEG"),
        (b"\0" * 128 + b"DICM" + b"\0" * 99, "DICOM"),
        (jpeg()[: len(jpeg()) // 2], "damaged"),
        (encoded(gray(), "PNG")[:-40], "damaged"),
        (encoded(Image.fromarray((Y * 3000).astype(np.uint16)), "PNG"), "more than 8 bits"),
        (encoded(Image.fromarray(Y.astype(np.float32)), "TIFF"), "more than 8 bits"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is not a JPEG"),
    ],
)
def test_faults_have_reasons(data: bytes, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data, "folder/a.png")
    assert caught.value.locator == "folder/a.png"
    assert "folder/a.png" in str(caught.value)
    assert capfd.readouterr().err == ""


def test_damaged_png_data() -> None:
    data = bytearray(encoded(gray(), "PNG"))
    data[len(data) // 2] ^= 255
    with pytest.raises(ImageError, match="damaged"):
        decode(bytes(data), "x")


def test_files_identity_and_digest(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(gray(), "PNG"))
    (tmp_path / "b.png").write_bytes(encoded(gray(), "PNG"))
    reader = ImageReader(tmp_path)
    assert np.array_equal(reader.read("a.png"), GRAY)
    assert np.array_equal(reader.read(str(tmp_path / "a.png")), GRAY)
    assert reader.decode("a.png").digest == reader.digest("b.png") == reader.digest("a.png")
    assert reader.identity("a.png") == ((tmp_path / "a.png").stat().st_size, (tmp_path / "a.png").stat().st_mtime_ns)
    for action in (reader.read, reader.identity):
        with pytest.raises(ImageError, match=r"c\.png: no such file"):
            action("c.png")


def test_container(tmp_path: Path) -> None:
    planar = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    planar[2] = np.tile(planar[2, :1024], 3)  # a gray one
    content = {b"data": planar, b"labels": [0, 1, 2], b"filenames": [b"a", b"b", b"c"], b"batch_label": b"x"}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    reader = ImageReader(tmp_path)
    assert np.array_equal(reader.read("data_batch_1::1"), planar[1].reshape(3, 32, 32).transpose(1, 2, 0))
    assert reader.read("data_batch_1::2").shape == (32, 32)
    assert reader.identity("data_batch_1::1") == reader.identity("data_batch_1::2")
    for item in ("3", "-1", "x"):
        with pytest.raises(ImageError, match="items 0 to 2"):
            reader.read(f"data_batch_1::{item}")
    with pytest.raises(ImageError, match="no such file"):
        reader.read("data_batch_9::0")
