"""Where a run took place: versions, hardware, git state, command, seed. Written once to environment.json."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dam import __version__

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "scipy", "scikit-learn", "albumentations", "hydra-core",
             "pillow", "opencv-python-headless", "safetensors")  # fmt: skip


def describe(command: list[str], seed: int, device: str) -> dict[str, Any]:
    """The facts that another person needs to repeat the run; never raises."""
    return {
        "dam": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory(),
        "torch_threads": torch.get_num_threads(),
        "device": device,
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "git": _git(Path(__file__).resolve().parent),
        "seed": seed,
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python_executable": Path(sys.executable).name,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit and whether tracked files differ, of the checkout dam runs from; None when it is installed, also where it
    is within somebody else's repository."""
    try:
        if not _run(folder, "ls-files"):
            return None
        commit = _run(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_run(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _run(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return result.stdout.strip()
