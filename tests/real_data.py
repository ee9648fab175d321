"""Where the real data packs are, for tests that need them."""

from __future__ import annotations

import functools
import os
import tarfile
import tempfile
from pathlib import Path


def packs() -> Path:
    return Path(os.environ["DAM_REAL_DATA"])


@functools.cache
def cifar10_folder() -> Path:
    """The folder of the official python files; unpacked to a temporary folder where only the archive is there."""
    name = "cifar-10-batches-py"
    for folder in (packs() / name, packs() / "cifar10" / name):
        if folder.is_dir():
            return folder
    target = Path(tempfile.mkdtemp(prefix="dam-cifar10-"))
    with tarfile.open(packs() / "cifar10" / f"{name}.tar.xz") as archive:
        archive.extractall(target, filter="data")
    return target / name
