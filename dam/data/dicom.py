"""The image in a DICOM file as a viewer would show it, in 8 bits. Needs the extra ``dicom`` (pydicom and its codecs).

The order is DICOM's own (PS3.3 C.7.6.3, C.11.1, C.11.2): stored values, modality LUT or rescale slope and intercept,
window, and MONOCHROME1 inverted. ``data.window`` chooses the window, in the units after the rescale (Hounsfield in
CT): ``file`` is the VOI LUT or else the first window centre and width, with the file's VOI LUT function; a file
without one is shown as stored if it has 8 bits, and refused beyond. Padding is black and does not count for
``stretch``. YBR and palettes become RGB; colour is not windowed. Of several frames the first is taken. Overlays are
not drawn.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np

from dam.data.window import Window, WindowError, apply, scale
from dam.errors import UserError

SUFFIXES = (".dcm", ".dicom")
MOST_BYTES = 1 << 30  # of an inflated data set
_DEFLATED = "1.2.840.10008.1.2.1.99"
_INSTALL = 'pip install "dam[dicom]"'


class DicomError(Exception):
    """This file gives no image; the text is the reason in a few words."""


def is_dicom(data: bytes) -> bool:
    """Whether the bytes have DICOM's mark after its preamble."""
    return data[128:132] == b"DICM"


def decode_dicom(
    data: bytes, window: Window, most_pixels: int, turn: Callable[[int], AbstractContextManager[object]]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels, uint8 ``(H, W)`` or ``(H, W, 3)`` RGB, and what was done to them, a few words each. ``turn(pixels)`` is
    held while so many pixels are decoded.

    Raises ``DicomError`` for a file without a readable image, ``WindowError`` where the window cannot be had,
    ``UserError`` where pydicom or a codec is not installed.
    """
    pydicom = _pydicom()
    try:
        _check_inflated(data)
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        frames = _check_header(dataset, most_pixels)
        with turn(int(dataset.Rows) * int(dataset.Columns)):
            pixels, how = _shown(pydicom, dataset, window)
        said = ("DICOM of several frames: the first is taken",) if frames > 1 else ()
        return pixels, (*said, how) if how else said
    except (UserError, DicomError, WindowError):
        raise
    except Exception as error:  # a broken data set may raise nearly anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DicomError(f"it is damaged, or no image ({reason})") from error


def _shown(pydicom: Any, dataset: Any, window: Window) -> tuple[np.ndarray, str]:
    """The first frame in 8 bits, and what was done to it; nothing to say of plain colour."""
    stored = _stored(pydicom, dataset)
    photometric = str(dataset.PhotometricInterpretation).upper()
    if photometric == "PALETTE COLOR":
        stored = pydicom.pixels.apply_color_lut(stored, dataset)
        depth = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        return _eight_bits(stored[..., :3], depth), "DICOM palette"
    if stored.ndim == 3:
        return _eight_bits(stored[..., :3], int(dataset.BitsStored)), ""
    pixels, how = _gray(dataset, stored, window)
    if photometric == "MONOCHROME1":
        pixels, how = 255 - pixels, f"{how}, MONOCHROME1 inverted"
    padding = _padding(dataset, stored)
    if padding is not None:
        pixels = np.where(padding, np.uint8(0), pixels)
    return pixels, f"DICOM gray: {how}"


@cache
def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise UserError(f"Reading DICOM needs pydicom: {_INSTALL}") from error
    # Files with odd values are common; they are read or fail with a reason, and the terminal stays quiet.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.logger.setLevel("CRITICAL")
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    return pydicom


def _check_inflated(data: bytes) -> None:
    """A deflated data set is inflated whole by pydicom, so its size is found first, a piece at a time."""
    if not is_dicom(data) or _DEFLATED.encode() not in data[:4096]:
        return
    (group_length,) = struct.unpack_from("<I", data, 140)  # the meta information's first element, explicit VR
    inflater, piece, total = zlib.decompressobj(-zlib.MAX_WBITS), data[144 + group_length :], 0
    while piece and not inflater.eof:
        total += len(inflater.decompress(piece, 1 << 24))
        piece = inflater.unconsumed_tail
        if total > MOST_BYTES:
            raise DicomError(f"it unpacks to more than {MOST_BYTES >> 20} MiB")


def _check_header(dataset: Any, most_pixels: int) -> int:
    """The number of frames, after the file was seen to hold an image of a bearable size."""
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DicomError("it is a DICOM file without an image, or no DICOM file")
    if int(dataset.Rows) * int(dataset.Columns) > most_pixels:
        raise DicomError("it has too many pixels to be decoded safely")
    return int(dataset.get("NumberOfFrames") or 1)


def _stored(pydicom: Any, dataset: Any) -> np.ndarray:
    """Stored values of the first frame, ``(H, W)`` or ``(H, W, samples)``; YBR is RGB already."""
    if "TransferSyntaxUID" not in (getattr(dataset, "file_meta", None) or {}):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian  # what DICOM says of such a file
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not syntax.is_deflated:
        try:
            decoder = pydicom.pixels.get_decoder(syntax)
        except NotImplementedError as error:
            raise DicomError(f"its transfer syntax, {syntax.name}, is not read (video, or unknown)") from error
        if not decoder.is_available:
            raise UserError(f"Reading DICOM compressed as {syntax.name} needs its decoder: {_INSTALL}")
    return np.asarray(pydicom.pixels.pixel_array(dataset, index=0))


def _gray(dataset: Any, stored: np.ndarray, window: Window) -> tuple[np.ndarray, str]:
    values, full = _modality(dataset, stored)
    shallow = stored.dtype.kind in "iu" and int(dataset.BitsStored) <= 8
    if isinstance(window, str) and (window == "file" or (window == "refuse" and shallow)):
        shown = _file_window(dataset, values)
        if shown is not None:
            return shown
        if shallow and full is not None:
            return scale(values, *full), "no window in the file, 8 bits as stored"
    padding = _padding(dataset, stored)
    return apply(values, window, full, None if padding is None else ~padding)


def _modality(dataset: Any, stored: np.ndarray) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Values in the units of the modality, and the range that the bits stored can hold in them."""
    if stored.dtype.kind == "f":
        return stored, None
    bits = int(dataset.BitsStored)
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if dataset.get("ModalityLUTSequence"):
        values, depth = _look_up(dataset, dataset.ModalityLUTSequence[0], stored)
        return values, (0, 2**depth - 1)
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    if (slope, intercept) == (1, 0):
        return stored, ends
    low, high = sorted(end * slope + intercept for end in ends)
    return stored * slope + intercept, (low, high)


def _file_window(dataset: Any, values: np.ndarray) -> tuple[np.ndarray, str] | None:
    """The VOI LUT, or the first window centre and width, of the file (PS3.3 C.11.2.1); ``None`` without either."""
    if dataset.get("VOILUTSequence"):
        shown, depth = _look_up(dataset, dataset.VOILUTSequence[0], np.rint(values).astype(np.int64))
        return scale(shown, 0, 2**depth - 1), "the file's VOI LUT"
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise WindowError(f"its window has a width of {width:g}; set data.window=full, stretch or [low, high]")
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values.astype(np.float64) - centre) / width, -700, 700)))
        return scale(share, 0, 1), "the file's window (sigmoid)"
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:  # a threshold
        return np.where(values > centre, np.uint8(255), np.uint8(0)), "the file's window"
    return scale(values, centre - width / 2, centre + width / 2), "the file's window"


