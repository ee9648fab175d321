"""The AUC margin loss (AUC-M) and the AUC square loss (AUC-S) of deep AUC maximization.

Source: Yuan, Yan, Sonka, Yang, "Large-scale Robust Deep AUC Maximization", ICCV 2021 (arXiv 2012.03173), "DAM" here.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from dam.objectives.batch import Known, effective_counts, full_precision, known_entries, no_autocast
from dam.objectives.monitor import Terms, moments, terms_of

_TINY = 1e-30  # below any count but 0


class _Weights(NamedTuple):
    """How the sums over a part of a batch enter the loss, each (K,): see ``_MinMaxAUC._weights``."""

    positive: Tensor
    negative: Tensor
    constant: Tensor
    active: Tensor


class _MinMaxValue(torch.autograd.Function):
    """The mean over active labels of the min-max value, with its gradients in closed form.

    A recorded graph of these expressions is some sixty small operations; written out they are twenty, and on a GPU as
    many launches. The gradients of a, b, alpha are those of each label alone: the mean would slow them by K.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        scores: Tensor,
        a: Tensor,
        b: Tensor,
        alpha: Tensor,
        known: Known,
        weights: _Weights,
        margin: float,
    ) -> Tensor:
        positive, negative = known.positive * weights.positive, known.negative * weights.negative
        to_a, to_b = a - scores, b - scores
        pull_a, pull_b = positive * to_a, negative * to_b
        side = negative - positive
        squares = (pull_a * to_a).addcmul_(pull_b, to_b).sum(dim=0)
        slope = torch.add((side * scores).sum(dim=0), weights.constant, alpha=margin)
        by_alpha = torch.addcmul(slope, weights.constant, alpha, value=-1)  # halves, like all that is saved
        number = weights.active.sum().clamp_min_(1)
        value = squares.addcmul_(alpha, slope.add_(by_alpha)).sum() / number
        by_a, by_b = pull_a.sum(dim=0), pull_b.sum(dim=0)
        by_scores = side.mul_(alpha).sub_(pull_a).sub_(pull_b).div_(number)
        ctx.save_for_backward(by_scores, by_a, by_b, by_alpha)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *torch._foreach_mul(ctx.saved_tensors, 2 * upstream), None, None, None  # type: ignore[attr-defined]


