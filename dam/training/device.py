"""Device, precision and memory format: what the config asks for against what this machine has."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from dam.config import Config
from dam.errors import UserError
from dam.models.backbones import is_convolutional
from dam.processes import place

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
    """Device, precision and memory format of ``cfg``. Raises ``UserError`` for what this machine lacks."""
    device = _device(cfg.device)
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
