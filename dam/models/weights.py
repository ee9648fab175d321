"""The tensors of a weights file, read without executing anything that the file holds.

``read_content`` opens safetensors and every format of ``torch.save``; what a checkpoint holds beside tensors (settings,
numpy scalars, whole modules) becomes inert stand-ins (``weights_pickles``). ``find_file`` says which file of a run
directory is meant.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dam.errors import UserError, in_a_line
from dam.models import weights_pickles

MEMBER = "::"  # FILE::PREFIX chooses one of several networks in a file
_SOURCES = ("warm_start", "pretrain", "auc/joint")  # of a run directory, the first that it has
_BEST = "best.safetensors"
_ENSEMBLE = "ensemble.json"
_NO_WEIGHTS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the weights: fetch them with `git lfs pull`"),
    (b"<", "it is a web page or XML, not the weights: download the file itself"),
)


@dataclass(frozen=True)
class Content:
    """What a file holds: plain values, tensors and stand-ins. ``stood_in`` names the classes that were not loaded."""

    path: Path
    form: str
    sha256: str
    size: int
    tree: Any
    stood_in: tuple[str, ...] = ()
    run: Path | None = None


def split_member(text: str) -> tuple[Path, str | None]:
    """``FILE::PREFIX`` as path and prefix; ``~`` is the home directory."""
    path, _, prefix = text.partition(MEMBER)
    if not path or (prefix and Path(text).exists()):
        path, prefix = text, ""
    return Path(path).expanduser(), prefix or None


def find_file(path: Path) -> tuple[Path, Path | None]:
    """The file that ``model.weights`` means, and the run directory it lies in (None for a plain file).

    Of a run: the warm start's best weights, else a pretraining run's encoder, else a joint model's. Raises
    ``UserError`` where there is none, or where it is a link that leads out of the run.
    """
    try:
        if path.is_file():
            return path, _run_of(path)
        is_folder = path.is_dir()
    except OSError as error:
        raise UserError(f"model.weights={path} cannot be opened ({in_a_line(error)})") from error
    if path.is_symlink() and not is_folder:
        raise UserError(f"model.weights: {path} is a link that leads to no file; give the file itself")
    if not is_folder:
        what = f"{path} is no regular file" if path.exists() else f"there is no file {path}"
        raise UserError(f"model.weights: {what}; give a local file, a run directory, `timm`, or null")
    found = next((path / source / _BEST for source in _SOURCES if (path / source / _BEST).is_file()), None)
    if found is None and (path / _BEST).is_file():
        found = path / _BEST
    if found is None:
        if (path / _ENSEMBLE).is_file():
            raise UserError(f"model.weights={path} is an ensemble: give one of its members, which {_ENSEMBLE} names")
        some = sorted(file for depth in ("", "*/", "*/*/") for file in path.glob(f"{depth}*.safetensors"))
        way = f"name one of its files, such as {some[0]}" if some else "give a weights file or a finished run"
        raise UserError(f"model.weights={path} has no {', '.join(f'{source}/{_BEST}' for source in _SOURCES)}: {way}")
    if not found.resolve().is_relative_to(path.resolve()):
        raise UserError(f"model.weights: {found} is a link that leads out of the run; name the file it leads to")
    return found, path


def _run_of(path: Path) -> Path | None:
    """The run directory that a stage's weights lie in."""
    above = list(path.parents)[1:4] if path.name in (_BEST, "last.safetensors") else []
    return next((folder for folder in above if (folder / "config.yaml").is_file()), None)


def read_content(text: str | Path) -> Content:
    """Open ``model.weights=TEXT`` (a file or a run directory; without the ``::PREFIX``).

    Raises ``UserError`` if it is missing, empty, damaged, larger than it says, or holds what cannot be read safely.
    """
    path, run = find_file(Path(text))
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path} cannot be loaded: it is empty (0 bytes); it was cut off, so copy it again")
    with open(path, "rb") as file:
        head = file.read(64)
    is_safetensors = head[8:9] == b"{"
    for start, sentence in _NO_WEIGHTS:
        if head.startswith(start) and not is_safetensors:
            raise UserError(f"{path} cannot be loaded: {sentence}")
    if path.suffix == ".safetensors" or is_safetensors:
        opened: tuple[str, Any, tuple[str, ...]] = ("safetensors", _read_safetensors(path), ())
    else:
        opened = weights_pickles.read(path, head)
    form, tree, stood_in = opened
    return Content(path, form, _sha256(path), size, tree, stood_in, run)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
        return state
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({in_a_line(error)}); it may be damaged: copy it again"
        ) from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