class _MinMaxAUC(nn.Module):
    """What AUC-M and AUC-S share: everything but the sign of alpha."""

    alpha_nonnegative: ClassVar[bool]
    a: Tensor
    b: Tensor
    alpha: Tensor

    def __init__(
        self,
        margin: float = 1.0,
        prior: float | Tensor | None = None,
        form: Literal["prior", "class_mean"] = "prior",
        num_labels: int = 1,
        inner: Literal["learned", "batch"] = "learned",
    ) -> None:
        super().__init__()
        if not (math.isfinite(margin) and margin > 0):
            raise ValueError(f"margin must be positive, not {margin}")
        if form not in ("prior", "class_mean"):
            raise ValueError(f"form must be 'prior' or 'class_mean', not {form!r}")
        if inner not in ("learned", "batch"):
            raise ValueError(f"inner must be 'learned' or 'batch', not {inner!r}")
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, not {num_labels}")
        if prior is not None and (form == "class_mean" or inner == "batch"):
            raise ValueError("a prior belongs to form='prior' with inner='learned': the other forms have none")
        self.margin = float(margin)
        self.num_labels = int(num_labels)
        self.inner = inner
        # The direct form is the limit of the class-mean form, so it has no other.
        self.form = "class_mean" if inner == "batch" else form
        # Plain floats, not a buffer: they stay exact in float64 and are no state of the loss.
        self.prior = None if prior is None else _prior_values(prior, num_labels)
        self._prior_on: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        for name in ("a", "b", "alpha"):
            if inner == "learned":
                self.register_parameter(name, nn.Parameter(torch.zeros(num_labels)))
            else:
                self.register_buffer(name, torch.zeros(num_labels))

    def forward(self, scores: Tensor, targets: Tensor, counts: Tensor | None = None) -> Tensor:
        """The loss of a batch, or of a part of it when ``counts`` are those of the whole.

        Args:
            scores: (N,) or (N, K), after the score function (sigmoid, batch score normalization or none).
            targets: the same shape; 1, 0, fractions (soft labels: weights y and 1 - y), NaN where unknown.
            counts: (2, K) sums of y and of 1 - y over the known entries of the whole effective batch. The losses of
                its parts (and their gradients) then add up to those of the whole, whatever the parts. Data
                parallelism that averages gradients needs the loss times the number of ranks.

        Returns:
            Scalar of at least float32, the mean over the labels active in the effective batch; connected to the
            scores and to a, b, alpha even where it is 0.

        Raises:
            ValueError: shapes that do not fit; targets outside [0, 1] (CPU tensors only, so that no GPU step waits);
                ``inner="batch"`` with counts other than the batch's own (on a GPU the loss is NaN then).
        """
        with no_autocast(scores):
            known = known_entries(scores, targets, self.num_labels)
            own, whole = effective_counts(known, counts)
            if self.inner == "batch":
                return self._direct(known, own, whole)
            weights = self._weights(own, whole)
            inner = (full_precision(value) for value in (self.a, self.b, self.alpha))
            value: Tensor = _MinMaxValue.apply(known.scores, *inner, known, weights, self.margin)
            return value

    def _weights(self, own: Tensor, whole: Tensor) -> _Weights:
        """Weights of the sums over positives and negatives and of the constants, for the form in use.

        Prior form: (1 - p) / N, p / N, p (1 - p) n / N. Class-mean form: 1 / N+, 1 / N-, n / N. Upper case is the
        effective batch, n the known entries of this part; the constants belong to no sample, so each part adds its
        share of them. A label that is not active has weights 0.
        """
        total = whole.sum(dim=0)
        size = total if own is whole else own.sum(dim=0)
        if self.form == "prior":
            active = total.sign()
            inverse = active / total.clamp_min(_TINY)
            if self.prior is None:
                p, q = (whole * inverse).unbind()
            else:
                p = self._prior_like(total)
                q = 1 - p
            positive = q * inverse
            return _Weights(positive, p * inverse, p * positive * size, active)
        active = (whole > 0).all(dim=0).to(total.dtype)
        share = size / _nonzero(total)
        return _Weights(active / _nonzero(whole[0]), active / _nonzero(whole[1]), active * share, active)

    def _prior_like(self, like: Tensor) -> Tensor:
        # Kept a device and type, since a copy to a GPU at every step would wait for it.
        place = (like.device, like.dtype)
        if place not in self._prior_on:
            self._prior_on[place] = torch.tensor(self.prior, dtype=like.dtype, device=like.device)
        return self._prior_on[place]

    def _direct(self, known: Known, own: Tensor, whole: Tensor) -> Tensor:
        """A1 + A2 + A3 of eq. (6) on this batch, with a, b, alpha at their optimum, which the buffers then show."""
        differs = (own - whole).abs() > 1e-4 * (1 + own)
        if differs.device.type == "cpu" and bool(differs.any()):
            raise ValueError(
                "inner='batch' takes the class means of the whole effective batch and cannot be computed in parts: "
                "counts must be those of the batch given; use inner='learned' with gradient accumulation or gather "
                "the scores of all ranks first"
            )
        active = (own > 0).all(dim=0)
        on = active.to(own.dtype)
        inverse = on / _nonzero(own)
        h, y, z = known
        a, b = inverse[0] * (y * h).sum(dim=0), inverse[1] * (z * h).sum(dim=0)
        gap = self.margin + b - a
        alpha = gap.clamp_min(0) if self.alpha_nonnegative else gap
        value = inverse[0] * (y * (h - a) ** 2).sum(dim=0) + inverse[1] * (z * (h - b) ** 2).sum(dim=0) + on * alpha**2
        if self.training:
            self._show(a, b, alpha, active)
        # On a GPU the check above would wait for the device; wrong counts then show as NaN instead.
        value = torch.where(differs.any(), value.new_full((), float("nan")), value)
        return value.sum() / on.sum().clamp_min(1)

    @torch.no_grad()
    def _show(self, a: Tensor, b: Tensor, alpha: Tensor, active: Tensor) -> None:
        for mine, value in ((self.a, a), (self.b, b), (self.alpha, alpha)):
            mine.copy_(torch.where(active, value.to(mine), mine))

    @torch.no_grad()
    def terms(self, scores: Tensor, targets: Tensor) -> Terms:
        """A1, A2, A3 of DAM eq. (6) on these scores, each (K,); NaN for a label without both classes."""
        with no_autocast(scores):
            known = known_entries(scores.detach(), targets, self.num_labels)
            return terms_of(moments(known), self.margin, self.alpha_nonnegative)

    @torch.no_grad()
    def closed_form_init(self, scores: Tensor, targets: Tensor) -> None:
        """Set a, b, alpha of every label that has both classes to their optimum on these scores.

        Call it before the first step of the optimizer, with the scores of the first batches put together.
        """
        with no_autocast(scores):
            found = moments(known_entries(scores.detach(), targets, self.num_labels))
            a, b = found.mean
            alpha = self.margin + b - a
            self._show(a, b, alpha.clamp_min(0) if self.alpha_nonnegative else alpha, (found.weight > 0).all(dim=0))

    @torch.no_grad()
    def monitor(self) -> dict[str, Tensor]:
        """Copies of ``a``, ``b``, ``alpha`` and the ``distance`` a - b (to be compared with the margin), each (K,)."""
        found = {name: getattr(self, name).detach().clone() for name in ("a", "b", "alpha")}
        return {**found, "distance": found["a"] - found["b"]}

    def extra_repr(self) -> str:
        """Shown by ``print(loss)``."""
        return f"margin={self.margin:g}, form={self.form}, num_labels={self.num_labels}, inner={self.inner}"


