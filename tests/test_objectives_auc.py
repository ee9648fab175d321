"""AUC margin and square loss against literal loops, Theorem 1, all pairs, finite differences, and their edge cases."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from objective_problems import NAN, batch, equation_8, gradients, with_values
from torch import Tensor

from dam.objectives import AUCMarginLoss, AUCSquareLoss, class_counts

torch.set_num_threads(1)
BOTH = (AUCMarginLoss, AUCSquareLoss)


def class_mean_form(scores: Tensor, targets: Tensor, m: float, a: float, b: float, alpha: float) -> float:
    positives, negatives = scores[targets == 1].tolist(), scores[targets == 0].tolist()
    mean_p, mean_n = sum(positives) / len(positives), sum(negatives) / len(negatives)
    return (
        sum((h - a) ** 2 for h in positives) / len(positives)
        + sum((h - b) ** 2 for h in negatives) / len(negatives)
        + 2 * alpha * (m + mean_n - mean_p)
        - alpha**2
    )


def objective_6(scores: Tensor, targets: Tensor, m: float, hinge: bool = True) -> float:
    """A1 + A2 + A3 of DAM eq. (6)."""
    positives, negatives = scores[targets == 1], scores[targets == 0]
    gap = m - positives.mean() + negatives.mean()
    gap = gap.clamp_min(0) if hinge else gap
    return float(positives.var(correction=0) + negatives.var(correction=0) + gap**2)


# ------------------------------------------------------------------ the formulae


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("prior", [None, 0.3, 0.05])
@pytest.mark.parametrize("soft", [False, True])
def test_prior_form_is_equation_8_sample_by_sample(kind, prior, soft):
    scores, targets = batch(seed=1)
    if soft:
        targets = torch.rand(targets.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    loss = with_values(kind(margin=0.8, prior=prior))
    p = float(targets.mean()) if prior is None else prior
    expected = equation_8(scores, targets, p, 0.8, 0.4, 0.2, 0.7)
    assert loss(scores, targets).item() == pytest.approx(expected, abs=1e-14)
    assert loss(scores[:, 0], targets[:, 0]).item() == pytest.approx(expected, abs=1e-14)


def test_class_mean_form_and_its_ratio_to_the_prior_form():
    scores, targets = batch(seed=3)
    loss = with_values(AUCMarginLoss(margin=0.6, form="class_mean"))
    expected = class_mean_form(scores, targets, 0.6, 0.4, 0.2, 0.7)
    assert loss(scores, targets).item() == pytest.approx(expected, abs=1e-14)
    r = float(targets.mean())
    own_ratio = with_values(AUCMarginLoss(margin=0.6))
    assert own_ratio(scores, targets).item() == pytest.approx(r * (1 - r) * expected, abs=1e-14)


@pytest.mark.parametrize("margin", [1.0, 0.05])
@pytest.mark.parametrize("form", ["prior", "class_mean"])
@pytest.mark.parametrize("kind", BOTH)
def test_theorem_1(kind, form, margin):
    """The closed-form optimum is a saddle point, and its value is p(1-p) A_M to 1e-10."""
    scores, targets = batch(n=60, seed=4)
    scores = torch.where(targets == 1, scores + 0.3, scores)
    p = float(targets.mean())
    loss = kind(margin=margin, prior=p if form == "prior" else None, form=form).double()
    loss.closed_form_init(scores, targets)
    value = loss(scores, targets)
    hinge = kind is AUCMarginLoss
    scale = p * (1 - p) if form == "prior" else 1.0
    assert value.item() == pytest.approx(scale * objective_6(scores, targets, margin, hinge), abs=1e-10)
    assert sum(float(term) for term in loss.terms(scores, targets)) == pytest.approx(value.item() / scale, abs=1e-10)
    for name, sign in (("a", 1), ("b", 1), ("alpha", -1)):
        for shift in (-0.1, 1e-3, 0.2):
            moved = copy.deepcopy(loss)
            with torch.no_grad():
                getattr(moved, name).add_(shift)
            if name == "alpha" and hinge and moved.alpha.item() < 0:
                continue
            assert sign * (moved(scores, targets).item() - value.item()) >= -1e-12
    expected = margin + scores[targets == 0].mean() - scores[targets == 1].mean()
    assert loss.alpha.item() == pytest.approx(max(0.0, float(expected)) if hinge else float(expected), abs=1e-12)


def test_square_loss_is_the_mean_over_all_pairs():
    scores, targets = batch(n=50, seed=5)
    scores = torch.where(targets == 1, scores + 2, scores)  # pairs further apart than the margin count too
    pairs = itertools.product(scores[targets == 1].tolist(), scores[targets == 0].tolist())
    squares = [(1.0 - positive + negative) ** 2 for positive, negative in pairs]
    brute = sum(squares) / len(squares)
    p = float(targets.mean())
    loss = AUCSquareLoss(prior=p).double()
    loss.closed_form_init(scores, targets)
    assert loss.alpha.item() < 0
    assert loss(scores, targets).item() == pytest.approx(p * (1 - p) * brute, abs=1e-10)
    assert AUCSquareLoss(inner="batch")(scores, targets).item() == pytest.approx(brute, abs=1e-10)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("arguments", [{"prior": 0.2}, {}, {"form": "class_mean"}, {"inner": "batch"}])
def test_gradients_by_finite_differences(kind, arguments):
    scores, targets = batch(n=12, seed=6, rate=0.4)
    targets[3] = NAN
    targets[4] = 0.3
    loss = kind(margin=0.7, **arguments).double()
    if loss.inner == "batch":
        assert torch.autograd.gradcheck(lambda h: loss(h, targets), [scores.requires_grad_()])
        return
    with_values(loss)

    def value(h: Tensor, a: Tensor, b: Tensor, alpha: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"a": a, "b": b, "alpha": alpha}, (h, targets))

    inputs = [scores, loss.a.detach().clone(), loss.b.detach().clone(), loss.alpha.detach().clone()]
    assert torch.autograd.gradcheck(value, [x.requires_grad_() for x in inputs])


def test_gradients_are_the_written_ones():
    scores, targets = batch(n=10, seed=7)
    scores.requires_grad_()
    p, m, a, b, alpha = 0.2, 0.8, 0.4, 0.2, 0.7
    loss = with_values(AUCMarginLoss(margin=m, prior=p), a, b, alpha)
    got = gradients(loss(scores, targets), scores, loss.a, loss.b, loss.alpha)
    h, y = scores.detach(), targets
    n = len(y)
    torch.testing.assert_close(got[0], (2 * (1 - p) * (h - a - alpha) * y + 2 * p * (h - b + alpha) * (1 - y)) / n)
    torch.testing.assert_close(got[1].item(), float((-2 * (1 - p) * (h - a) * y).mean()))
    torch.testing.assert_close(got[2].item(), float((-2 * p * (h - b) * (1 - y)).mean()))
    inner = p * (1 - p) * m + p * h * (1 - y) - (1 - p) * h * y
    torch.testing.assert_close(got[3].item(), float((-2 * p * (1 - p) * alpha + 2 * inner).mean()))


# ------------------------------------------------------------------ the direct form


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("margin", [1.0, 0.1])
def test_direct_form_is_the_objective_of_the_batch_with_its_gradient(kind, margin):
    scores, targets = batch(n=30, seed=8)
    scores = torch.where(targets == 1, scores + 0.4, scores).requires_grad_()
    loss = kind(margin=margin, inner="batch").double()
    value = loss(scores, targets)
    assert list(loss.parameters()) == []
    assert value.item() == pytest.approx(
        objective_6(scores.detach(), targets, margin, kind is AUCMarginLoss), abs=1e-12
    )
    # The learned form at its optimum has the same gradient in the scores.
    learned = kind(margin=margin, form="class_mean").double()
    learned.closed_form_init(scores, targets)
    torch.testing.assert_close(gradients(value, scores), gradients(learned(scores, targets), scores))
    for name in ("a", "b", "alpha"):
        torch.testing.assert_close(getattr(loss, name), getattr(learned, name).detach())


def test_direct_form_shows_training_batches_only_and_keeps_values_of_inactive_labels():
    scores, targets = batch(n=20, labels=2, seed=9)
    loss = AUCMarginLoss(num_labels=2, inner="batch")
    loss(scores, targets)
    before = loss.monitor()
    loss.eval()
    loss(scores + 1, targets)
    torch.testing.assert_close(loss.monitor(), before)
    loss.train()
    targets[:, 1] = 0
    loss(scores + 1, targets)
    after = loss.monitor()
    assert after["a"][0] != before["a"][0]
    assert after["a"][1] == before["a"][1]


def test_direct_form_refuses_parts_and_priors():
    scores, targets = batch(n=20, seed=10)
    loss = AUCMarginLoss(inner="batch")
    loss(scores, targets, class_counts(targets))
    with pytest.raises(ValueError, match="cannot be computed in parts"):
        loss(scores[:10], targets[:10], class_counts(targets))
    with pytest.raises(ValueError, match="a prior belongs to"):
        AUCMarginLoss(inner="batch", prior=0.2)


# ------------------------------------------------------------------ several labels, missing labels, soft labels


@pytest.mark.parametrize("arguments", [{"prior": torch.tensor([0.1, 0.3, 0.5])}, {}, {"form": "class_mean"}])
@pytest.mark.parametrize("kind", BOTH)
def test_labels_together_are_the_mean_and_a_b_alpha_move_as_if_alone(kind, arguments):
    scores, targets = batch(n=50, labels=3, seed=11, missing=0.2)
    scores.requires_grad_()
    loss = with_values(kind(margin=0.9, num_labels=3, **arguments))
    together = loss(scores, targets)
    got = gradients(together, scores, loss.a, loss.b, loss.alpha)
    values = []
    for k in range(3):
        known = ~torch.isnan(targets[:, k])
        own = {"prior": float(arguments["prior"][k])} if "prior" in arguments else arguments
        alone = with_values(kind(margin=0.9, **own), 0.4 + 0.03 * k, 0.2 + 0.03 * k, 0.7 + 0.03 * k)
        h = scores.detach()[known, k].requires_grad_()
        value = alone(h, targets[known, k])
        values.append(value.item())
        expected = gradients(value, h, alone.a, alone.b, alone.alpha)
        torch.testing.assert_close(got[0][known, k], expected[0] / 3)
        assert (got[0][~known, k] == 0).all()
        for i in (1, 2, 3):
            torch.testing.assert_close(got[i][k], expected[i][0])
    assert together.item() == pytest.approx(sum(values) / 3, abs=1e-14)


def test_a_missing_entry_counts_nowhere_whatever_its_score():
    scores, targets = batch(n=30, seed=12)
    loss = with_values(AUCMarginLoss())
    expected = loss(scores, targets)
    more = torch.cat([scores, torch.tensor([[5.0], [float("inf")], [NAN]], dtype=torch.float64)]).requires_grad_()
    value = loss(more, torch.cat([targets, torch.full((3, 1), NAN, dtype=torch.float64)]))
    torch.testing.assert_close(value, expected)
    (gradient,) = gradients(value, more)
    assert torch.isfinite(gradient).all()
    assert (gradient[-3:] == 0).all()


def test_a_soft_label_is_a_weighted_pair_of_hard_ones():
    """y = .25 for four images is one positive and three negatives at the same score."""
    scores = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.9, 0.1], dtype=torch.float64)
    soft = torch.tensor([0.25] * 4 + [1, 0], dtype=torch.float64)
    hard = torch.tensor([1, 0, 0, 0, 1, 0], dtype=torch.float64)
    for arguments in ({"prior": 0.2}, {}, {"form": "class_mean"}):
        loss = with_values(AUCMarginLoss(**arguments))
        torch.testing.assert_close(loss(scores, soft), loss(scores, hard))
    direct = AUCMarginLoss(inner="batch")
    torch.testing.assert_close(direct(scores, soft), direct(scores, hard))
