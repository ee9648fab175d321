"""What the machine is, in generic words, and which versions were measured. Never a host's name."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

_PACKAGES = ("dam", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "opencv-python-headless",
             "albumentations", "pillow", "pandas", "torchmetrics", "libauc")  # fmt: skip
_VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd")


def kind(device: str = "cpu") -> str:
    """As ``cpu-2-cores-avx512`` or ``cuda-h200``: the name of the results' files."""
    if device == "cuda":
        import torch

        name = re.sub(r"(nvidia|geforce|tesla|amd|instinct)", "", torch.cuda.get_device_name().lower())
        return "cuda-" + re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    cores = len(os.sched_getaffinity(0))
    vector = next((name for name in ("avx512f", "avx2", "asimd") if name in _flags()), platform.machine())
    return f"cpu-{cores}-cores-{vector.removesuffix('f') if vector == 'avx512f' else vector}"


def versions() -> dict[str, str]:
    """Python, and every package here that is installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def facts() -> dict[str, str]:
    """Processor, cores, vector units, memory."""
    model = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model.group(1).strip() if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "vector units": ", ".join(name for name in _VECTORS if name in _flags()),
        "memory": f"{memory:.0f} GiB",
    }


def has_bf16() -> bool:
    """Whether bf16 products are done by the processor's own units."""
    return bool(_flags() & {"amx_bf16", "avx512_bf16"})


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _flags() -> set[str]:
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return set(found.group(1).split()) if found else set()
