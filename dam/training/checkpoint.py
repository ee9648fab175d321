"""Checkpoints that survive a power cut, and slim weights; neither can execute code when read."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for anything but tensors and plain values
from typing import Any

import torch
from torch import Tensor, nn

from dam.errors import UserError, in_a_line
from dam.files import atomic_write_bytes
from dam.models.weights import why_not_loaded

log = logging.getLogger("dam")

NEWEST, BEFORE = "last.ckpt", "previous.ckpt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) as the newest checkpoint; the one before is kept beside it."""
    newest, before = folder / NEWEST, folder / BEFORE
    buffer = io.BytesIO()  # so that a full disk is an OSError
    torch.save(state, buffer)
    atomic_write_bytes(folder / "next.ckpt", buffer.getbuffer())
    if newest.exists():
        newest.replace(before)
    (folder / "next.ckpt").replace(newest)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest usable checkpoint of a stage, or None; a damaged or unsafe one is named in the log."""
    for name in (NEWEST, BEFORE):
        path = folder / name
        if not path.exists():
            continue
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load does not check the CRCs that torch.save writes
                broken = archive.testzip()
            if broken is None:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return state
            reason = f"checksum of {broken}"
        except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
            reason = why_not_loaded(error)
        log.warning("checkpoint %s cannot be used (%s); trying the one before", path, reason)
    return None


def remove(folder: Path) -> None:
    """Delete what only resume needs."""
    for name in (NEWEST, BEFORE, "next.ckpt"):
        (folder / name).unlink(missing_ok=True)


def save_weights(path: Path, model: nn.Module) -> None:
    """Slim, contiguous safetensors without metadata, so that equal weights are equal files."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    atomic_write_bytes(path, save(state))  # save_file would leave a file that only its owner can read


def load_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises ``UserError`` if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
        return state
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the weights {path} cannot be read ({in_a_line(error)}): put back a copy of the file, or train anew"
        ) from error
