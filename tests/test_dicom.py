"""DICOM written by pydicom and read back: every pixel as the standard's formulas give it."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import apply_voi_lut  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from dam.data import readers  # noqa: E402
from dam.data.readers import ImageError, ImageReader, decode, decode_noted  # noqa: E402

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 16), dtype=np.uint8)
RGB = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (12, 16), dtype=np.uint16)
SIGNED = RNG.integers(-2048, 2048, (12, 16), dtype=np.int16)


def dataset(pixels: np.ndarray, photometric: str = "MONOCHROME2", bits: int = 0, **tags: Any) -> Dataset:
    frames = pixels if tags.get("NumberOfFrames") else pixels[None]
    d = Dataset()
    d.Rows, d.Columns = frames.shape[1:3]
    d.SamplesPerPixel = frames.shape[3] if frames.ndim == 4 else 1
    if d.SamplesPerPixel == 3:
        d.PlanarConfiguration = 0
    d.BitsAllocated = pixels.itemsize * 8
    d.BitsStored = bits or d.BitsAllocated
    d.HighBit = d.BitsStored - 1
    d.PixelRepresentation = int(pixels.dtype.kind == "i")
    d.PhotometricInterpretation = photometric
    d.PixelData = pixels.tobytes()
    d["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    d.SOPClassUID, d.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    for name, value in tags.items():
        setattr(d, name, value)
    return d


def written(d: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    d.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def image(pixels: np.ndarray, photometric: str = "MONOCHROME2", bits: int = 0, **tags: Any) -> bytes:
    return written(dataset(pixels, photometric, bits, **tags))


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


def test_eight_bits_as_stored() -> None:
    assert np.array_equal(decode(image(GRAY), "x"), GRAY)
    assert np.array_equal(decode(image(GRAY, "MONOCHROME1"), "x"), 255 - GRAY)
    assert np.array_equal(decode(image(GRAY), "x", "refuse"), GRAY)
    assert np.array_equal(decode(image(RGB, "RGB"), "x"), RGB)
    six = (GRAY >> 2).astype(np.uint8)
    assert np.array_equal(decode(image(six, bits=6), "x"), scaled(six, 0, 63))


@pytest.mark.parametrize(
    ("pixels", "window", "ends"),
    [
        (DEEP, "full", (0, 4095)),
        (DEEP, "stretch", (int(DEEP.min()), int(DEEP.max()))),
        (DEEP, [100, 900], (100, 900)),
        (SIGNED, "full", (-2048, 2047)),
        (SIGNED, [-100, 100], (-100, 100)),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_twelve_bits(pixels: np.ndarray, window: Any, ends: tuple[float, float], photometric: str) -> None:
    shown = scaled(pixels, *ends)
    inverted = photometric == "MONOCHROME1"
    assert np.array_equal(decode(image(pixels, photometric, 12), "x", window), 255 - shown if inverted else shown)


def test_slope_and_intercept() -> None:
    data = image(DEEP, bits=12, RescaleSlope="0.5", RescaleIntercept="-1024")
    units = DEEP * 0.5 - 1024
    assert np.array_equal(decode(data, "x", [-160, 240]), scaled(units, -160, 240))
    assert np.array_equal(decode(data, "x", "full"), scaled(units, -1024, 4095 * 0.5 - 1024))
    falling = image(DEEP, bits=12, RescaleSlope="-1", RescaleIntercept="0")
    assert np.array_equal(decode(falling, "x", "full"), scaled(-DEEP.astype(int), -4095, 0))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_files_window(function: str | None) -> None:
    tags = {"WindowCenter": ["40", "600"], "WindowWidth": ["400", "1500"], "RescaleSlope": "1",
            "RescaleIntercept": "-1024"}  # fmt: skip
    if function:
        tags["VOILUTFunction"] = function
    data = image(DEEP, bits=12, **tags)
    shown = decode(data, "x", "file")
    units = DEEP.astype(float) - 1024
    if function == "SIGMOID":
        formula = np.floor(255 / (1 + np.exp(-4 * (units - 40) / 400)) + 0.5).astype(np.uint8)
    elif function == "LINEAR_EXACT":
        formula = scaled(units, 40 - 200, 40 + 200)
    else:  # PS3.3 C.11.2.1.2.1
        formula = scaled(units, 39.5 - 399 / 2, 39.5 + 399 / 2)
    assert np.array_equal(shown, formula)
    d = pydicom.dcmread(io.BytesIO(data))
    theirs = apply_voi_lut(units, d)  # the same over pydicom's output range
    assert np.abs(shown - (theirs - theirs.min()) / (4095) * 255).max() <= (2 if function == "SIGMOID" else 0.51)
    with pytest.raises(ImageError, match=r"data\.window=refuse does not take"):
        decode(data, "x", "refuse")


def test_window_of_width_one_is_a_threshold() -> None:
    data = image(DEEP, bits=12, WindowCenter="2000", WindowWidth="1")
    assert np.array_equal(decode(data, "x"), np.where(DEEP > 1999.5, 255, 0))
    with pytest.raises(ImageError, match="a width of 0"):
        decode(image(DEEP, bits=12, WindowCenter="2000", WindowWidth="0"), "x")


def lut(first: int, table: np.ndarray, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(table), first, bits])
    item.add_new("LUTData", "US", table.tolist())
    return item


def test_lookup_tables() -> None:
    table = (np.arange(1000) ** 2 % 65536).astype(np.uint16)
    index = np.clip(DEEP.astype(int) - 500, 0, 999)
    voi = image(DEEP, bits=12, VOILUTSequence=[lut(500, table, 16)], WindowCenter="1", WindowWidth="2")
    assert np.array_equal(decode(voi, "x"), scaled(table[index], 0, 65535))  # the table goes before the window
    modality = image(DEEP, bits=12, ModalityLUTSequence=[lut(500, table, 16)])
    assert np.array_equal(decode(modality, "x", [100, 40000]), scaled(table[index], 100, 40000))
    signed = image(SIGNED, bits=12, ModalityLUTSequence=[lut(-500, table, 16)])
    below = np.clip(SIGNED.astype(int) + 500, 0, 999)
    assert np.array_equal(decode(signed, "x", "full"), scaled(table[below], 0, 65535))


def test_deep_without_a_window_is_refused() -> None:
    with pytest.raises(ImageError, match=r"names no window of its own; choose one: data\.window=full"):
        decode(image(DEEP, bits=12), "x", "file")


def test_padding_is_black_and_does_not_count() -> None:
    pixels = DEEP.copy() + 100
    pixels[:3] = 0
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        shown = decode(image(pixels, photometric, PixelPaddingValue=0), "x", "stretch")
        inside = scaled(pixels[3:], pixels[3:].min(), pixels[3:].max())
        assert not shown[:3].any()
        assert np.array_equal(shown[3:], 255 - inside if photometric == "MONOCHROME1" else inside)


def test_ybr_is_rgb() -> None:
    r, g, b = (RGB[..., i].astype(float) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    ybr = np.stack([y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402], -1)
    data = image(np.clip(np.rint(ybr), 0, 255).astype(np.uint8), "YBR_FULL")
    assert np.abs(decode(data, "x").astype(int) - RGB).max() <= 2


def test_palette() -> None:
    table = RNG.integers(0, 65536, (3, 256)).astype("<u2")
    tags: dict[str, Any] = {}
    for name, values in zip(("Red", "Green", "Blue"), table, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    pixels, remarks = decode_noted(image(GRAY, "PALETTE COLOR", **tags), "x", "file")
    assert np.array_equal(pixels, scaled(np.moveaxis(table, 0, -1)[GRAY], 0, 65535))
    assert remarks == ("DICOM palette",)


def test_the_first_of_several_frames_is_taken_and_said() -> None:
    frames = RNG.integers(0, 256, (5, 12, 16), dtype=np.uint8)
    pixels, remarks = decode_noted(image(frames, NumberOfFrames=5), "x", "file")
    assert np.array_equal(pixels, frames[0])
    assert "DICOM of several frames: the first is taken" in remarks


def test_compressed_transfer_syntaxes() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(RGB).resize((160, 120)).save(buffer, "JPEG", quality=95)
    jpeg = dataset(np.zeros((120, 160, 3), np.uint8), "YBR_FULL_422")
    jpeg.PixelData = encapsulate([buffer.getvalue()])
    wanted = np.asarray(Image.open(io.BytesIO(buffer.getvalue()))).astype(int)
    assert np.abs(decode(written(jpeg, JPEGBaseline8Bit), "x").astype(int) - wanted).mean() < 1.5
    for syntax in (RLELossless, JPEG2000Lossless):
        large = np.tile(DEEP, (8, 8))
        deep = dataset(large, bits=12)
        deep.file_meta = FileMetaDataset()
        deep.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        deep.compress(syntax)
        assert np.array_equal(decode(written(deep, syntax), "x", "full"), scaled(large, 0, 4095))
    plain = written(dataset(DEEP, bits=12), DeflatedExplicitVRLittleEndian)
    assert np.array_equal(decode(plain, "x", "full"), scaled(DEEP, 0, 4095))


def test_a_file_without_preamble_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(image(GRAY)[132:])
    (tmp_path / "IM0001").write_bytes(image(GRAY))
    reader = ImageReader(tmp_path)
    assert np.array_equal(reader.read("a.dcm"), GRAY) and np.array_equal(reader.read("IM0001"), GRAY)


@pytest.mark.parametrize("cut", [140, 200, 330, -20])
def test_cut_files_have_a_reason(cut: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match=r"Cannot read image x: it is"):
        decode(image(GRAY)[:cut], "x")
    assert capfd.readouterr().err == ""


def test_what_is_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    report = dataset(GRAY)
    del report.PixelData
    with pytest.raises(ImageError, match="a DICOM file without an image"):
        decode(written(report), "x")
    with pytest.raises(ImageError, match="is not read"):
        video = dataset(GRAY)
        video.PixelData = encapsulate([b"\0" * 20])
        decode(written(video, "1.2.840.10008.1.2.4.102"), "x")  # MPEG-4
    with pytest.raises(ImageError, match="too many pixels"):
        decode(image(GRAY, Rows=60000, Columns=60000), "x")
    bomb = written(dataset(GRAY), DeflatedExplicitVRLittleEndian)
    packer = zlib.compressobj(9, wbits=-15)
    head = bomb[: 144 + int.from_bytes(bomb[140:144], "little")]
    monkeypatch.setattr("dam.data.dicom.MOST_BYTES", 1 << 22)
    with pytest.raises(ImageError, match="unpacks to more than"):
        decode(head + packer.compress(b"\0" * (1 << 23)) + packer.flush(), "x")


def test_without_pydicom_one_sentence() -> None:
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from dam.data.readers import decode\nfrom dam.errors import UserError\n"
        "try: decode(b'\\0' * 128 + b'DICM', 'x')\nexcept UserError as error: print(type(error).__name__, error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == 'UserError Reading DICOM needs pydicom: pip install "dam[dicom]"'


@pytest.mark.parametrize("kind", ["PNG", "DICOM"])
def test_large_images_wait_for_one_another(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    pixels = np.arange(80, dtype=np.uint8).reshape(8, 10)
    buffer = io.BytesIO(written(dataset(pixels)) if kind == "DICOM" else b"")
    if kind == "PNG":
        Image.fromarray(pixels).save(buffer, "PNG")
    turns: list[int] = []
    turn = readers._turn
    monkeypatch.setattr(readers, "_turn", lambda pixels: turns.append(pixels) or turn(pixels))
    assert np.array_equal(decode(buffer.getvalue(), "x"), pixels) and turns == [80]
    monkeypatch.setattr(readers, "LARGE", 50)
    assert turn(51) is readers._one_large and turn(50) is not readers._one_large
