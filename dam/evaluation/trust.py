"""Question-answer trust of answers with a confidence (Wong, Wang, Hryniowski, arXiv 2009.05835).

Trust of an answer y to a question whose right answer (oracle) is z, given with confidence C: C^alpha where y = z,
(1 - C)^beta where not. The trust spectrum T(z) is its mean over the questions with oracle z, so it has one value a
class; the trust density is its distribution there; NetTrustScore is the spectrum's mean weighted by how often z occurs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from dam.evaluation.auc import Array, known_targets


@dataclass(frozen=True)
class BinaryTrust:
    """Trust of one set of binary answers; NaN where a group is empty."""

    positive: float  # T(1), over the cases whose reference standard is positive
    negative: float  # T(0)
    net: float
    correct: float  # mean over the right answers
    wrong: float  # mean over the wrong ones
    trusts: Array  # (n,) of each known case
    targets: Array  # (n,)

    @property
    def trusted_less(self) -> str:
        """The class of lower trust: "positive", "negative", "equal", or "" where a class is absent."""
        if math.isnan(self.positive) or math.isnan(self.negative):
            return ""
        if math.isclose(self.positive, self.negative, rel_tol=0, abs_tol=1e-12):
            return "equal"
        return "positive" if self.positive < self.negative else "negative"


@dataclass(frozen=True)
class ClassTrust:
    """Trust of answers with C classes."""

    trusts: Array  # (n,)
    spectrum: Array  # (C,) T(z), NaN for a class that is never the oracle
    net: float
    matrix: Array  # (C, C) mean trust, rows = answer, columns = oracle; NaN in empty cells


def binary_trust(
    targets: ArrayLike,
    probabilities: ArrayLike,
    threshold: float = 0.5,
    alpha: float = 1.0,
    beta: float = 1.0,
    answers: ArrayLike | None = None,
) -> BinaryTrust:
    """Trust of the answers p >= threshold, with the confidence of the answer that is given: p, or 1 - p.

    Args: targets (N,) of 0, 1, NaN (left out); probabilities (N,) in [0, 1]; alpha, beta > 0; ``answers`` (N,) whether
    each answer is "positive", where they were made on another scale than the probabilities' (``threshold`` is not
    used). With alpha = beta = 1 the net trust is 1 - mean |p - y|, whatever the threshold.
    Raises ``ValueError`` for other values.
    """
    y = known_targets(targets, drop=False)
    p = np.asarray(probabilities, dtype=np.float64)
    if p.shape != y.shape or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("trust needs one probability in [0, 1] a target")
    _check_exponents(alpha, beta)
    answer = p >= threshold if answers is None else np.asarray(answers, dtype=bool)
    y, p, answer = y[~np.isnan(y)], p[~np.isnan(y)], answer[~np.isnan(y)]
    right = answer == (y == 1)
    confidence = np.where(answer, p, 1 - p)
    trusts = np.where(right, confidence**alpha, (1 - confidence) ** beta)
    return BinaryTrust(
        positive=_mean(trusts, y == 1),
        negative=_mean(trusts, y == 0),
        net=_mean(trusts, np.full(len(y), True)),
        correct=_mean(trusts, right),
        wrong=_mean(trusts, ~right),
        trusts=trusts,
        targets=y,
    )


def class_trust(oracle: ArrayLike, probabilities: ArrayLike, alpha: float = 1.0, beta: float = 1.0) -> ClassTrust:
    """Trust of the most probable class: oracle (N,) integers 0..C-1, probabilities (N, C), rows summing to 1.

    Raises ``ValueError`` for other values (any integer outside 0..C-1 would be wrong in silence).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    z = np.asarray(oracle)
    if p.ndim != 2 or z.shape != p.shape[:1] or not len(z):
        raise ValueError("trust needs probabilities (N, C) and one class number a row")
    classes = p.shape[1]
    if not np.isin(z, np.arange(classes)).all():
        raise ValueError(f"the reference classes must be whole numbers from 0 to {classes - 1}")
    if not ((p >= 0) & (p <= 1)).all() or not np.allclose(p.sum(axis=1), 1, atol=1e-6):
        raise ValueError("each row of probabilities must be in [0, 1] and sum to 1")
    _check_exponents(alpha, beta)
    z = z.astype(np.intp)
    answer = p.argmax(axis=1)
    confidence = p.max(axis=1)
    trusts = np.where(answer == z, confidence**alpha, (1 - confidence) ** beta)
    spectrum = np.array([_mean(trusts, z == c) for c in range(classes)])
    matrix = np.array([[_mean(trusts, (answer == a) & (z == c)) for c in range(classes)] for a in range(classes)])
    return ClassTrust(trusts, spectrum, float(trusts.mean()), matrix)


def trust_density(
    trusts: ArrayLike, grid: ArrayLike | None = None, bandwidth: float | None = None
) -> tuple[Array, Array]:
    """(x, density) of trust values (N,) in [0, 1] at ``grid`` (None: 101 even points): Gaussian kernels, reflected.

    Reflection at 0 and 1 keeps the whole mass in [0, 1]. Bandwidth 0.5 / sqrt(N) as in the authors' TrustPy, within
    0.01 to 0.15. Values are first counted in 200 even bins, finer than the kernel. NaN without values.
    """
    q = np.asarray(trusts, dtype=np.float64)
    x = np.linspace(0, 1, 101) if grid is None else np.asarray(grid, dtype=np.float64)
    if not len(q):
        return x, np.full(len(x), math.nan)
    h = min(max(0.5 / math.sqrt(len(q)), 0.01), 0.15) if bandwidth is None else bandwidth
    edges = np.linspace(0, 1, 201)
    counts, _ = np.histogram(q, bins=edges)
    width = edges[1] - edges[0]
    density = np.zeros(len(x))
    for centres in (edges, -edges, 2 - edges):  # each bin is uniform, so its smoothed form is a difference of two Phi
        upper, lower = ndtr((x[:, None] - centres[:-1]) / h), ndtr((x[:, None] - centres[1:]) / h)
        density += np.abs(upper - lower) @ counts / (len(q) * width)
    return x, density


def _mean(values: Array, group: NDArray[np.bool_]) -> float:
    return float(values[group].mean()) if group.any() else math.nan


def _check_exponents(alpha: float, beta: float) -> None:
    if not (alpha > 0 and beta > 0 and math.isfinite(alpha) and math.isfinite(beta)):
        raise ValueError(f"alpha and beta must be positive numbers, not {alpha:g} and {beta:g}")
