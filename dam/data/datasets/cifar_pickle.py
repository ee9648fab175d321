"""Reading CIFAR batches without trusting them: a restricted unpickler of stand-ins, and the binary version.

The official python files are pickles that name three numpy globals. Allowing the real ones is not safe: with
``numpy.dtype`` and ``numpy.ndarray`` alone a hand-made file builds an object array over bytes of its own choice. So
every name is answered by an inert stand-in that accepts only what the official files do, and no numpy object is ever
made by the pickle machine.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from dam.errors import UserError

PIXELS = 3072  # 1024 red, 1024 green, 1024 blue, each 32 x 32 row-major
RECORD = PIXELS + 1  # the binary version of CIFAR-10: one label byte first
RECORD_100 = PIXELS + 2  # of CIFAR-100: the coarse label, then the fine one


class _Inert:
    """What a pickle gets instead of an object: no attributes, no state."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it sets the state of an object that has none")


class _Dtype(_Inert):
    """Stands for ``numpy.dtype("u1")``; its state step carries nothing that is needed."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("its dtype has fields")


class _Array:
    """Stands for an array; the state step checks and keeps the bytes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = np.empty(0, np.uint8)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("its array has an unknown state")
        _, shape, dtype, column_major, raw = state
        sizes_known = isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int and n >= 0 for n in shape)
        if not sizes_known or not isinstance(dtype, _Dtype) or column_major or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("its array is not a plain table of bytes")
        if len(raw) != shape[0] * shape[1]:
            raise pickle.UnpicklingError("its array has another size than its shape says")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape)


_NDARRAY = _Inert()


class _MakeDtype(_Inert):
    __slots__ = ()

    def __call__(self, code: object, *_: object) -> _Dtype:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"its array is of type {code!r}, not of bytes")
        return _Dtype()


class _Reconstruct(_Inert):
    __slots__ = ()

    def __call__(self, kind: object, shape: object, code: object) -> _Array:
        if kind is not _NDARRAY or shape != (0,) or code not in ("b", b"b"):
            raise pickle.UnpicklingError("it makes an array in an unknown way")
        return _Array()


class _Encode(_Inert):
    """``_codecs.encode``, as Python 3 writes bytes at protocol 2."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError("it encodes text in an unknown way")
        return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], _Inert] = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _MakeDtype(),
    ("_codecs", "encode"): _Encode(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return found


def _load(path: Path) -> dict[str, Any]:
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except Exception as error:  # a broken pickle may raise nearly anything
        raise UserError(
            f"{path} is not an official CIFAR file: {error}. "
            "Unpack the official archive (or its binary version) again and point data.root to it."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a CIFAR file: it holds a {type(content).__name__}, not a dictionary.")
    return {_text(key): value.value if isinstance(value, _Array) else value for key, value in content.items()}


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def load_batch(path: Path | str) -> dict[str, Any]:
    """Read one CIFAR batch: an official pickle, or a ``.bin`` file of the binary version (of CIFAR-100 if it is
    called ``train.bin`` or ``test.bin``).

    Returns a dictionary with ``data``: uint8 (n, 3072), a row being 1024 red, 1024 green and 1024 blue values
    (``reshape(n, 3, 32, 32).transpose(0, 2, 3, 1)`` gives images); ``labels``: int64 (n,), for CIFAR-100
    ``fine_labels`` and ``coarse_labels`` beside (``labels`` are the fine ones); ``filenames``: list of str, empty for
    the binary version. Executes nothing that the file says. Raises ``UserError`` for any other content.
    """
    path = Path(path)
    if path.suffix == ".bin":
        return _load_binary(path)
    content = _load(path)
    data = content.get("data")
    if not isinstance(data, np.ndarray) or data.shape[1:] != (PIXELS,):
        raise UserError(f"{path} holds no table of images with {PIXELS} bytes a row: it is no CIFAR batch.")
    names = content.get("filenames")
    found: dict[str, Any] = {"data": data, "filenames": [_text(n) for n in names] if isinstance(names, list) else []}
    for key in ("labels", "fine_labels", "coarse_labels"):
        if key in content:
            found[key] = _labels(content[key], len(data), path, key)
    found.setdefault("labels", found.get("fine_labels"))
    if found["labels"] is None:
        raise UserError(f"{path} holds no labels: it is no CIFAR batch.")
    return found


def load_class_names(path: Path | str, key: str = "label_names") -> list[str]:
    """Names of the classes in order, from a ``.txt`` (a name a line) or the entry ``key`` of ``batches.meta`` or
    ``meta`` (pickles). Raises ``UserError``."""
    path = Path(path)
    if path.suffix == ".txt":
        try:
            return path.read_text("utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} holds no class names ({error}).") from error
    names = _load(path).get(key)
    if not isinstance(names, list) or not names:
        raise UserError(f"{path} holds no class names ({key}).")
    return [_text(name) for name in names]


def _labels(values: object, count: int, path: Path, key: str) -> np.ndarray:
    if not isinstance(values, list) or len(values) != count or any(type(v) is not int for v in values):
        raise UserError(f"{path}: {key} is not a list of {count} whole numbers.")
    labels = np.array(values, dtype=np.int64)
    if count and not 0 <= labels.min() <= labels.max() < 256:
        raise UserError(f"{path}: {key} holds a number that is no class.")
    return labels


def _load_binary(path: Path) -> dict[str, Any]:
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    hundred = path.stem in ("train", "test")
    record, kind = (RECORD_100, "CIFAR-100") if hundred else (RECORD, "CIFAR-10")
    if raw.size == 0 or raw.size % record:
        raise UserError(
            f"{path} has {raw.size} bytes, not a multiple of {record}: it is no {kind} file, or was cut short."
        )
    records = raw.reshape(-1, record)
    labels = records[:, : record - PIXELS].astype(np.int64)
    found: dict[str, Any] = {"data": records[:, -PIXELS:], "labels": labels[:, -1], "filenames": []}
    return found | ({"coarse_labels": labels[:, 0], "fine_labels": labels[:, 1]} if hundred else {})
