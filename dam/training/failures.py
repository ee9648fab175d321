"""What went wrong on the machine, said in a sentence that names the way out."""

from __future__ import annotations

import errno
import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from dam.config import Config
from dam.config_checks import cross_faults
from dam.errors import UserError, in_a_line
from dam.training.rundir import RunDirectory, resume_command

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_FAILING = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV)
_NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "_ALLOC_FAILED", "std::bad_alloc")  # in RuntimeErrors


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the last checkpoint is older than that."""


class DiskFull(UserError):
    """Nothing more could be written; what was written before is whole."""


class DiskFails(UserError):
    """The disk of the run neither reads nor writes as it should."""


def explained(error: BaseException, cfg: Config, run: RunDirectory) -> BaseException:
    """``error`` itself, or the ``UserError`` that says what to do: memory, a full disk, a failing one, threads."""
    if isinstance(error, UserError):
        return error
    if is_out_of_memory(error):
        return UserError(memory_words(cfg, None))
    if isinstance(error, OSError) and error.errno in _FULL:
        return DiskFull(
            f"the disk that holds {run.path} is full; free some space, then go on with: {resume_command(run.path)}"
        )
    if isinstance(error, OSError) and error.errno in _FAILING:
        return DiskFails(
            f"the disk that holds {error.filename or run.path} fails ({error.strerror}); once it is well again, go on "
            f"with: {resume_command(run.path)}"
        )
    if is_lost_connection(error):
        return RuntimeError(
            "another process of this run ended or lost the connection (its own words stand elsewhere on the screen); "
            f"go on with the same number of processes, or another: {resume_command(run.path)}"
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return UserError(
            f"this system lets the process start no more threads: go on with fewer, {resume_command(run.path)} "
            f"workers={max(0, cfg.workers // 2)}, or raise its limit (ulimit -u)"
        )
    return error


@contextmanager
def of_its_stage(folder: Path) -> Iterator[None]:
    """Within, a checkpoint of ``folder`` is loaded: one that is whole and does not fit is a ``UserError``."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"the checkpoint in {folder} is none of this stage ({in_a_line(error)}): put back its own, or remove "
            "last.ckpt and previous.ckpt there, and the stage begins anew"
        ) from error


def is_lost_connection(error: BaseException) -> bool:
    """Whether an exchange failed that another process should have taken part in."""
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower() and not isinstance(error, UserError)
    )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory did not suffice, on CPU or GPU, here or in the thread that the error came from."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


def within_memory(step: Callable[[], None], attempt: Callable[[int], None], size: int, cfg: Config) -> None:
    """Do ``step``. If memory does not suffice, ``attempt`` finds the size of batch for which it does.

    ``size``: images of the step; ``attempt(n)`` computes n of them. Raises ``UserError`` with what to lower.
    """
    try:
        step()
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the activations
    raise UserError(memory_words(cfg, largest_fitting(attempt, size)))


def largest_fitting(attempt: Callable[[int], None], size: int) -> int | None:
    """The largest of ``size``/2, ``size``/4, ... (2 at least) for which ``attempt`` finds memory enough, or None."""
    while (size := size // 2) >= 2:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(size)
            return size
        except Exception as error:
            if not is_out_of_memory(error):
                return None  # an objective may want more images than that
            traceback.clear_frames(error.__traceback__)
    return None


def memory_words(cfg: Config, fits: int | None) -> str:
    """What to lower. ``fits``: a batch size, with the present ``accumulate``, that was tried and fits."""
    said = f"out of memory at batch_size={cfg.batch_size}, image_size={cfg.image_size}, accumulate={cfg.accumulate}: "
    if fits is None:
        return f"{said}lower batch_size or image_size{_or_accumulate(cfg, 2, ', or raise accumulate to ')}"
    parts = -(-cfg.batch_size // fits)
    return (
        f"{said}batch_size={fits} fits; set it{_or_accumulate(cfg, parts, ', or keep the batch and set accumulate=')}"
    )


def _or_accumulate(cfg: Config, times: int, words: str) -> str:
    """``words`` and the number of parts, where this batch can be computed in that many."""
    changed = replace(cfg, accumulate=cfg.accumulate * times)
    before = cross_faults(cfg)
    possible = 2 * changed.accumulate <= cfg.batch_size and cross_faults(changed) == before
    return f"{words}{changed.accumulate}" if possible else ""
