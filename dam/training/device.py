"""Device, precision and memory format: what the config asks for against what this machine has."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import nn

from dam.config import Config
from dam.errors import UserError
from dam.models.backbones import is_convolutional
from dam.processes import place

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Device:
    """Where and how the tensors live. ``autocast_dtype`` None means plain float32."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    channels_last: bool | None  # None: choose by model

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> AbstractContextManager[None]:
        enabled = self.autocast_dtype is not None
        return torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=enabled)

    def layout(self, model: nn.Module) -> torch.memory_format:
        """How ``model`` and its images lie in memory."""
        chosen = is_convolutional(model) if self.channels_last is None else self.channels_last
        return torch.channels_last if chosen else torch.contiguous_format


def resolve(cfg: Config) -> Device:
    """Device, precision and memory format of ``cfg``. Raises ``UserError`` for what this machine lacks.

    On a CPU this process keeps the memory that it frees (``keep_freed_memory``).
    """
    device = _device(cfg.device)
    if device.type == "cpu":
        keep_freed_memory()
    precision = cfg.precision
    if precision == "auto":
        precision = (
            ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")
            if device.type == "cuda"
            else "fp32"
        )
    if precision == "fp16" and device.type != "cuda":
        raise UserError(f"precision=fp16 needs a CUDA device, not {device.type}; use precision=bf16 or fp32")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not cfg.deterministic
        torch.backends.cudnn.deterministic = cfg.deterministic
    deterministic = cfg.deterministic and device.type == "cuda"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix is multiplied
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    channels_last = None if cfg.memory_format == "auto" else cfg.memory_format == "channels_last"
    return Device(device, _DTYPES.get(precision), channels_last)


def keep_freed_memory() -> None:
    """Have glibc keep freed tensors for the next ones, unless the environment says otherwise (``MALLOC_...``).

    It gives those of over 32 MiB back to the kernel, which clears each page anew: a fifth of a float32 step of
    DenseNet-121 at batch 32 (``python -m benchmarks 5``).
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with _glibc() as library:
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Give back what is free now: the next stage's tensors have other sizes and would leave holes."""
    gc.collect()
    with _glibc() as library:
        library.malloc_trim(0)


@contextmanager
def _glibc() -> Iterator[ctypes.CDLL]:
    with suppress(AttributeError, OSError, TypeError):  # another C library
        yield ctypes.CDLL(None)


def _device(name: str) -> torch.device:
    if place().world > 1:
        return _own_device(name)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name} is no device; use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: torch finds no CUDA device here; use device=auto or device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA device(s), counted from 0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: torch finds no MPS device here; use device=auto or device=cpu")
    return device


def _own_device(name: str) -> torch.device:
    """The device of this process, one of several: the CUDA device of its number on the machine, or the CPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise UserError(f"device={name} with {place().world} processes: use device=cuda (each takes its own) or cpu")
    if place().local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {place().rank} would be number {place().local_rank + 1} on a machine with "
            f"{torch.cuda.device_count()} CUDA device(s): start one process a device"
        )
    device = torch.device("cuda", place().local_rank)
    torch.cuda.set_device(device)
    return device
