"""Trackers beside metrics.csv. A tracker is never the store of record and its failure never stops training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dam.config import TrackingConfig
from dam.errors import UserError
from dam.training.distributed import is_main

log = logging.getLogger("dam")


class Tracker(Protocol):
    """What a tracker must offer; add one by writing these three methods and a line in ``make_trackers``."""

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None: ...

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files under ``<run>/tensorboard``; needs the extra ``tensorboard``."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                'tracking.tensorboard=true needs TensorBoard: pip install "dam[tensorboard]", or set it to false'
            ) from error
        self._make = SummaryWriter
        self._writer: Any = None

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self._writer = self._make(log_dir=str(run_dir / "tensorboard"))
        self._writer.add_text("config", "```\n" + "\n".join(f"{k}: {v}" for k, v in config.items()) + "\n```")

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Trackers:
    """All trackers of a run as one; the first failure of a tracker is logged and that tracker is dropped."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self._each("start", run_dir, config)

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._each("log", stage, step, values)

    def close(self) -> None:
        self._each("close")

    def _each(self, method: str, *arguments: Any) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # whatever a third party's tracker raises
                log.warning("%s failed and is switched off: %s", type(tracker).__name__, error)
                self._trackers.remove(tracker)


def make_trackers(cfg: TrackingConfig) -> Trackers:
    """The trackers the config asks for, of the process that writes. Raises ``UserError`` if one is not installed."""
    return Trackers([TensorBoard()] if cfg.tensorboard and is_main() else [])
