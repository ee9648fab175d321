"""How much frozen features are worth: classifiers fitted on labelled training images, judged on validation."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from dam.config import ProbeConfig
from dam.training.inputs import Inputs
from dam.training.metrics import label_auc
from dam.training.module import Network, infer

TEMPERATURE = 0.1  # of the neighbours' votes, exp(cosine / T), as in MoCo's demonstration on CIFAR-10
_BLOCK = 512  # rows whose similarities are held at a time


@dataclass(frozen=True)
class Probed:
    """Mean AUC over the labels, of the linear and of the nearest-neighbour classifier (``aucs``: of the linear one,
    label by label), and the linear one's accuracy, NaN where the labels are no classes."""

    auc: float = math.nan
    knn_auc: float = math.nan
    accuracy: float = math.nan
    aucs: tuple[float, ...] = ()


class Probe:
    """Features of at most ``cfg.images`` labelled training rows, drawn once from ``seed``, and of the labelled
    validation rows. ``usable`` is False where either lacks a class of every label; then nothing is measured."""

    def __init__(self, inputs: Inputs, cfg: ProbeConfig, batch_size: int, seed: int) -> None:
        self.labels = inputs.table.labels
        self._cfg, self._batch_size = cfg, batch_size
        known = inputs.known("train", self.labels) if self.labels else np.zeros(0, np.int64)
        if len(known) > cfg.images:
            generator = np.random.default_rng([seed, zlib.crc32(b"probe")])
            known = np.sort(generator.choice(known, cfg.images, replace=False))
        self.rows = known
        self.val_rows = inputs.known("val", self.labels) if self.labels else known
        self._targets = inputs.targets(self.rows, self.labels)
        self._val_targets = inputs.targets(self.val_rows, self.labels)
        self._loader = inputs.loader(self.rows, self.labels)
        self._val_loader = inputs.loader(self.val_rows, self.labels)
        both = [has_both(a) & has_both(b) for a, b in zip(self._targets.T, self._val_targets.T, strict=True)]
        self.usable = any(both)

    def measure(self, network: Network) -> Probed:
        """The features' worth now."""
        if not self.usable:
            return Probed()
        features = infer(network, self._loader, len(self.rows), 2 * self._batch_size)
        val = infer(network, self._val_loader, len(self.val_rows), 2 * self._batch_size)
        if not (np.isfinite(features).all() and np.isfinite(val).all()):
            return Probed()
        scores = ridge_scores(features, self._targets, val, self._cfg.ridge)
        neighbours = min(self._cfg.neighbours, max(1, len(features) // 10))
        votes = knn_scores(features, self._targets, val, neighbours)
        aucs = [label_auc(y, s) for y, s in zip(self._val_targets.T, scores.T, strict=True)]
        knn = [label_auc(y, s) for y, s in zip(self._val_targets.T, votes.T, strict=True)]
        return Probed(mean(aucs), mean(knn), accuracy(self._val_targets, scores), tuple(aucs))


def ridge_scores(features: np.ndarray, targets: np.ndarray, others: np.ndarray, ridge: float) -> np.ndarray:
    """Least-squares predictions (m, K) for ``others`` (m, d) of targets (n, K; NaN unknown) from ``features`` (n, d),
    standardized; the squared weights are penalized by ``ridge`` variances of a feature. 0 where nothing is known."""
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread < 1e-12] = 1.0
    x, z = (features - centre) / spread, (others - centre) / spread
    scores = np.zeros((len(others), targets.shape[1]))
    for k, target in enumerate(targets.T):
        known = ~np.isnan(target)
        if not known.any():
            continue
        inside = x[known]
        middle, y = inside.mean(axis=0), target[known].astype(np.float64)
        inside = inside - middle
        gram = inside.T @ inside / len(inside) + ridge * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, inside.T @ (y - y.mean()) / len(inside))
        scores[:, k] = (z - middle) @ weights + y.mean()
    return scores


def knn_scores(features: np.ndarray, targets: np.ndarray, others: np.ndarray, neighbours: int) -> np.ndarray:
    """Share of positives (m, K) among each of ``others``' nearest ``features`` by cosine, weighted by
    exp(cosine / T) (Wu et al. 2018, arXiv 1805.01978); of each label's known targets. 0 where nothing is known."""
    x, z = _unit(features), _unit(others)
    scores = np.zeros((len(others), targets.shape[1]))
    for k, target in enumerate(targets.T):
        known = np.flatnonzero(~np.isnan(target))
        if not len(known):
            continue
        count = min(neighbours, len(known))
        for start in range(0, len(z), _BLOCK):
            near = z[start : start + _BLOCK] @ x[known].T
            nearest = np.argpartition(-near, count - 1, axis=1)[:, :count]
            weights = np.exp((np.take_along_axis(near, nearest, axis=1) - 1) / TEMPERATURE)
            votes = target[known][nearest]
            scores[start : start + _BLOCK, k] = (weights * votes).sum(axis=1) / weights.sum(axis=1)
    return scores


def accuracy(targets: np.ndarray, scores: np.ndarray) -> float:
    """Share of rows put into their class: of one label at one half, of labels of which every row has exactly one by
    the largest score; NaN otherwise."""
    known = ~np.isnan(targets).any(axis=1)
    y, s = targets[known] >= 0.5, scores[known]
    if not len(y):
        return math.nan
    if y.shape[1] == 1:
        return float((y == (s >= 0.5)).mean())
    return float((y.argmax(axis=1) == s.argmax(axis=1)).mean()) if (y.sum(axis=1) == 1).all() else math.nan


def has_both(target: np.ndarray) -> bool:
    """Whether a label's known targets hold both classes."""
    known = target[~np.isnan(target)]
    return bool((known >= 0.5).any() and (known < 0.5).any())


def mean(values: list[float]) -> float:
    """Of those that are defined."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(lengths, 1e-12)
    return unit
