"""Checkpoints that survive a power cut and are written beside training, and slim weights; neither can execute code
when read."""

from __future__ import annotations

import errno
import io
import logging
import os
import zipfile
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for anything but tensors and plain values
from typing import Any

import torch
from torch import Tensor, nn

from dam.errors import UserError, in_a_line
from dam.files import atomic_write_bytes
from dam.models.weights_pickles import why_not_loaded

log = logging.getLogger("dam")

NEWEST, BEFORE, NEXT = "last.ckpt", "previous.ckpt", "next.ckpt"


class Writer:
    """Writes the checkpoints of one stage beside its training.

    ``save`` copies the state to CPU memory and returns; one thread writes the copy and reads it back. At most one is
    under way. One that cannot be written, for lack of space or a failing disk, is a warning: training goes on with the
    checkpoint before it, and the next one is tried at its time. ``close`` waits for what is under way.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dam-checkpoint")
        self._pending: Future[None] | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Begin to write ``state`` (tensors and plain values, with its ``step``); waits for the one before."""
        self.wait()
        self._pending = self._thread.submit(_save_or_warn, self._folder, copied(state))

    def wait(self) -> None:
        """Until nothing is being written. Raises what no full disk explains."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def copied(state: Any) -> Any:
    """Tensors copied to CPU memory, lists, tuples and mappings copied, anything else as it is."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(value) for value in state)
    return state


def _save_or_warn(folder: Path, state: dict[str, Any]) -> None:
    try:
        save(folder, state)
    except OSError as error:
        log.warning(
            "the checkpoint of step %s could not be written in %s (%s): training goes on, a stop now would cost the "
            "steps since the checkpoint before; make room, and the next one is written at its time",
            *(state.get("step"), folder, error.strerror or error),
        )


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` as the newest checkpoint, read it back, and only then let it take the place of the one before,
    which stays beside it. Raises ``OSError`` if the disk does not take it or does not give it back."""
    newest, before, fresh = folder / NEWEST, folder / BEFORE, folder / NEXT
    buffer = io.BytesIO()  # so that a full disk is an OSError
    torch.save(state, buffer)
    try:
        atomic_write_bytes(fresh, buffer.getbuffer())
        _read_back(fresh)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    if newest.exists():
        newest.replace(before)
    fresh.replace(newest)


def _read_back(path: Path) -> None:
    if hasattr(os, "posix_fadvise"):  # what was flushed leaves the cache, so that the disk is asked
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    if (broken := _broken(path)) is not None:
        raise OSError(errno.EIO, f"read back, the checksum of {broken} is wrong", str(path))


def _broken(path: Path) -> str | None:
    """The first record whose checksum is wrong; torch writes CRCs and does not look at them when it reads."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, zlib.error) as error:
        return in_a_line(error)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest usable checkpoint of a stage, or None; a damaged or unsafe one is named in the log."""
    for name, otherwise in ((NEWEST, "trying the one before"), (BEFORE, "the stage begins anew")):
        path = folder / name
        if not path.exists():
            continue
        try:
            broken = _broken(path)
            if broken is None:
                state: Any = torch.load(path, map_location="cpu", weights_only=True)
                if isinstance(state, dict) and "step" in state:
                    return state
            reason = "it is no checkpoint of a stage" if broken is None else f"checksum of {broken}"
        except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
            reason = why_not_loaded(error)
        log.warning("checkpoint %s cannot be used (%s); %s", path, reason, otherwise)
    return None


def remove(folder: Path) -> None:
    """Delete what only resume needs."""
    for name in (NEWEST, BEFORE, NEXT):
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
