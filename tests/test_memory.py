"""Freed memory is kept on a CPU, unless the environment says otherwise, and given back between stages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from dam import memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
SIZE, COUNT = 40 << 20, 8  # tensors larger than any that glibc would keep
CODE = f"""
import resource, torch
from dam.memory import keep_freed, return_freed

def pages_cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones({SIZE} // 4) for _ in range({COUNT})]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed()
print([pages_cleared() for _ in range(6)][-1])
return_freed()
print(pages_cleared())
"""


@pytest.mark.parametrize(
    ("said", "keeps"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "2"}, True),  # of other things
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"}, False),
    ],
)
def test_tensors_take_the_pages_of_those_that_are_gone(said: dict[str, str], keeps: bool) -> None:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    environment = ours | said
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    kept, returned = map(int, done.stdout.split())
    pages = COUNT * SIZE // os.sysconf("SC_PAGE_SIZE")
    assert (kept < 0.3 * pages) if keeps else (kept > 0.9 * pages)
    assert returned > 0.9 * pages


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: None) -> None:
        raise TypeError("as on Windows")

    monkeypatch.setattr("ctypes.CDLL", none)
    memory.keep_freed()
    memory.return_freed()
