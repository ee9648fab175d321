"""AUC losses at the edges: one class, nothing known, saturation, low precision, wrong input, parts, state."""

from __future__ import annotations

import copy

import pytest
import torch
from objective_problems import NAN, batch, equation_8, gradients, with_values

from dam.objectives import AUCMarginLoss, AUCSquareLoss, StreamMonitor, apply_score, class_counts

torch.set_num_threads(1)
BOTH = (AUCMarginLoss, AUCSquareLoss)


# ------------------------------------------------------------------ one class, nothing known, saturation


@pytest.mark.parametrize("inner", ["learned", "batch"])
@pytest.mark.parametrize("only", [0.0, 1.0, NAN])
def test_class_mean_form_on_one_class_is_zero_and_connected(inner, only):
    scores = torch.rand(8, dtype=torch.float64).requires_grad_()
    loss = AUCMarginLoss(form="class_mean", inner=inner).double()
    value = loss(scores, torch.full((8,), only, dtype=torch.float64))
    assert value.item() == 0
    assert value.grad_fn is not None
    value.backward()
    tensors = [scores, *loss.parameters()]
    assert len(tensors) == (4 if inner == "learned" else 1)
    for tensor in tensors:
        assert tensor.grad is not None
        assert (tensor.grad == 0).all()


@pytest.mark.parametrize("inner", ["learned", "batch"])
def test_a_one_class_label_is_not_counted_in_the_mean(inner):
    scores, targets = batch(n=30, labels=3, seed=13)
    targets[:, 1] = 0
    loss = AUCMarginLoss(num_labels=3, form="class_mean", inner=inner)
    without = AUCMarginLoss(num_labels=2, form="class_mean", inner=inner)
    if inner == "learned":
        loss, without = with_values(loss), with_values(without)
        with torch.no_grad():
            for name in ("a", "b", "alpha"):
                getattr(without, name).copy_(getattr(loss, name)[[0, 2]])
    torch.testing.assert_close(loss(scores, targets), without(scores[:, [0, 2]], targets[:, [0, 2]]))


def test_prior_form_on_one_class_is_equation_8():
    scores = torch.rand(8, dtype=torch.float64)
    for only in (0.0, 1.0):
        targets = torch.full((8,), only, dtype=torch.float64)
        loss = with_values(AUCMarginLoss(prior=0.1))
        assert loss(scores, targets).item() == pytest.approx(equation_8(scores, targets, 0.1, 1.0, 0.4, 0.2, 0.7))


@pytest.mark.parametrize("arguments", [{"prior": 0.1}, {}, {"form": "class_mean"}, {"inner": "batch"}])
def test_all_missing_label_is_finite_connected_and_not_counted(arguments):
    scores, targets = batch(n=30, labels=2, seed=14)
    targets[:, 0] = NAN
    scores.requires_grad_()
    loss = AUCMarginLoss(num_labels=2, **arguments).double()
    alone = AUCMarginLoss(**arguments).double()
    value = loss(scores, targets)
    torch.testing.assert_close(value, alone(scores[:, 1], targets[:, 1]))
    value.backward()
    assert all(torch.isfinite(p.grad).all() for p in (scores, *loss.parameters()))
    nothing = loss(scores, torch.full_like(targets, NAN))
    assert nothing.item() == 0
    assert nothing.grad_fn is not None


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("arguments", [{"prior": 0.1}, {}, {"form": "class_mean"}, {"inner": "batch"}])
def test_saturated_scores_are_finite(kind, arguments):
    logits = torch.tensor([200.0, -200, 200, -200, 0, 300]).requires_grad_()
    targets = torch.tensor([1.0, 0, 0, 1, 1, 0])
    loss = kind(**arguments)
    for values in (logits, torch.full_like(logits, -500).requires_grad_()):
        value = loss(apply_score("sigmoid", values, targets), targets)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(values.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in loss.parameters())
        assert all(torch.isfinite(term).all() for term in loss.terms(torch.sigmoid(values), targets))


# ------------------------------------------------------------------ precision, wrong input


@pytest.mark.parametrize("arguments", [{"prior": 0.1}, {}, {"form": "class_mean"}, {"inner": "batch"}])
def test_bf16_is_computed_in_float32(arguments):
    """1,000 ones summed in bf16 make 256: the counts alone would be wrong."""
    generator = torch.Generator().manual_seed(15)
    scores = torch.rand(1500, generator=generator).bfloat16()
    targets = (torch.arange(1500) < 1000).bfloat16()
    loss = AUCMarginLoss(**arguments)
    with torch.no_grad():
        loss.a.fill_(0.4)
        loss.alpha.fill_(0.7)
    low = copy.deepcopy(loss).bfloat16()
    low.load_state_dict(loss.state_dict())
    with torch.no_grad():  # the same values exactly, so that only the arithmetic could differ
        for mine, its in ((loss.a, low.a), (loss.alpha, low.alpha)):
            mine.copy_(its)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = low(scores.requires_grad_(), targets)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(scores.float(), targets.float()), rtol=1e-6, atol=1e-7)
    value.backward()
    assert scores.grad is not None
    assert scores.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("value", [-1.0, 2.0, 1.5, float("inf")])
def test_targets_outside_the_range_are_refused(value):
    targets = torch.tensor([1.0, 0.0, value])
    for loss in (AUCMarginLoss(), AUCSquareLoss(form="class_mean"), AUCMarginLoss(inner="batch")):
        with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\]"):
            loss(torch.rand(3), targets)


