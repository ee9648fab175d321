"""The score in front of an AUC loss: sigmoid, none, or batch score normalization. All keep the ranking of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dam.objectives.batch import full_precision, no_autocast


def batch_score_normalization(logits: Tensor, targets: Tensor | None = None, *, sqrt_size: bool = False) -> Tensor:
    """Divide the scores of each label by their L2 norm over the batch (BSN; DAM section 4.1 and appendix M).

    The distance of the class means is then at most sqrt(1/N+ + 1/N-), 0.22 for 25 positives and 103 negatives, so
    that a larger margin is never reached. ``sqrt_size`` multiplies by the root of the batch size, which makes a
    margin mean the same at any batch size. The norm belongs to the whole effective batch: BSN does not split.

    Args:
        logits: (N,) or (N, K).
        targets: the same shape; entries whose target is NaN enter neither the norm nor the batch size.
        sqrt_size: multiply by sqrt(number of known entries of the label).

    Returns:
        Tensor of the shape of ``logits``, at least float32. Scores that are all zero stay zero.
    """
    with no_autocast(logits):
        scores = full_precision(logits)
        if targets is None:
            known = torch.ones_like(scores, dtype=torch.bool)
        elif targets.shape != logits.shape:
            raise ValueError(
                f"logits and targets must have the same shape, not {tuple(logits.shape)} and {tuple(targets.shape)}"
            )
        else:
            known = ~torch.isnan(targets.to(scores.device))
        norm = torch.linalg.vector_norm(torch.where(known, scores, scores.new_zeros(())), dim=0)
        # A head that starts at zero gives norm 0: dividing by a tiny number instead would send a gradient of 1e12 back.
        norm = torch.where(norm > torch.finfo(norm.dtype).tiny, norm, torch.ones_like(norm))
        scores = scores / norm
        return scores * known.sum(dim=0).to(scores.dtype).sqrt() if sqrt_size else scores


def _sigmoid(logits: Tensor, targets: Tensor | None) -> Tensor:
    return torch.sigmoid(full_precision(logits))


def _none(logits: Tensor, targets: Tensor | None) -> Tensor:
    return full_precision(logits)


def _bsn(logits: Tensor, targets: Tensor | None) -> Tensor:
    return batch_score_normalization(logits, targets)


def _bsn_sqrt(logits: Tensor, targets: Tensor | None) -> Tensor:
    return batch_score_normalization(logits, targets, sqrt_size=True)


SCORES: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "sigmoid": _sigmoid,
    "none": _none,
    "bsn": _bsn,
    "bsn_sqrt": _bsn_sqrt,
}


def apply_score(name: str, logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """The score ``name`` (a key of ``SCORES``) of ``logits`` (N,) or (N, K), in at least float32.

    Raises:
        ValueError: an unknown name.
    """
    if name not in SCORES:
        raise ValueError(f"unknown score {name!r}; choose one of {', '.join(SCORES)}")
    return SCORES[name](logits, targets)