class AUCMarginLoss(_MinMaxAUC):
    """AUC margin loss (AUC-M), DAM eq. (8), for a min-max optimizer such as ``PESG``.

    Per sample, with score h, class indicator I, p = Pr(y = 1), margin m::

        F = (1-p)(h-a)^2 I+ + p(h-b)^2 I- - p(1-p) alpha^2 + 2 alpha (p(1-p) m + p h I- - (1-p) h I+)

    Its min over a, b and max over alpha >= 0 is p(1-p) times A1 + A2 + A3 of eq. (6): the variance of the positives,
    the variance of the negatives, and the squared hinge on the distance of the class means (Theorem 1). A single
    value may be negative while alpha lags; ``terms`` never is.

    Args:
        margin: m > 0, one for all labels.
        prior: p in (0, 1), a float or (K,); None takes each batch's own ratio. Batches drawn at the natural rate
            need the training set's prior; rebalanced batches need None (the published recipes) or the other form.
        form: "prior" is eq. (8). "class_mean" divides each class by its own count (no prior):
            E+[(h-a)^2] + E-[(h-b)^2] + 2 alpha (m + E-[h] - E+[h]) - alpha^2; its gradients are 1/(p(1-p)) times
            larger. A label of which the batch holds one class then contributes exactly 0 and is not counted.
        num_labels: K; one a, b, alpha a label. The value is the mean over active labels, while the gradients of a,
            b, alpha are those of each label alone (the mean would slow them by K).
        inner: "learned" has parameters ``a``, ``b``, ``alpha`` of shape (K,). "batch" is the direct form: they are
            at their optimum on the batch, the value is A1 + A2 + A3 of the batch whatever ``form``, any optimizer
            serves, and ``a``, ``b``, ``alpha`` are buffers that show the last training batch. It cannot be split.

    Attributes:
        alpha_nonnegative: True, so ``PESG`` projects alpha to alpha >= 0.
    """

    alpha_nonnegative: ClassVar[bool] = True


class AUCSquareLoss(_MinMaxAUC):
    """AUC square loss (AUC-S), DAM eq. (3)-(5): as ``AUCMarginLoss`` but without alpha >= 0.

    Its min-max value is p(1-p) E[(m - h+ + h-)^2] over pairs of a positive and a negative; m = 1 in its original form.
    It also pushes pairs together that are further apart than the margin. Arguments as for ``AUCMarginLoss``.
    """

    alpha_nonnegative: ClassVar[bool] = False


def _prior_values(prior: float | Tensor, num_labels: int) -> tuple[float, ...]:
    values = torch.as_tensor(prior, dtype=torch.float64).reshape(-1).tolist()
    if len(values) not in (1, num_labels):
        raise ValueError(f"prior must be one number or {num_labels} numbers, one a label, not {len(values)}")
    if not all(0 < value < 1 for value in values):
        raise ValueError(f"prior must lie strictly between 0 and 1, not {values}")
    return tuple(values) if len(values) == num_labels else (values[0],) * num_labels


def _nonzero(count: Tensor) -> Tensor:
    return torch.where(count > 0, count, torch.ones_like(count))
