"""What this process does with freed memory on a CPU: glibc's malloc, told to keep it. Nothing happens elsewhere.

Only commands call this: how a user's own Python process keeps its memory is not dam's to say.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_SAID = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed() -> None:
    """Keep freed tensors for the next ones, unless the environment (``MALLOC_...``, ``GLIBC_TUNABLES``) says otherwise.

    As it is, glibc gives those of over 32 MiB back to the kernel, which clears each page anew: a quarter of a float32
    step of DenseNet-121 at batch 32 (``python -m benchmarks 5``).
    """
    library = _glibc()
    if library is None or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(map(os.environ.get, _SAID)):
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)


def return_freed() -> None:
    """Give back what is free now: the next stage's tensors have other sizes and would leave holes."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # TypeError: Windows
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
