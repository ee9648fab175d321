"""Likelihood losses on logits: binary cross-entropy and focal loss, with soft and missing labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dam.objectives.batch import Known, effective_counts, known_entries, no_autocast


def _mean_over_known(losses: Tensor, known: Known, counts: Tensor | None) -> Tensor:
    # Unknown entries have no weight in either class, so their (finite) losses were multiplied by zero before.
    _, whole = effective_counts(known, counts)
    total = whole.sum()
    return losses.sum() / torch.where(total > 0, total, torch.ones_like(total))


class CrossEntropyLoss(nn.Module):
    """Binary cross-entropy with logits, the mean over all known entries of all labels.

    Call: ``loss(logits, targets, counts=None)``, logits and targets (N,) or (N, K); targets in [0, 1], fractions are
    soft labels, NaN is unknown. ``counts`` (2, K): positives and negatives of the whole effective batch, so that the
    losses of its parts add up to the loss of the whole. A batch without a known entry gives a connected 0.

    Raises:
        ValueError: shapes that do not fit; targets outside [0, 1] (CPU tensors only).
    """

    def forward(self, logits: Tensor, targets: Tensor, counts: Tensor | None = None) -> Tensor:
        """The loss, a scalar of at least float32."""
        with no_autocast(logits):
            known = known_entries(logits, targets)
            losses = known.positive * F.softplus(-known.scores) + known.negative * F.softplus(known.scores)
            return _mean_over_known(losses, known, counts)


class FocalLoss(nn.Module):
    """Focal loss, alpha-balanced (Lin et al. 2017, arXiv 1708.02002, eq. (5)): -alpha_t (1 - p_t)^gamma log p_t.

    Args:
        alpha: weight of positives in [0, 1]; negatives have 1 - alpha.
        gamma: focusing exponent >= 0.

    Called as ``CrossEntropyLoss``. A soft label y mixes the losses of the two classes with weights y and 1 - y.

    Raises:
        ValueError: alpha or gamma out of range; shapes or targets as for ``CrossEntropyLoss``.
    """

    def __init__(self, alpha: float, gamma: float) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha of the focal loss must lie in [0, 1], not {alpha}")
        if not gamma >= 0:
            raise ValueError(f"gamma of the focal loss must be at least 0, not {gamma}")
        self.alpha = float(alpha)
        self.gamma = float(gamma)

    def forward(self, logits: Tensor, targets: Tensor, counts: Tensor | None = None) -> Tensor:
        """The loss, a scalar of at least float32."""
        with no_autocast(logits):
            known = known_entries(logits, targets)
            # -log p and -log(1 - p); exp(-gamma * ...) has a finite gradient at p = 0 and 1 where a power has none.
            positive, negative = F.softplus(-known.scores), F.softplus(known.scores)
            losses = (
                self.alpha * known.positive * torch.exp(-self.gamma * negative) * positive
                + (1 - self.alpha) * known.negative * torch.exp(-self.gamma * positive) * negative
            )
            return _mean_over_known(losses, known, counts)

    def extra_repr(self) -> str:
        """Shown by ``print(loss)``."""
        return f"alpha={self.alpha:g}, gamma={self.gamma:g}"
