"""From a locator to pixels: image files, DICOM and items of containers, as uint8 gray or RGB.

Rules, the same for every dataset:

- Gray images stay one channel; an image with three equal channels is gray. Palettes, CMYK and other colour spaces
  become RGB; an alpha channel is dropped (the colours under it are kept as stored).
- The EXIF orientation is applied, so the pixels are what a viewer shows.
- 8 bits a channel. Gray of more bits goes through ``data.window`` (``window.py``), whatever the file's kind. RGB of 16
  bits keeps its high byte, and that is noted.
- Of an image with several frames or pages the first is taken.
- A JPEG of more than ``LARGE`` pixels is decoded at 1/2, 1/4 or 1/8 (the decoder's own scaling), as long as its short
  side stays above ``SHORT``: a photograph of 100 million pixels costs a quarter of the time and memory, and that is
  noted. Other large images are decoded one at a time; beyond ``MOST_PIXELS`` nothing is decoded.

Pillow decodes: it is silent where OpenCV's codecs write to the terminal from C, it names the reason of a failure, and
gives the same pixels. Only raster formats without an interpreter are admitted (no EPS, no PDF).
"""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import threading
import warnings
import zlib
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dam.data.containers import SEPARATOR, Container, ItemError, open_container
from dam.data.window import Window, WindowError, apply, check_window
from dam.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
MOST_OPEN = 128  # containers kept open at a time
MOST_PIXELS = 178_956_970  # twice Pillow's own limit of warning: 0.5 GB as RGB
MOST_BYTES = 1 << 31  # of an image file
LARGE, SHORT = 25_000_000, 1024  # pixels of a large image; its shorter side is not scaled below SHORT

_DEEP_GRAY = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
_EXIF_ORIENTATION = 0x0112
_one_large = threading.Lock()
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, struct.error, zlib.error)


class ImageError(UserError):
    """One image cannot be read. ``locator`` says which, ``reason`` why, in a few words."""

    def __init__(self, locator: str, reason: str) -> None:
        super().__init__(f"Cannot read image {locator}: {reason}.")
        self.locator = locator
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """An image, uint8 ``(H, W)`` or ``(H, W, 3)`` RGB, the digest of its source bytes, and what was done beyond
    decoding (the window, the frame), in a few words each, the same words for like images."""

    pixels: np.ndarray
    digest: str
    remarks: tuple[str, ...]


