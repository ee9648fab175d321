"""``torch.save`` files that were made by others: sizes first, then tensors; everything else becomes a stand-in.

A checkpoint often holds more than tensors (the settings it was trained with, a numpy scalar, a whole module). torch's
``weights_only`` reader refuses such files. It also lets a *name* be mapped to a class of our choice: here to ``Inert``,
which keeps what it is given and does nothing. No code that a file names is ever imported or called, and only names of
the packages in ``_HARMLESS`` are mapped; anything else, such as ``os.system``, ends in a refusal that names it.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dam.errors import UserError, in_a_line, printable
from dam.models import weights_legacy

# Packages whose classes stand in a checkpoint as settings, counters, callbacks or network graphs.
_HARMLESS = (
    "argparse.Namespace",
    "collections.defaultdict",
    "pathlib.",
    "numpy.",
    "torch.nn.",
    "torchvision.",
    "torchxrayvision.",
    "timm.",
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
    "lightly.",
    "omegaconf.",
)
_MOST_NAMES = 200
_LONGEST = 100  # characters of a name in a sentence
_MOST_GROWTH = 10  # a compressed archive may unpack to this many times its size; torch.save does not compress
_ZIP = b"PK\x03\x04"
_WAY_OUT = (
    "load it where you trust it, keep its tensors, and save them with safetensors.torch.save_file (docs/weights.md has "
    "the line)"
)


class Inert:
    """Stands for an object of a class that is not loaded. It stores what it is given and does nothing."""

    stands_for = ""  # the class, of each subclass
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Inert:
        self = super().__new__(cls)
        self.args, self.state = args, None  # here, for a pickle need not call __init__
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read(path: Path, head: bytes) -> tuple[str, Any, tuple[str, ...]]:
    """(format, content, names that stand-ins were used for) of a file of ``torch.save``. Raises ``UserError``."""
    zipped = head.startswith(_ZIP)
    if zipped:
        check_archive(path)
    names = dict.fromkeys(_foreign_names(path)) if zipped else {}
    for name in names:
        _check_harmless(path, name)
    source: Any = path
    while True:
        stand_ins = [(type("Inert", (Inert,), {"stands_for": name}), name) for name in names]
        whole = [(weights_legacy.class_of, weights_legacy.CALL)] if source is not path else []
        try:
            with torch.serialization.safe_globals([*stand_ins, *whole]):
                content = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for damaged or unsafe pickles
            if source is path and weights_legacy.is_whole_module(error):
                source = _rewritten(path)
                continue
            if source is not path:
                source.seek(0)
            asked = _named(error)
            if asked is None or asked in names or len(names) >= _MOST_NAMES:
                raise _refusal(path, why_not_loaded(error)) from error
            _check_harmless(path, asked)
            names[asked] = None
            continue
        _check_sizes(path, content)
        return ("torch.save" if zipped else "torch.save (before 1.6)"), content, tuple(names)


def why_not_loaded(error: Exception) -> str:
    """Why ``torch.load(weights_only=True)`` refused a file, without torch's advice to load it all the same."""
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]+)", text)
    if named:
        return f"it asks for {named[1]}, which no tensor needs"
    if "weights only load failed" in text.lower() or "weights_only" in text:
        return "it holds more than tensors and plain values, or is damaged"
    if "inline_container" in text or "hasRecord" in text:
        return "it is an archive of another kind"
    if isinstance(error, EOFError):
        return "it is empty or cut off"
    return "it is no file of torch.save" if isinstance(error, LookupError) else in_a_line(error)


def _rewritten(path: Path) -> io.BytesIO:
    try:
        return weights_legacy.rewritten(path)
    except Exception as error:  # what pickletools says of a damaged pickle
        raise _refusal(path, why_not_loaded(error)) from error


