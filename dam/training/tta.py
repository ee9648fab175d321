"""Test-time augmentation: the mean of a network's answers to several augmented copies of every image.

Copy c of an image is a function of the run's seed, c and the image's row, the same for every network of the run.
"""

from __future__ import annotations

import logging
import sys
import time
import zlib
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from dam.config import AugmentConfig, Config
from dam.data.loader import Batches
from dam.training.distributed import is_main
from dam.training.inputs import Inputs
from dam.training.module import Network, infer

log = logging.getLogger("dam")


def pipeline(cfg: Config) -> AugmentConfig:
    """The augmentation of the copies: ``tta.augment``, or the training pipeline."""
    return cfg.augment if cfg.tta.augment is None else cfg.tta.augment


def copies_seed(cfg: Config) -> int:
    """The seed of the copies' augmentation."""
    return int(np.random.SeedSequence([cfg.seed, zlib.crc32(b"tta")]).generate_state(1)[0])


def copies_of(cfg: Config, inputs: Inputs, rows: np.ndarray) -> Batches:
    """A loader of the augmented copies of ``rows``; a draw's pass number is the number of the copy."""
    inputs = replace(inputs, augment=pipeline(cfg), augment_on="cpu")  # where new images are augmented, too
    return inputs.loader(rows, inputs.table.labels, augment_seed=copies_seed(cfg))


class CopyMean:
    """The mean of answers to copies, fed one copy at a time; memory is that of one.

    ``average``: ``score``, the mean of sigmoids (as the papers do), given as its logit; or ``logit``, their mean. The
    mean of sigmoids is taken in logarithms, so that no saturated one becomes infinite.
    """

    def __init__(self, average: str) -> None:
        self.average = average
        self.copies = 0
        self._total = self._positive = self._negative = np.zeros(0)

    def add(self, logits: np.ndarray) -> None:
        """One copy's logits, float64, any shape, the same for every copy."""
        self.copies += 1
        if self.copies == 1:
            self._total, self._positive = logits, -np.logaddexp(0, -logits)
            self._negative = -np.logaddexp(0, logits)
            return
        self._total = self._total + logits
        self._positive = np.logaddexp(self._positive, -np.logaddexp(0, -logits))
        self._negative = np.logaddexp(self._negative, -np.logaddexp(0, logits))

    def logits(self) -> np.ndarray:
        """The mean over the copies so far, as logits."""
        mean: np.ndarray = self._total / self.copies if self.average == "logit" else self._positive - self._negative
        return mean


def averaged(
    network: Network, loader: Batches, count: int, batch_size: int, copies: int, average: str, title: str = "tta"
) -> np.ndarray:
    """Logits of ``count`` rows, float64 (count, K), averaged (``CopyMean``) over ``copies`` passes of ``loader``."""
    began, mean = time.perf_counter(), CopyMean(average)
    quiet = not (is_main() and sys.stderr.isatty())
    for copy in tqdm(range(copies), desc=title, unit="copy", leave=False, disable=quiet):
        mean.add(infer(network, loader, count, batch_size, copy))
    log.info("%s: %d copies of %d images, %.0f s", title, copies, count, time.perf_counter() - began)
    return mean.logits()