def test_wrong_shapes_and_arguments_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        AUCMarginLoss()(torch.rand(4), torch.zeros(5))
    with pytest.raises(ValueError, match="built for 1 label"):
        AUCMarginLoss()(torch.rand(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="shape"):
        AUCMarginLoss()(torch.rand(4, 1, 1), torch.zeros(4, 1, 1))
    with pytest.raises(ValueError, match="counts must have shape"):
        AUCMarginLoss()(torch.rand(4), torch.zeros(4), torch.ones(2, 3))
    with pytest.raises(ValueError, match="smaller than"):
        AUCMarginLoss()(torch.rand(4), torch.zeros(4), torch.tensor([[4.0], [0.0]]))
    for wrong in ({"margin": 0.0}, {"margin": NAN}, {"form": "v1"}, {"inner": "x"}, {"num_labels": 0}, {"prior": 0.0}):
        with pytest.raises(ValueError):
            AUCMarginLoss(**wrong)
    with pytest.raises(ValueError, match="one a label"):
        AUCMarginLoss(prior=torch.tensor([0.1, 0.2]), num_labels=3)
    with pytest.raises(ValueError, match="a prior belongs to"):
        AUCMarginLoss(prior=0.1, form="class_mean")


def test_integer_and_boolean_targets_are_taken():
    scores = torch.rand(6)
    targets = torch.tensor([1, 0, 0, 1, 0, 0])
    loss = AUCMarginLoss()
    torch.testing.assert_close(loss(scores, targets), loss(scores, targets.float()))
    torch.testing.assert_close(loss(scores, targets.bool()), loss(scores, targets.float()))


# ------------------------------------------------------------------ parts of a batch


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("sizes", [[16, 16, 16, 16], [1, 40, 3, 20], [63, 1]])
@pytest.mark.parametrize("arguments", [{"prior": torch.tensor([0.1, 0.3, 0.5])}, {}, {"form": "class_mean"}])
def test_parts_add_up_to_the_whole(kind, sizes, arguments):
    """Ragged parts with missing and soft labels, some parts of one class, and a label with one class overall."""
    scores, targets = batch(n=64, labels=3, seed=16, rate=0.1, missing=0.3)
    targets[:, 2] = torch.where(torch.isnan(targets[:, 2]), targets[:, 2], torch.zeros(64, dtype=torch.float64))
    targets[5, 0] = 0.4
    scores.requires_grad_()
    loss = with_values(kind(margin=0.7, num_labels=3, **arguments))
    whole = loss(scores, targets)
    expected = gradients(whole, scores, loss.a, loss.b, loss.alpha)
    counts = class_counts(targets)
    torch.testing.assert_close(counts, sum(class_counts(part) for part in targets.split(sizes)))
    values = [loss(h, y, counts) for h, y in zip(scores.split(sizes), targets.split(sizes), strict=True)]
    total = torch.stack(values).sum()
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-14)
    for got, want in zip(gradients(total, scores, loss.a, loss.b, loss.alpha), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_an_empty_part_is_zero_and_connected():
    scores = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    value = AUCMarginLoss(prior=0.2)(scores, torch.zeros(0), torch.tensor([[2.0], [3.0]]))
    assert value.item() == 0
    value.backward()
    assert scores.grad is not None


# ------------------------------------------------------------------ state and what is watched


@pytest.mark.parametrize("inner", ["learned", "batch"])
def test_state_and_deepcopy(inner):
    scores, targets = batch(n=20, labels=2, seed=17)
    loss = AUCMarginLoss(num_labels=2, inner=inner)
    loss.closed_form_init(scores, targets)
    assert set(loss.state_dict()) == {"a", "b", "alpha"}
    fresh = AUCMarginLoss(num_labels=2, inner=inner)
    fresh.load_state_dict(loss.state_dict())
    twin = copy.deepcopy(loss)
    for other in (fresh, twin):
        assert torch.equal(other(scores, targets), loss(scores, targets))
        assert torch.equal(other.alpha, loss.alpha)
        assert other.alpha.shape == (2,)
        assert other.alpha is not loss.alpha


def test_closed_form_init_leaves_one_class_labels_alone():
    scores, targets = batch(n=20, labels=2, seed=18)
    targets[:, 1] = NAN
    loss = AUCMarginLoss(num_labels=2)
    loss.closed_form_init(scores, targets)
    assert loss.a[0].item() == pytest.approx(float(scores[targets[:, 0] == 1, 0].mean()), rel=1e-6)
    assert loss.a[1] == 0
    assert loss.alpha[1] == 0
    assert loss.a.requires_grad


@pytest.mark.parametrize("kind", BOTH)
def test_stream_monitor_is_the_terms_of_all_batches_together(kind):
    scores, targets = batch(n=60, labels=2, seed=19, missing=0.2)
    scores = scores + 1000  # far from zero: sums of squares would lose the variance in float32
    targets[:20, 1] = 0
    loss = kind(margin=0.2, num_labels=2)
    stream = StreamMonitor(2, margin=0.2, hinge=kind.alpha_nonnegative)
    assert torch.isnan(stream.values()["a1"]).all()
    for part in (slice(0, 20), slice(20, 25), slice(25, 60)):
        stream.update(scores[part], targets[part])
    values = stream.values()
    for name, expected in loss.terms(scores, targets)._asdict().items():
        torch.testing.assert_close(values[name].double(), expected, rtol=1e-3, atol=1e-3)
        assert (values[name] >= 0).all()
    assert values["one_class_batches"][1] == pytest.approx(1 / 3)
    twin = StreamMonitor(2, margin=0.2, hinge=kind.alpha_nonnegative)
    twin.load_state_dict(stream.state_dict())
    torch.testing.assert_close(twin.values(), values)
    stream.reset()
    assert torch.isnan(stream.values()["a1"]).all()
    assert set(loss.monitor()) == {"a", "b", "alpha", "distance"}