class ImageReader:
    """Reads images by locator, relative to ``root`` or absolute. Safe to share between threads.

    A locator is a file (``"folder/image.jpg"``) or an item in a container (``"data_batch_1::17"``,
    ``"images.zip::a/b.png"``). Files are opened for the one read only; of containers the ``MOST_OPEN`` last used stay
    open. ``window`` is ``data.window``. Raises ``UserError`` for a window that is none.
    """

    def __init__(self, root: Path | str, window: Window = "file") -> None:
        check_window(window)
        self.root = Path(root)
        self.window = window
        self._containers: OrderedDict[str, Container] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, locator: str) -> np.ndarray:
        """The image, uint8 ``(H, W)`` if gray, else ``(H, W, 3)`` RGB. Raises ``ImageError``."""
        return self.decode(locator).pixels

    def decode(self, locator: str) -> Decoded:
        """The image with the BLAKE2b-128 (hex) of its source bytes, and remarks. Raises ``ImageError``."""
        source = self.source(locator)
        if isinstance(source, bytes):
            pixels, remarks = decode_noted(source, locator, self.window)
            return Decoded(pixels, _digest(source), remarks)
        return Decoded(_gray_if_equal(source), _digest(source.tobytes()), ())

    def digest(self, locator: str) -> str:
        """BLAKE2b-128 (hex) of the source bytes alone, nothing decoded. Raises ``ImageError``."""
        source = self.source(locator)
        return _digest(source if isinstance(source, bytes) else source.tobytes())

    def source(self, locator: str) -> bytes | np.ndarray:
        """The encoded file, or the pixels of a container that holds pixels. Raises ``ImageError``."""
        return self._item(locator) if SEPARATOR in locator else self._bytes(locator)

    def identity(self, locator: str) -> tuple[int, int]:
        """Size in bytes and modification time in ns of the file that holds the image. Raises ``ImageError``."""
        path = self._path(locator.partition(SEPARATOR)[0])
        try:
            status = path.stat()
        except OSError as error:
            raise ImageError(locator, _os_reason(error)) from error
        return status.st_size, status.st_mtime_ns

    def _path(self, name: str) -> Path:
        return self.root / name  # an absolute name replaces the root

    def _bytes(self, locator: str) -> bytes:
        path = self._path(locator)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(locator, "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
            if status.st_size > MOST_BYTES:
                raise ImageError(locator, f"it is a file of {status.st_size >> 20} MiB, which no image file needs")
            return path.read_bytes()
        except OSError as error:
            raise ImageError(locator, _os_reason(error)) from error

    def _item(self, locator: str) -> bytes | np.ndarray:
        name, _, item = locator.partition(SEPARATOR)
        try:
            return self._container(name).read(item)
        except ItemError as error:
            raise ImageError(locator, str(error)) from error
        except FileNotFoundError as error:
            raise ImageError(locator, "no such file") from error

    def _container(self, name: str) -> Container:
        with self._lock:
            if name in self._containers:
                self._containers.move_to_end(name)
            else:
                path = self._path(name)
                if not path.is_file():
                    raise FileNotFoundError(path)
                self._containers[name] = open_container(path)
            if len(self._containers) > MOST_OPEN:
                self._containers.popitem(last=False)  # closed when the last thread that reads from it lets go
            return self._containers[name]


def decode(data: bytes, locator: str, window: Window = "file") -> np.ndarray:
    """Pixels of an encoded image: uint8 ``(H, W)`` or ``(H, W, 3)`` RGB. ``locator`` only names it in errors."""
    return decode_noted(data, locator, window)[0]


def decode_noted(data: bytes, locator: str, window: Window) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels of an encoded image as ``decode`` gives them, and remarks. Raises ``ImageError``."""
    from dam.data.dicom import SUFFIXES, DicomError, decode_dicom, is_dicom

    if not data:
        raise ImageError(locator, "the file is empty")
    try:
        if is_dicom(data) or locator.lower().endswith(SUFFIXES):
            pixels, remarks = decode_dicom(data, window, MOST_PIXELS, _turn)
        else:
            pixels, remarks = _decode(data, locator, window)
        return _gray_if_equal(pixels), remarks
    except (DicomError, WindowError) as error:
        raise ImageError(locator, str(error)) from error


def _decode(data: bytes, locator: str, window: Window) -> tuple[np.ndarray, tuple[str, ...]]:
    pillow = _pillow()
    try:
        image: Image.Image = pillow.open(io.BytesIO(data), formats=FORMATS)
        remarks = _before_loading(image, data, locator)
        with _turn(image.width * image.height):
            image.load()
            pixels, more = _pixels(image, window)
            return pixels, (*more, *remarks)
    except pillow.UnidentifiedImageError as error:
        raise ImageError(locator, _unknown_reason(data)) from error
    except pillow.DecompressionBombError as error:
        raise ImageError(locator, "it has too many pixels to be decoded safely") from error
    except _DECODING_ERRORS as error:
        raise ImageError(locator, f"it is damaged ({str(error).strip() or type(error).__name__})") from error


def from_pillow(image: Image.Image, name: str, window: Window) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels of an open Pillow image by the rules of files, and remarks. Raises ``ImageError`` naming ``name``."""
    try:
        pixels, remarks = _pixels(image, window)
    except WindowError as error:
        raise ImageError(name, str(error)) from error
    except _DECODING_ERRORS as error:
        raise ImageError(name, f"it is damaged ({str(error).strip() or type(error).__name__})") from error
    return _gray_if_equal(pixels), remarks


def gray_if_equal(image: np.ndarray) -> np.ndarray:
    """uint8 ``(H, W, 1)`` and three equal channels become ``(H, W)``; other images stay."""
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else _gray_if_equal(image)


def _pixels(image: Image.Image, window: Window) -> tuple[np.ndarray, tuple[str, ...]]:
    if image.mode not in _DEEP_GRAY:
        return _plain(image), ()
    pixels, how = _window_deep(image, window)
    exif = image.getexif()
    upright = _pillow().fromarray(pixels)
    upright.getexif()[_EXIF_ORIENTATION] = exif.get(_EXIF_ORIENTATION, 1)
    return _plain(upright), (f"gray of more than 8 bits: {how}",)


def _turn(pixels: int) -> AbstractContextManager[object]:
    """What to hold while so many pixels are decoded: large images come one at a time."""
    return _one_large if pixels > LARGE else nullcontext()


def _plain(image: Image.Image) -> np.ndarray:
    """An image of 8 bits as an array, upright, gray or RGB."""
    from PIL import ImageOps

    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return np.asarray(image.convert("L" if image.mode in ("L", "1", "LA", "La") else "RGB"))


@cache
def _pillow() -> Any:
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our limit is Pillow's error
    return Image


def _before_loading(image: Image.Image, data: bytes, locator: str) -> tuple[str, ...]:
    """What the header alone tells: a size beyond the limit, 16 bits that Pillow would halve, a JPEG to scale down."""
    if image.width * image.height > MOST_PIXELS:
        raise ImageError(locator, "it has too many pixels to be decoded safely")
    if image.format == "PNG" and data[24:25] == b"\x10" and data[25:26] == b"\x04":
        raise ImageError(locator, "it is gray of 16 bits with an alpha channel; write it without alpha")
    if image.format == "PNG" and data[24:25] == b"\x10" and image.mode in ("RGB", "RGBA"):
        return ("colour of 16 bits: high byte",)
    if image.format == "JPEG" and image.width * image.height > LARGE:
        divisor = 1
        while (
            divisor < 8 and image.width * image.height > LARGE * divisor**2 and (min(image.size) >= 2 * SHORT * divisor)
        ):
            divisor *= 2
        if divisor > 1:
            image.draft(image.mode, (image.width // divisor, image.height // divisor))
            return (f"large JPEG decoded at 1/{divisor} of its size",)
    return ()


def _window_deep(image: Image.Image, window: Window) -> tuple[np.ndarray, str]:
    """A gray image of more than 8 bits as uint8, black on white turned as viewers do, and what was done."""
    tags: Any = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "I" and _sample_format(tags) == 1 and tags.get(258, (16,))[0] == 32:
        values = values.view(np.uint32)  # Pillow keeps the bits of an unsigned TIFF and calls them signed
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    pixels, how = apply(values, window, _full_range(image.mode, tags))
    return (255 - pixels, f"{how}, white is zero") if tags.get(262) == 0 else (pixels, how)


def _sample_format(tags: Any) -> int:
    """TIFF's kind of numbers: 1 unsigned (also where it is not said), 2 signed, 3 floating point."""
    return int(tags.get(339, (1,))[0])


def _full_range(mode: str, tags: Any) -> tuple[float, float] | None:
    """What the bits of a deep gray image can hold: TIFF says its bits, all other formats are scaled to 16."""
    if mode == "F" or _sample_format(tags) == 3:
        return None
    bits = int(tags.get(258, (16,))[0])
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if _sample_format(tags) == 2 else (0, 2.0**bits - 1)


def _gray_if_equal(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        return image
    # A sparse look settles nearly every colour image without touching all of its pixels.
    for view in (image[::16, ::16], image):
        red, green, blue = view[..., 0], view[..., 1], view[..., 2]
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            return image
    return np.ascontiguousarray(image[..., 0])


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _os_reason(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()


def _unknown_reason(data: bytes) -> str:
    if data.startswith(_SIGNATURES):
        return "it is damaged (its header cannot be read)"
    return f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
