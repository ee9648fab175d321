"""From a locator to pixels: image files and items of containers, as uint8 gray or RGB.

Rules, the same for every dataset:

- Gray images stay one channel; an image with three equal channels is gray. Palettes, CMYK and other colour spaces
  become RGB; an alpha channel is dropped (the colours under it are kept as stored).
- The EXIF orientation is applied, so the pixels are what a viewer shows.
- 8 bits a channel. A gray image of more bits is refused: its window is not in the file, and both usual guesses (keep
  the high byte, stretch to the extremes) quietly destroy contrast. Sixteen-bit RGB PNG keeps its high byte.
- Of an image with several frames or pages the first is taken.

Pillow decodes: it is silent where OpenCV's codecs write to the terminal from C, it names the reason of a failure, and
gives the same pixels. Only raster formats without an interpreter are admitted (no EPS, no PDF).
"""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np

from dam.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
SEPARATOR = "::"  # between a container and the item's number: "cifar-10-batches-py/data_batch_1::17"

_DEEP_GRAY = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
_EXIF_ORIENTATION = 0x0112
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, struct.error, zlib.error)


class ImageError(UserError):
    """One image cannot be read. ``locator`` says which, ``reason`` why, in a few words."""

    def __init__(self, locator: str, reason: str) -> None:
        super().__init__(f"Cannot read image {locator}: {reason}.")
        self.locator = locator
        self.reason = reason


class ImageReader:
    """Reads images by locator, relative to ``root`` or absolute. Safe to share between threads.

    A locator is a file (``"folder/image.jpg"``) or an item in a container (``"data_batch_1::17"``). Files are opened
    for the one read only; a container is parsed at its first use and kept.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._containers: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def read(self, locator: str) -> np.ndarray:
        """The image, uint8 ``(H, W)`` if gray, else ``(H, W, 3)`` RGB. Raises ``ImageError``."""
        return self.read_with_digest(locator)[0]

    def read_with_digest(self, locator: str) -> tuple[np.ndarray, str]:
        """The image as ``read`` gives it, and the BLAKE2b-128 (hex) of its source bytes. Raises ``ImageError``."""
        if SEPARATOR in locator:
            item = self._item(locator)
            return _gray_if_equal(item), _digest(item.tobytes())
        data = self._bytes(locator)
        return decode(data, locator), _digest(data)

    def identity(self, locator: str) -> tuple[int, int]:
        """Size in bytes and modification time in ns of the file that holds the image. Raises ``ImageError``."""
        path = self._path(locator.rpartition(SEPARATOR)[0] or locator)
        try:
            status = path.stat()
        except OSError as error:
            raise ImageError(locator, _os_reason(error)) from error
        return status.st_size, status.st_mtime_ns

    def _path(self, name: str) -> Path:
        return self.root / name  # an absolute name replaces the root

    def _bytes(self, locator: str) -> bytes:
        try:
            return self._path(locator).read_bytes()
        except OSError as error:
            raise ImageError(locator, _os_reason(error)) from error

    def _item(self, locator: str) -> np.ndarray:
        name, _, number = locator.rpartition(SEPARATOR)
        with self._lock:
            if name not in self._containers:
                self._containers[name] = _open_container(self._path(name), locator)
            images = self._containers[name]
        if not number.isdecimal() or int(number) >= len(images):
            raise ImageError(locator, f"the container has items 0 to {len(images) - 1}")
        item: np.ndarray = images[int(number)]
        return item


def decode(data: bytes, locator: str) -> np.ndarray:
    """Pixels of an encoded image: uint8 ``(H, W)`` or ``(H, W, 3)`` RGB. ``locator`` only names it in errors."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise ImageError(locator, "the file is empty")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.mode in _DEEP_GRAY:
            reason = f"it has more than 8 bits a pixel (mode {image.mode}); write it as 8 bit, with the window you want"
            raise ImageError(locator, reason)
        image.load()
        if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode in ("L", "1", "LA", "La"):
            return np.asarray(image.convert("L"))
        return _gray_if_equal(np.asarray(image.convert("RGB")))
    except UnidentifiedImageError as error:
        raise ImageError(locator, _unknown_reason(data)) from error
    except Image.DecompressionBombError as error:
        raise ImageError(locator, "it has too many pixels to be decoded safely") from error
    except _DECODING_ERRORS as error:
        raise ImageError(locator, f"it is damaged ({str(error).strip() or type(error).__name__})") from error


def _gray_if_equal(image: np.ndarray) -> np.ndarray:
    # A sparse look settles nearly every colour image without touching all of its pixels.
    for view in (image[::16, ::16], image):
        red, green, blue = view[..., 0], view[..., 1], view[..., 2]
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            return image
    return np.ascontiguousarray(image[..., 0])


def _open_container(path: Path, locator: str) -> np.ndarray:
    """All images of a container, uint8 ``(n, H, W, 3)``; so far the CIFAR pickles are the only kind."""
    from dam.data.datasets.cifar_pickle import load_batch

    if not path.is_file():
        raise ImageError(locator, "no such file")
    data: np.ndarray = load_batch(path)["data"]
    images: np.ndarray = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _os_reason(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()


def _unknown_reason(data: bytes) -> str:
    if data[128:132] == b"DICM":
        return "DICOM is not read; export it as 8-bit PNG first"
    if data.startswith(_SIGNATURES):
        return "it is damaged (its header cannot be read)"
    return f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
