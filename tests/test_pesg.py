"""PESG against Algorithm 1 written by hand, against LibAUC 2.0.1's numbers, and as a torch optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from objective_problems import assert_equal, everything, half, problem, small_net, small_step
from torch import Tensor, nn

from dam.objectives import PESG, AUCMarginLoss, AUCSquareLoss

torch.set_num_threads(1)


# ------------------------------------------------------------------ Algorithm 1 by hand


class ByHand:
    """Algorithm 1 for scores h = x w on eq. (8), in float64, gradients written out, no autograd."""

    def __init__(self, w: Tensor, alpha: float, p: float, m: float, square: bool) -> None:
        self.v = torch.cat([w, torch.zeros(2, dtype=torch.float64)])  # w, a, b
        self.alpha, self.p, self.m, self.square = alpha, p, m, square
        self.reference = self.v.clone()
        self.iterates: list[Tensor] = []
        self.buffer = torch.zeros_like(self.v)
        self.projections = 0

    def step(self, x: Tensor, y: Tensor, eta: float, gamma: float, decay: float, momentum: float) -> None:
        p, alpha = self.p, self.alpha
        w, a, b = self.v[:3], self.v[3], self.v[4]
        h = x @ w
        dh = (2 * (1 - p) * (h - a - alpha) * y + 2 * p * (h - b + alpha) * (1 - y)) / len(y)
        da = (-2 * (1 - p) * (h - a) * y).mean()
        db = (-2 * p * (h - b) * (1 - y)).mean()
        dalpha = -2 * p * (1 - p) * alpha + 2 * (p * (1 - p) * self.m + (p * h * (1 - y) - (1 - p) * h * y).mean())
        d = torch.cat([x.T @ dh, torch.stack([da, db])]) + gamma * (self.v - self.reference) + decay * self.v
        self.buffer = momentum * self.buffer + d
        self.v = self.v - eta * self.buffer
        self.alpha = alpha + eta * float(dalpha)
        if not self.square and self.alpha < 0:
            self.alpha = 0.0
            self.projections += 1
        self.iterates.append(self.v)

    def update_reference(self) -> None:
        self.reference = torch.stack(self.iterates).mean(dim=0)
        self.iterates = []


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("kind", [AUCMarginLoss, AUCSquareLoss])
def test_algorithm_1(kind, momentum, foreach):
    """50 steps, two updates of the reference, learning rate cut at each, alpha projected to 0 on the way."""
    x, y, w = (t.double() for t in problem())
    x[:8][y[:8] == 1, 2] += 1.5  # every other batch has its means further apart than the margin: alpha rises and falls
    weight = nn.Parameter(w.clone())
    loss = kind(margin=0.15, prior=0.25).double()
    with torch.no_grad():
        loss.alpha.fill_(0.2)
    optimizer = PESG([weight], loss, 0.4, 0.1, weight_decay=0.01, momentum=momentum, foreach=foreach)
    hand = ByHand(w, 0.2, 0.25, 0.15, kind is AUCSquareLoss)
    below_zero = positive = 0
    for step in range(50):
        if step in (18, 37):
            optimizer.update_reference()
            hand.update_reference()
            for group in optimizer.param_groups:
                group["lr"] /= 2
        eta = optimizer.param_groups[0]["lr"]
        optimizer.zero_grad()
        loss(x[half(step)] @ weight, y[half(step)]).backward()
        optimizer.step()
        hand.step(x[half(step)], y[half(step)], eta, 0.1, 0.01, momentum)
        got = torch.cat([weight, loss.a, loss.b]).detach()
        torch.testing.assert_close(got, hand.v, rtol=1e-11, atol=1e-12)
        assert loss.alpha.item() == pytest.approx(hand.alpha, abs=1e-12)
        torch.testing.assert_close(torch.cat(optimizer.reference()), hand.reference, rtol=1e-11, atol=1e-12)
        below_zero += loss.alpha.item() < 0
        positive += loss.alpha.item() > 0
    assert positive > 5
    if kind is AUCMarginLoss:
        assert hand.projections > 3
        assert below_zero == 0
    else:
        assert below_zero > 3


@pytest.mark.parametrize("variant", ["paper", "libauc"])
@pytest.mark.parametrize("kind", [AUCMarginLoss, AUCSquareLoss])
def test_alpha_is_projected_for_the_margin_loss_alone(kind, variant):
    weight = nn.Parameter(torch.tensor([3.0]))
    loss = kind(margin=0.1, prior=0.5)
    with torch.no_grad():
        loss.a.fill_(5.0)
    optimizer = PESG([weight], loss, lr=0.5, gamma=0.0, variant=variant)
    loss(torch.tensor([1.0, -1.0]) * weight, torch.tensor([1.0, 0.0])).backward()
    optimizer.step()
    assert (loss.alpha.item() == 0) if kind is AUCMarginLoss else (loss.alpha.item() < 0)


# ------------------------------------------------------------------ LibAUC's iterates

# LibAUC 2.0.1, AUCMLoss(margin=1) and PESG(lr .5 sgd / .05 adam, weight_decay 1e-2, epoch_decay 5e-2) on `problem`
# with the reference set as below, 20 steps, update_regularizer(2) before steps 8 and 15: w, a, b, alpha; reference.
GOLDEN = {
    ("sgd", None, 0.9): (
        [0.1913878, -0.2005378, 0.4628932, 0.4382617, 0.4174895, 0.9797131],
        [0.2060901, -0.1954596, 0.4589844, 0.4059879, 0.3842674],
    ),
    ("sgd", 0.02, 0.0): (
        [0.1936743, -0.1777909, 0.4302002, 0.1216263, 0.1046291, 0.98293],
        [0.2081048, -0.1772333, 0.4345077, 0.0980771, 0.0805958],
    ),
    ("adam", None, 0.0): (
        [-0.0647878, -0.1688789, 0.162582, 0.4931674, 0.4783418, 0.727469],
        [-0.0469821, -0.1483269, 0.1494834, 0.428947, 0.4153373],
    ),
}


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("mode, clip, momentum", GOLDEN)
def test_libauc_variant_makes_libauc_iterates(mode, clip, momentum, foreach):
    x, y, w = problem()
    weight = nn.Parameter(w.clone())
    loss = AUCMarginLoss()
    optimizer = PESG(
        [weight], loss, 0.5 if mode == "sgd" else 0.05, 5e-2, 1e-2, momentum, clip, mode, "libauc", foreach=foreach
    )
    optimizer.set_reference([torch.tensor([0.1, -0.1, 0.2]), torch.tensor([0.05]), torch.tensor([-0.05])])
    for step in range(20):
        if step in (8, 15):
            optimizer.update_reference()
            for group in optimizer.param_groups:
                group["lr"] /= 2
        optimizer.zero_grad()
        loss(torch.sigmoid(x[half(step)] @ weight), y[half(step)]).backward()
        optimizer.step()
    iterate, reference = GOLDEN[mode, clip, momentum]
    got = torch.cat([weight, loss.a, loss.b, loss.alpha]).detach()
    torch.testing.assert_close(got, torch.tensor(iterate), rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.cat(optimizer.reference()), torch.tensor(reference), rtol=0, atol=2e-6)


def test_variants_differ_where_they_say():
    """First step from zero: alpha by the sample gradient against 2 eta (m + b - a) with the new a, b."""
    x, y, w = problem()
    found = {}
    for variant in ("paper", "libauc"):
        weight, loss = nn.Parameter(w.clone()), AUCMarginLoss(prior=0.05)
        optimizer = PESG([weight], loss, lr=0.1, gamma=0.0, variant=variant)
        loss(torch.sigmoid(x @ weight), y).backward()
        gradient = loss.alpha.grad.item()
        optimizer.step()
        found[variant] = loss.alpha.item()
        if variant == "paper":
            assert loss.alpha.item() == pytest.approx(max(0.0, 0.1 * gradient), abs=1e-8)
        else:
            assert loss.alpha.item() == pytest.approx(0.2 * (1 + loss.b.item() - loss.a.item()), abs=1e-7)
    assert found["libauc"] > 10 * found["paper"]


# ------------------------------------------------------------------ foreach, types


@pytest.mark.parametrize("mode", ["sgd", "adam"])
@pytest.mark.parametrize("variant", ["paper", "libauc"])
@pytest.mark.parametrize("clip", [None, 0.01])
def test_foreach_is_the_plain_loop(mode, variant, clip, monkeypatch):
    monkeypatch.setattr("dam.objectives.pesg._CPU_ELEMENTS", 20)  # several groups, one tensor larger than a group
    states = []
    for foreach in (True, False):
        net, loss = small_net(), AUCMarginLoss(num_labels=2)
        optimizer = PESG(net.parameters(), loss, 0.1, 0.02, 1e-3, 0.9, clip, mode, variant, foreach=foreach)
        for step in range(12):
            if step == 7:
                optimizer.update_reference()
            small_step(net, loss, optimizer, step)
        states.append(everything(net, loss, optimizer))
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_adam_mode_without_pulls_is_adam():
    net, loss = small_net(), AUCMarginLoss(num_labels=2)
    twin, twin_loss = copy.deepcopy((net, loss))
    optimizer = PESG(net.parameters(), loss, lr=0.01, gamma=0.0, weight_decay=0.02, mode="adam")
    adam = torch.optim.Adam([*twin.parameters(), twin_loss.a, twin_loss.b], lr=0.01, weight_decay=0.02)
    for step in range(10):
        with torch.no_grad():
            twin_loss.alpha.copy_(loss.alpha)
        small_step(net, loss, optimizer, step)
        small_step(twin, twin_loss, adam, step)
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", ["sgd", "adam"])
@pytest.mark.parametrize("foreach", [True, False])
def test_bf16_parameters_stay_bf16_with_state_in_float32(mode, foreach):
    net, loss = small_net(torch.bfloat16), AUCMarginLoss(num_labels=2)
    full, full_loss = small_net(), AUCMarginLoss(num_labels=2)
    full.load_state_dict({k: v.float() for k, v in net.state_dict().items()})
    options = {"lr": 0.05, "gamma": 0.02, "momentum": 0.5, "mode": mode, "foreach": foreach}
    optimizer = PESG(net.parameters(), loss, **options)
    exact = PESG(full.parameters(), full_loss, **options)
    for step in range(6):
        small_step(net, loss, optimizer, step)
        small_step(full, full_loss, exact, step)
    optimizer.update_reference()
    for p, q in zip(net.parameters(), full.parameters(), strict=True):
        assert p.dtype == torch.bfloat16
        torch.testing.assert_close(p.float(), q, rtol=0.05, atol=0.05)
        state = optimizer.state[p]
        assert all(v.dtype == torch.float32 for v in state.values() if isinstance(v, Tensor))
    assert all(value.dtype == torch.float32 for value in optimizer.reference())


# ------------------------------------------------------------------ the reference


def test_reference_starts_where_the_optimizer_first_steps():
    x, y, w = problem()
    weight, loss = nn.Parameter(torch.zeros(3)), AUCMarginLoss(prior=0.25)
    optimizer = PESG([weight], loss, lr=0.1, gamma=0.5)
    with torch.no_grad():  # weights loaded and a, b set after the optimizer was made
        weight.copy_(w)
        loss.a.fill_(0.6)
    optimizer.update_reference()  # no step yet: nothing to average
    loss(torch.sigmoid(x @ weight), y).backward()
    gradient = weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), w - 0.1 * gradient)  # no pull at v_ref itself
    torch.testing.assert_close(optimizer.reference()[0], w)
    assert optimizer.reference()[1].item() == pytest.approx(0.6)


def test_update_without_a_step_since_is_a_no_op():
    net, loss = small_net(), AUCMarginLoss(num_labels=2)
    optimizer = PESG(net.parameters(), loss, lr=0.1, gamma=0.1)
    optimizer.update_reference()
    small_step(net, loss, optimizer, 0)
    optimizer.update_reference()
    first = optimizer.reference()
    optimizer.update_reference()
    assert_equal(optimizer.reference(), first)
    torch.testing.assert_close(first[0], next(net.parameters()).detach())  # the average of one iterate


def test_parameters_without_gradient_keep_value_and_reference():
    net, loss = small_net(), AUCMarginLoss(num_labels=2)
    frozen = nn.Parameter(torch.full((3,), 2.0))
    optimizer = PESG([*net.parameters(), frozen], loss, lr=0.1, gamma=0.1, weight_decay=0.1)
    for step in range(4):
        small_step(net, loss, optimizer, step)
    optimizer.update_reference()
    small_step(net, loss, optimizer, 4)
    assert torch.equal(frozen, torch.full((3,), 2.0))
    assert torch.equal(optimizer.reference()[4], torch.full((3,), 2.0))


def test_a_parameter_whose_gradient_comes_and_goes_is_averaged_over_all_iterates():
    p, q = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    loss = AUCMarginLoss()
    optimizer = PESG([p, q], loss, lr=0.5, gamma=0.0)
    seen = []
    for has_gradient in (False, True, False, True, False):
        p.grad, q.grad = torch.ones(1), torch.ones(1) if has_gradient else None
        optimizer.step()
        seen.append(q.item())
    optimizer.update_reference()
    assert seen == [1.0, 0.5, 0.5, 0.0, 0.0]
    assert optimizer.reference()[1].item() == pytest.approx(sum(seen) / 5)


def test_gamma_pulls_and_set_reference():
    weight, loss = nn.Parameter(torch.tensor([1.0, 2.0])), AUCMarginLoss()
    optimizer = PESG([weight], loss, lr=0.1, gamma=0.5)
    optimizer.set_reference([torch.zeros(2), torch.zeros(1), torch.zeros(1)])
    weight.grad = torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.95, 1.9]))
    optimizer.set_reference()  # here
    torch.testing.assert_close(optimizer.reference()[0], torch.tensor([0.95, 1.9]))
    optimizer.reference()[0].zero_()  # a copy
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.95, 1.9]))
    with pytest.raises(ValueError, match="v_ref needs 3 tensors"):
        optimizer.set_reference([torch.zeros(2)])


@pytest.mark.parametrize("variant", ["paper", "libauc"])
def test_momentum_begins_for_each_parameter_at_its_own_first_step(variant):
    def train(foreach):
        weights = [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([3.0]))]
        optimizer = PESG(weights, AUCMarginLoss(), 0.1, 0.3, 0.2, 0.9, variant=variant, foreach=foreach)
        for step in range(12):
            weights[0].grad = torch.tensor([0.5, -1.0]) * (step + 1) / 12
            weights[1].grad = None if step < 3 else torch.tensor([0.25])
            optimizer.step()
        optimizer.update_reference()
        return [*[w.detach() for w in weights], *optimizer.reference()]

    torch.testing.assert_close(train(foreach=True), train(foreach=False))


@pytest.mark.parametrize("which", ["parameter", "gradient", "buffer", "holes"])
def test_momentum_of_tensors_that_lie_differently_in_memory(which):
    """A gradient set by hand, a checkpoint of another memory format, a parameter that is a view."""

    def train(foreach):
        torch.manual_seed(0)
        weight = torch.randn(4, 3, 5, 5)
        if which == "parameter":
            weight = weight.contiguous(memory_format=torch.channels_last)
        parameter = nn.Parameter(torch.cat([weight, weight], dim=3)[..., ::2] if which == "holes" else weight)
        optimizer = PESG([parameter], AUCMarginLoss(), 0.1, 0.3, 0.2, 0.9, foreach=foreach)
        for step in range(3):
            gradient = torch.randn(4, 3, 5, 5)
            parameter.grad = gradient.contiguous(memory_format=torch.channels_last) if which == "gradient" else gradient
            optimizer.step()
            if which == "buffer" and step == 0:
                state = optimizer.state[parameter]
                state["momentum_buffer"] = state["momentum_buffer"].contiguous(memory_format=torch.channels_last)
        return parameter.detach()

    torch.testing.assert_close(train(foreach=True), train(foreach=False))


def test_reference_of_many_equal_iterates_is_right_to_the_last_digit():
    weight, loss = nn.Parameter(torch.tensor([0.1, 123.456])), AUCMarginLoss()
    optimizer = PESG([weight], loss, lr=0.1, gamma=0.0)
    weight.grad = torch.zeros(2)
    for _ in range(3000):
        optimizer.step()
    optimizer.update_reference()
    # v_ref is taken off the sum once in some steps, so one rounding is left where the plain sum would lose three digits
    torch.testing.assert_close(optimizer.reference()[0], weight.detach(), rtol=1.2e-7, atol=0)


@pytest.mark.parametrize("steps", [1, 3, 7, 8, 9, 20])
def test_a_parameter_that_begins_late_counts_the_steps_before_as_standing_still(steps):
    weight, late, loss = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([3.0])), AUCMarginLoss()
    optimizer = PESG([weight, late], loss, lr=0.5, gamma=0.0)
    weight.grad = torch.ones(1)
    for _ in range(steps):
        optimizer.step()
    late.grad = torch.ones(1)
    for _ in range(4):
        optimizer.step()
    iterates = [3.0] * steps + [2.5, 2.0, 1.5, 1.0]
    optimizer.update_reference()
    torch.testing.assert_close(optimizer.reference()[1], torch.tensor([sum(iterates) / len(iterates)]))
