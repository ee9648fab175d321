"""What went wrong on the machine, said in a sentence that names the way out."""

from __future__ import annotations

import errno

import torch

from dam.config import Config
from dam.errors import UserError
from dam.training.rundir import RunDirectory, resume_command

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


class DiskFull(RuntimeError):
    """Nothing more could be written; what was written before is whole."""


def explained(error: BaseException, cfg: Config, run: RunDirectory) -> BaseException:
    """``error`` itself, or the sentence for it: memory (a ``UserError``, since a setting mends it) or a full disk."""
    if isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    ):
        return UserError(
            f"out of memory at batch_size={cfg.batch_size}, image_size={cfg.image_size}, accumulate={cfg.accumulate}: "
            "lower batch_size or image_size, or raise accumulate to compute the batch in parts"
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return DiskFull(
            f"the disk that holds {run.path} is full; free some space, then go on with: {resume_command(run.path)}"
        )
    return error
