"""Freed memory is kept on a CPU, unless the environment says otherwise, and given back between stages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
SIZE = 64 << 20  # more than glibc would ever keep
CODE = f"""
import resource, torch
from dam.training.device import keep_freed_memory, return_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def pages_of_a_second_tensor():
    torch.ones({SIZE} // 4)
    before = faults()
    torch.ones({SIZE} // 4)
    return faults() - before

keep_freed_memory()
print(pages_of_a_second_tensor())
return_freed_memory()
before = faults()
torch.ones({SIZE} // 4)
print(faults() - before)
"""


@pytest.mark.parametrize("asked", [False, True])
def test_a_tensor_takes_the_pages_of_one_that_is_gone(asked: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    if asked:
        environment["MALLOC_ARENA_TEST"] = "8"  # anything that is said of malloc is left as it is
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    kept, returned = map(int, done.stdout.split())
    pages = SIZE // os.sysconf("SC_PAGE_SIZE")
    assert (kept > 0.9 * pages) if asked else (kept < 0.1 * pages)
    assert returned > 0.9 * pages
