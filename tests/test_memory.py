"""Freed memory is kept on a CPU, unless the environment says otherwise, and given back between stages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
SIZE, COUNT = 40 << 20, 8  # tensors larger than any that glibc would keep
CODE = f"""
import resource, torch
from dam.training.device import keep_freed_memory, return_freed_memory

def pages_cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones({SIZE} // 4) for _ in range({COUNT})]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print([pages_cleared() for _ in range(6)][-1])
return_freed_memory()
print(pages_cleared())
"""


@pytest.mark.parametrize("asked", [False, True])
def test_tensors_take_the_pages_of_those_that_are_gone(asked: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    if asked:
        environment["MALLOC_ARENA_TEST"] = "8"  # anything that is said of malloc is left as it is
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    kept, returned = map(int, done.stdout.split())
    pages = COUNT * SIZE // os.sysconf("SC_PAGE_SIZE")
    assert (kept > 0.9 * pages) if asked else (kept < 0.3 * pages)
    assert returned > 0.9 * pages