def check_archive(path: Path) -> None:
    """Refuse an archive that is cut off, damaged, or unpacks to far more than its size. Raises ``UserError``."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            total = sum(record.file_size for record in records)
            if total > _MOST_GROWTH * size:
                raise UserError(
                    f"{path} cannot be loaded safely: its {size:,} bytes unpack to {total:,}, which torch.save never "
                    "makes; download the original file"
                )
            if any("/code/" in record.filename for record in records):
                raise UserError(f"{path} cannot be loaded safely: it is a TorchScript program, not weights; {_WAY_OUT}")
            broken = archive.testzip()  # torch.load does not check the checksums that torch.save writes
    except UserError:
        raise
    except Exception as error:  # a damaged archive, an unknown compression, a password
        raise UserError(
            f"{path} cannot be loaded safely: it is damaged or cut off ({in_a_line(error)}); copy it again"
        ) from error
    if broken is not None:
        raise UserError(f"{path} cannot be loaded safely: it is damaged (the checksum of {broken}); copy it again")


def module_tensors(module: Inert) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a whole module of which every class is a stand-in, as its ``state_dict`` had them.

    A module that stands in several places is walked once: of a few that hold one another, a file makes any number.
    """
    waiting, seen = [("", module)], {id(module)}
    while waiting:
        prefix, node = waiting.pop()
        yield from _own_tensors(node, prefix)
        children = [(name, child) for name, child in _entries(node, "_modules") if isinstance(child, Inert)]
        fresh = [(f"{prefix}{name}.", child) for name, child in children if id(child) not in seen]
        seen |= {id(child) for _, child in fresh}
        waiting += reversed(fresh)


def _own_tensors(node: Inert, prefix: str) -> Iterator[tuple[str, Tensor]]:
    passing = node.state.get("_non_persistent_buffers_set") if isinstance(node.state, dict) else None
    transient = passing if isinstance(passing, set) else ()
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _entries(node, kind):
            if isinstance(tensor, Tensor) and not (kind == "_buffers" and name in transient):
                yield f"{prefix}{name}", tensor.detach()


def _entries(node: Inert, kind: str) -> list[tuple[Any, Any]]:
    """The items of a mapping in a module's state. ``dict.items``, for a pickle may give an OrderedDict another."""
    entries = dict.get(node.state, kind) if isinstance(node.state, dict) else None
    return list(dict.items(entries)) if isinstance(entries, dict) else []


def _foreign_names(path: Path) -> list[str]:
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # what is wrong with the file is said when it is loaded
        return []


def _named(error: Exception) -> str | None:
    found = re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error))
    return found[1] if found else None


def _check_harmless(path: Path, name: str) -> None:
    if not name.startswith(_HARMLESS) or not re.fullmatch(r"[\w.]+", name):
        raise _refusal(path, f"it asks for {printable(name[:_LONGEST])}, which no tensor needs")


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be loaded safely ({reason}). It is damaged or holds more than tensors and plain values; "
        f"{_WAY_OUT}"
    )


def _check_sizes(path: Path, content: Any) -> None:
    """Refuse tensors that claim more memory than the file holds (a pickle may say any size)."""
    limit = _MOST_GROWTH * path.stat().st_size
    seen: dict[int, int] = {}
    for tensor in _tensors(content):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    if sum(seen.values()) > limit:
        raise UserError(
            f"{path} cannot be loaded safely: its tensors claim {sum(seen.values()):,} bytes, more than the file "
            "holds; download the original file"
        )


def _tensors(content: Any) -> Iterator[Tensor]:
    """All that hold memory, each once: lists that hold one another twice are walked in no other way."""
    waiting, seen = [content], {id(content)}
    while waiting:
        node = waiting.pop()
        inner: Any = ()
        if isinstance(node, Tensor):
            if node.layout == torch.strided and not node.is_quantized and not node.is_meta:
                yield node
        elif isinstance(node, dict):
            inner = dict.values(node)
        elif isinstance(node, list | tuple):
            inner = node
        elif isinstance(node, Inert):
            inner = (node.args, node.state)
        fresh = [value for value in inner if id(value) not in seen]
        seen |= set(map(id, fresh))
        waiting += fresh
