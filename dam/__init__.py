"""dam: deep AUC maximization, from a config to a trustworthy report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dam.inference.run import LoadedRun, load_run

__version__ = "0.1.0"
__all__ = ["LoadedRun", "__version__", "load_run"]


def __getattr__(name: str) -> Any:
    # Lazily, so that `import dam` and the command line start without torch.
    if name in ("LoadedRun", "load_run"):
        from dam.inference import run

        return getattr(run, name)
    raise AttributeError(f"module 'dam' has no attribute {name!r}")
