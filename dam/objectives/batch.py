"""What every loss here does first: full precision, shapes, missing labels, and the counts of the effective batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)


class Known(NamedTuple):
    """The known entries of a batch, unknown ones as zeros of zero weight.

    ``scores`` (N, K); ``positive`` (N, K) the weight of an entry in the positive class (y) and ``negative`` in the
    negative class (1 - y), both 0 where the target is unknown.
    """

    scores: Tensor
    positive: Tensor
    negative: Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 if it is bf16 or fp16 (or no float at all), else as it is."""
    if tensor.dtype in _HALF or not tensor.is_floating_point():
        return tensor.float()
    return tensor


def no_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Context in which autocast of the tensor's device is off: losses are computed in full precision."""
    kind = tensor.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def as_matrix(tensor: Tensor, what: str) -> Tensor:
    """(N,) as (N, 1), (N, K) as it is; anything else is a ``ValueError``."""
    if tensor.dim() == 1:
        return tensor.unsqueeze(1)
    if tensor.dim() == 2:
        return tensor
    raise ValueError(f"{what} must have shape (N,) or (N, K), not {tuple(tensor.shape)}")


def known_entries(scores: Tensor, targets: Tensor, num_labels: int | None = None) -> Known:
    """Mask what is unknown.

    Args:
        scores: (N,) or (N, K), any float type.
        targets: the same shape; 1, 0, fractions in between (soft labels), NaN where unknown.
        num_labels: K that the loss was built for, None for any.

    Raises:
        ValueError: shapes that do not fit, or (looked at on the CPU only, so that no GPU step waits) a target
            outside [0, 1].
    """
    scores, targets = as_matrix(scores, "scores"), as_matrix(targets, "targets")
    if scores.shape != targets.shape:
        raise ValueError(
            f"scores and targets must have the same shape, not {tuple(scores.shape)} and {tuple(targets.shape)}"
        )
    if num_labels is not None and scores.shape[1] != num_labels:
        raise ValueError(f"this loss was built for {num_labels} label(s), but the scores have {scores.shape[1]}")
    on_cpu = targets.device.type == "cpu"
    scores = full_precision(scores)
    # One comparison tells what is common from what needs a closer look: NaN and whatever is outside are unequal.
    if on_cpu and torch.equal(targets, targets.clamp(0, 1)):
        targets = targets.to(device=scores.device, dtype=scores.dtype)
        return Known(scores, targets, targets.new_ones(()) - targets)
    if on_cpu:
        _check_range(targets)
    targets = targets.to(device=scores.device, dtype=scores.dtype)
    known = ~torch.isnan(targets)
    zero = scores.new_zeros(())
    return Known(
        torch.where(known, scores, zero), torch.where(known, targets, zero), torch.where(known, 1 - targets, zero)
    )


def class_counts(targets: Tensor) -> Tensor:
    """(2, K) positives and negatives of ``targets`` (N,) or (N, K): sums of y and of 1 - y over known entries.

    Counts of parts add up to the counts of the whole effective batch, which is what the losses take as ``counts``.
    """
    targets = full_precision(as_matrix(targets, "targets"))
    known = ~torch.isnan(targets)
    zero = targets.new_zeros(())
    return torch.stack([torch.where(known, targets, zero).sum(dim=0), torch.where(known, 1 - targets, zero).sum(dim=0)])


def effective_counts(known: Known, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """``(own, whole)``: the counts (2, K) of this part and of the effective batch (``counts``, or the part's own).

    Raises:
        ValueError: ``counts`` of another shape, or (on the CPU) smaller than the part's own.
    """
    own = torch.stack([known.positive.sum(dim=0), known.negative.sum(dim=0)])
    if counts is None:
        return own, own
    counts = counts.detach()
    if counts.dim() == 1:
        counts = counts.unsqueeze(1)
    if counts.shape != own.shape:
        raise ValueError(
            f"counts must have shape {tuple(own.shape)}: positives and negatives of the whole effective batch, "
            f"not {tuple(counts.shape)}"
        )
    on_cpu = counts.device.type == "cpu" and own.device.type == "cpu"
    counts = counts.to(device=own.device, dtype=own.dtype)
    if on_cpu and float(torch.sub(counts, own, alpha=1 - 1e-4).min()) < -1e-4:
        raise ValueError(
            "counts are smaller than the positives and negatives of this part: they must be those of the whole "
            "effective batch"
        )
    return own, counts


def _check_range(targets: Tensor) -> None:
    # NaN (unknown) compares false on both sides, so it passes.
    outside = (targets < 0) | (targets > 1)
    if bool(outside.any()):
        worst = float(targets[outside].flatten()[0])
        raise ValueError(
            f"targets must lie in [0, 1], or be NaN where unknown, but one is {worst:g}; "
            "labels written as -1 and 1 must be turned into 0 and 1 first"
        )
