"""Scores in front of the AUC losses, cross-entropy and focal loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from dam.objectives import (
    CrossEntropyLoss,
    FocalLoss,
    apply_score,
    batch_score_normalization,
    class_counts,
)

torch.set_num_threads(1)
NAN = float("nan")


def test_batch_score_normalization_is_per_label_over_known_entries():
    logits = torch.tensor([[3.0, 1.0], [4.0, 2.0], [100.0, 2.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 1.0], [0.0, 0.0], [NAN, 0.0]])
    scores = batch_score_normalization(logits, targets)
    torch.testing.assert_close(scores[:2, 0], torch.tensor([0.6, 0.8], dtype=torch.float64))
    torch.testing.assert_close(scores[:, 1], logits[:, 1] / 3)
    torch.testing.assert_close(apply_score("bsn", logits, targets), scores)
    scaled = apply_score("bsn_sqrt", logits, targets)
    torch.testing.assert_close(scaled[:2, 0], scores[:2, 0] * math.sqrt(2))
    torch.testing.assert_close(scaled[:, 1], scores[:, 1] * math.sqrt(3))
    torch.testing.assert_close(batch_score_normalization(logits[:, 1]), scores[:, 1])


def test_batch_score_normalization_gradient_and_edges():
    logits = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([[1.0, NAN], [0, NAN], [NAN, NAN], [0, NAN], [1, NAN], [0, NAN]])
    assert torch.autograd.gradcheck(lambda x: batch_score_normalization(x, targets)[[0, 1, 3, 4, 5], 0], [logits])
    zero = torch.zeros(4, requires_grad=True)  # a head that starts at zero
    batch_score_normalization(zero).sum().backward()
    assert (zero.grad.abs() <= 1).all()
    with pytest.raises(ValueError, match="same shape"):
        batch_score_normalization(torch.rand(4), torch.rand(4, 1))


def test_distance_of_means_is_bounded_under_normalization():
    targets = (torch.arange(128) < 25).float()
    scores = batch_score_normalization(targets * 50 - 10, targets)
    gap = scores[targets == 1].mean() - scores[targets == 0].mean()
    assert float(gap) <= math.sqrt(1 / 25 + 1 / 103) + 1e-6


def test_scores_by_name():
    logits = torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(apply_score("sigmoid", logits), torch.sigmoid(logits))
    assert apply_score("none", logits) is logits
    with pytest.raises(ValueError, match="choose one of sigmoid, none, bsn, bsn_sqrt"):
        apply_score("l2", logits)
    for name in ("sigmoid", "none", "bsn", "bsn_sqrt"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = apply_score(name, logits.bfloat16())
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, apply_score(name, logits))


def test_cross_entropy_is_the_mean_over_known_entries_with_soft_labels():
    logits = torch.tensor([[1.5, -0.3], [0.2, 4.0], [-2.0, 0.7]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1.0, 0.3], [NAN, 0.0], [0.0, 1.0]], dtype=torch.float64)
    known = ~torch.isnan(targets)
    expected = F.binary_cross_entropy_with_logits(logits[known], targets[known])
    value = CrossEntropyLoss()(logits, targets)
    torch.testing.assert_close(value, expected)
    assert torch.autograd.gradcheck(lambda x: CrossEntropyLoss()(x, targets), [logits])


def test_focal_is_the_written_formula_and_half_cross_entropy_at_gamma_zero():
    logits = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1.0, 0, 1, NAN, 0, 1, 0.25], dtype=torch.float64)
    alpha, gamma = 0.25, 2.0
    total = 0.0
    for x, y in zip(logits.tolist(), targets.tolist(), strict=True):
        if math.isnan(y):
            continue
        p = 1 / (1 + math.exp(-x))
        total += -y * alpha * (1 - p) ** gamma * math.log(p)
        total += -(1 - y) * (1 - alpha) * p**gamma * math.log(1 - p)
    assert FocalLoss(alpha, gamma)(logits, targets).item() == pytest.approx(total / 6, abs=1e-14)
    torch.testing.assert_close(FocalLoss(0.5, 0.0)(logits, targets), CrossEntropyLoss()(logits, targets) / 2)
    assert torch.autograd.gradcheck(lambda x: FocalLoss(alpha, 0.5)(x, targets), [logits])


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FocalLoss(0.75, 0.5), FocalLoss(0.25, 5)])
def test_likelihood_losses_at_the_edges(loss):
    logits = torch.tensor([300.0, -300, 300, -300], requires_grad=True)
    value = loss(logits, torch.tensor([1.0, 0, 0, 1]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    nothing = loss(logits, torch.full((4,), NAN))
    assert nothing.item() == 0
    assert nothing.grad_fn is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss(torch.full((1500,), 0.5).bfloat16(), (torch.arange(1500) < 1000).bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(torch.full((1500,), 0.5), (torch.arange(1500) < 1000).float()))
    with pytest.raises(ValueError, match="-1 and 1"):
        loss(torch.rand(2), torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FocalLoss(0.25, 2)])
def test_likelihood_losses_of_parts_add_up(loss):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(30, 4, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.rand(30, 4, generator=generator, dtype=torch.float64)
    targets[torch.rand(30, 4, generator=generator) < 0.4] = NAN
    whole = loss(logits, targets)
    (expected,) = torch.autograd.grad(whole, logits)
    sizes = [1, 17, 12]
    counts = class_counts(targets)
    parts = sum(loss(x, y, counts) for x, y in zip(logits.split(sizes), targets.split(sizes), strict=True))
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, logits)[0], expected)


def test_focal_refuses_what_is_out_of_range():
    for alpha, gamma in ((1.5, 1), (-0.1, 1), (0.5, -1), (NAN, 1)):
        with pytest.raises(ValueError, match="of the focal loss"):
            FocalLoss(alpha, gamma)
