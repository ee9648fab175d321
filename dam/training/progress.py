"""What a person sees while a stage trains: a bar on a terminal, plain lines elsewhere; all of it in train.log."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from dam.training.distributed import is_main

log = logging.getLogger("dam")

_EVERY_SECONDS = 0.5


class Progress:
    """Bar of one stage. ``show`` may read the loss from the device, so it is asked for at most twice a second."""

    def __init__(self, title: str, total: int, initial: int) -> None:
        self._terminal = sys.stderr.isatty() and is_main()
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=title,
            unit="step",
            disable=not self._terminal,
            leave=False,
            dynamic_ncols=True,
        )
        self._images = self.made = 0
        self._began = time.perf_counter()
        self._shown = 0.0
        self._auc = ""

    def due(self) -> bool:
        return self._terminal and time.perf_counter() - self._shown > _EVERY_SECONDS

    def step(self, images: int) -> None:
        self._images += images
        self.made += 1
        self._bar.update(1)

    def show(self, loss: float) -> None:
        self._shown = time.perf_counter()
        self._bar.set_postfix_str(f"loss {loss:.4f}{self._auc}, {self.rate():.0f} images/s")

    def evaluated(self, auc: float) -> None:
        self._auc = f", val AUC {auc:.4f}"

    def rate(self) -> float:
        """Images a second since the stage began or was taken up again, evaluations included."""
        return self._images / max(1e-9, self.seconds())

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def close(self) -> None:
        self._bar.close()


class _LogFile(logging.FileHandler):
    """train.log. A line that a full disk does not take is lost; the screen has it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # what was not taken before is not taken now
            super().close()


class _TqdmHandler(logging.Handler):
    """Log lines above the bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def attach_log(path: Path, quiet: bool = False) -> list[logging.Handler]:
    """Send the ``dam`` logger to ``path`` and to the screen; give the handlers to ``detach_log``."""
    handlers: list[logging.Handler] = [_LogFile(path, encoding="utf-8")]
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if not quiet:
        handlers.append(_TqdmHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    return handlers


def detach_log(handlers: list[logging.Handler]) -> None:
    for handler in handlers:
        log.removeHandler(handler)
        handler.close()
