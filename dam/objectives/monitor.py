"""The three terms of the AUC margin objective on a stream of batches, without waiting for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dam.objectives.batch import Known, full_precision, known_entries, no_autocast


class Terms(NamedTuple):
    """A1, A2, A3 of DAM eq. (6), each (K,), never negative; NaN for a label without both classes.

    ``a1`` variance of the positives' scores, ``a2`` of the negatives', ``a3`` the squared hinge on the distance of
    the class means (for the AUC square loss the plain square).
    """

    a1: Tensor
    a2: Tensor
    a3: Tensor


class Moments(NamedTuple):
    """Weight, mean and sum of squared deviations of the scores, each (2, K): positives, negatives."""

    weight: Tensor
    mean: Tensor
    squares: Tensor


def moments(known: Known) -> Moments:
    """Moments of one batch; a class without members has weight, mean and squares 0."""
    weights = torch.stack([known.positive, known.negative])
    weight = weights.sum(dim=1)
    mean = (weights * known.scores).sum(dim=1) / _divisor(weight)
    squares = (weights * (known.scores - mean.unsqueeze(1)) ** 2).sum(dim=1)
    return Moments(weight, mean, squares)


def merge(first: Moments, second: Moments) -> Moments:
    """Moments of two batches together (Chan, Golub, LeVeque 1979: stable, unlike sums of squares)."""
    weight = first.weight + second.weight
    gap = second.mean - first.mean
    share = second.weight / _divisor(weight)
    return Moments(weight, first.mean + gap * share, first.squares + second.squares + gap**2 * first.weight * share)


def terms_of(stats: Moments, margin: float, hinge: bool) -> Terms:
    """The three terms from the moments of the scores; ``hinge=False`` for the AUC square loss."""
    both = (stats.weight > 0).all(dim=0)
    nan = stats.mean.new_full((), float("nan"))
    variance = stats.squares / _divisor(stats.weight)
    gap = margin + stats.mean[1] - stats.mean[0]
    gap = gap.clamp_min(0) if hinge else gap
    return Terms(
        torch.where(both, variance[0], nan), torch.where(both, variance[1], nan), torch.where(both, gap**2, nan)
    )


def _divisor(weight: Tensor) -> Tensor:
    return torch.where(weight > 0, weight, torch.ones_like(weight))


class StreamMonitor(nn.Module):
    """Class means and variances of the training stream since ``reset``, on the device of the scores.

    A single value of the min-max loss says little (it may be negative while alpha lags); A1 + A2 + A3 from the class
    means of the stream is what falls. A rising A3 with a - b near 0 means collapse. A module, so that its
    ``state_dict`` restores it and ``to`` moves it; it has no parameters.

    Args:
        num_labels: K.
        margin: m of the loss.
        hinge: False for the AUC square loss.
    """

    weight: Tensor
    mean: Tensor
    squares: Tensor
    batches: Tensor
    one_class: Tensor

    def __init__(self, num_labels: int, margin: float = 1.0, hinge: bool = True) -> None:
        super().__init__()
        self.margin = float(margin)
        self.hinge = hinge
        for name in ("weight", "mean", "squares"):
            self.register_buffer(name, torch.zeros(2, num_labels))
        self.register_buffer("batches", torch.zeros(num_labels))
        self.register_buffer("one_class", torch.zeros(num_labels))

    @torch.no_grad()
    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Take in one batch: scores as the loss sees them and targets, (N,) or (N, K)."""
        with no_autocast(scores):
            known = known_entries(scores.detach(), targets, self.weight.shape[1])
            new = moments(Known(*(part.to(self.weight) for part in known)))
            for buffer, value in zip(
                (self.weight, self.mean, self.squares),
                merge(Moments(self.weight, self.mean, self.squares), new),
                strict=True,
            ):
                buffer.copy_(value)
            self.batches.add_(1)
            self.one_class.add_((new.weight <= 0).any(dim=0).to(self.one_class.dtype))

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """``a1, a2, a3`` and ``one_class_batches`` (share of batches that lacked a class), each (K,) on the device."""
        found = terms_of(Moments(self.weight, self.mean, self.squares), self.margin, self.hinge)
        return {**found._asdict(), "one_class_batches": self.one_class / full_precision(_divisor(self.batches))}

    @torch.no_grad()
    def reset(self) -> None:
        """Start anew."""
        for buffer in self.buffers():
            buffer.zero_()