def _look_up(dataset: Any, item: Any, values: np.ndarray) -> tuple[np.ndarray, int]:
    """Values through a LUT of DICOM (ends extended), and the bits of its entries."""
    entries, first, depth = (int(part) for part in item.LUTDescriptor)
    data: Any = item.LUTData
    if isinstance(data, bytes):
        order = "<" if getattr(dataset, "original_encoding", (None, True))[1] is not False else ">"
        data = np.frombuffer(data, np.uint8 if len(data) == entries else f"{order}u2")
    table = np.asarray(data, np.int64)[: entries or 65536]
    if not table.size:
        raise DicomError("its lookup table is empty")
    if first > 32767 and values.min() < 0:
        first -= 65536  # a signed first value that was read as unsigned
    return table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)], depth


def _padding(dataset: Any, stored: np.ndarray) -> np.ndarray | None:
    """Where the stored values are padding, not image; ``None`` if nowhere."""
    value = dataset.get("PixelPaddingValue")
    if value is None or stored.dtype.kind == "f":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    found = (stored >= low) & (stored <= high)
    return found if found.any() else None


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float):
        return float(value)
    return float(value[0]) if hasattr(value, "__getitem__") and len(value) else None


def _eight_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    return np.ascontiguousarray(scale(pixels, 0, 2**bits - 1))
