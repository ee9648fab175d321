"""PESG as a torch optimizer: restoring, closures, groups, schedulers, wrong use."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from objective_problems import assert_equal, everything, problem, small_net, small_step
from torch import Tensor, nn

from dam.objectives import PESG, AUCMarginLoss, CrossEntropyLoss

torch.set_num_threads(1)


# ------------------------------------------------------------------ a torch optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["sgd", "adam"])
@pytest.mark.parametrize("variant", ["paper", "libauc"])
def test_a_restored_run_goes_on_bit_for_bit(mode, variant, dtype):
    def fresh(seed: int) -> tuple[nn.Module, AUCMarginLoss, PESG]:
        net, loss = small_net(dtype, seed), AUCMarginLoss(num_labels=2)
        groups = [{"params": net[0].parameters(), "lr": 0.02, "weight_decay": 0.1}, {"params": net[2].parameters()}]
        return net, loss, PESG(groups, loss, 0.1, 0.02, 1e-3, 0.9, None, mode, variant)

    def go_on(run: tuple[nn.Module, AUCMarginLoss, PESG]) -> list[Tensor]:
        for step in range(5, 12):
            if step == 9:
                run[2].update_reference()
            small_step(*run, step)
        return everything(*run)

    run = fresh(0)
    for step in range(5):
        if step == 3:
            run[2].update_reference()
        small_step(*run, step)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in run], file)
    twin = copy.deepcopy(run)
    expected = go_on(run)
    file.seek(0)
    restored = fresh(1)
    for part, state in zip(restored, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert_equal(go_on(restored), expected)
    assert_equal(go_on(twin), expected)


def test_optimizer_pickles_and_options_travel():
    net, loss = small_net(), AUCMarginLoss(num_labels=2)
    optimizer = PESG(net.parameters(), loss, 0.1, 0.02, mode="adam", variant="libauc")
    small_step(net, loss, optimizer, 0)
    again = pickle.loads(pickle.dumps((net, loss, optimizer)))
    small_step(net, loss, optimizer, 1)
    small_step(*again, 1)
    assert_equal(everything(*again), everything(net, loss, optimizer))


def test_closure():
    x, y, w = problem()
    weight, loss = nn.Parameter(w.clone()), AUCMarginLoss(prior=0.25)
    optimizer = PESG([weight], loss, lr=0.1, gamma=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(torch.sigmoid(x @ weight), y)
        value.backward()
        return value

    first = optimizer.step(closure)
    assert first.requires_grad
    assert not torch.equal(weight.detach(), w)
    twin, twin_loss = nn.Parameter(w.clone()), AUCMarginLoss(prior=0.25)
    other = PESG([twin], twin_loss, lr=0.1, gamma=0.1)
    twin_loss(torch.sigmoid(x @ twin), y).backward()
    assert other.step() is None
    assert torch.equal(weight, twin)


def test_loss_parameters_are_taken_from_the_loss_and_never_twice():
    net, loss = small_net(), AUCMarginLoss(num_labels=2)
    whole = nn.ModuleList([net, loss])
    given = [whole.parameters(), [{"params": net.parameters()}, {"params": [loss.a, loss.b, loss.alpha], "lr": 9.0}]]
    for params in given:
        optimizer = PESG(params, loss, lr=0.1, gamma=0.1)
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert len(held) == len(set(held)) == 7
        assert [group["role"] for group in optimizer.param_groups] == ["model", "means", "dual"]
        assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    named = PESG(net.named_parameters(), loss, lr=0.1, gamma=0.1)
    assert named.param_groups[1]["param_names"] == ["loss.a", "loss.b"]
    small_step(net, loss, named, 0)


def test_groups_have_their_own_options_and_lr_is_read_at_each_step():
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    loss = AUCMarginLoss()
    optimizer = PESG([{"params": p, "lr": 0.5}, {"params": [q], "weight_decay": 1.0}], loss, lr=0.1, gamma=0.0)
    for tensor in (p, q, *loss.parameters()):
        tensor.grad = torch.ones(1)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([0.5]))
    torch.testing.assert_close(q.detach(), torch.tensor([0.8]))
    torch.testing.assert_close(loss.a.detach(), torch.tensor([-0.1]))
    torch.testing.assert_close(loss.alpha.detach(), torch.tensor([0.1]))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    torch.testing.assert_close(q.detach(), torch.tensor([0.8]))
    torch.testing.assert_close(loss.alpha.detach(), torch.tensor([0.1]))


def test_torch_schedulers_and_grad_scaler_serve():
    net, loss = small_net(), AUCMarginLoss(num_labels=2)
    optimizer = PESG(net.parameters(), loss, lr=0.1, gamma=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss(torch.sigmoid(net(torch.ones(4, 6))), torch.eye(4, 2))).backward()
    gradient = loss.alpha.grad.clone() / 1024
    scaler.step(optimizer)
    torch.testing.assert_close(loss.alpha.detach(), (0.1 * gradient).clamp_min(0))
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01] * 3)


def test_direct_form_has_no_ascent():
    net, loss = small_net(), AUCMarginLoss(num_labels=2, inner="batch")
    for variant in ("paper", "libauc"):
        optimizer = PESG(net.parameters(), loss, lr=0.1, gamma=0.1, variant=variant)
        assert len(optimizer.param_groups) == 1
        for step in range(3):
            small_step(net, loss, optimizer, step)
        optimizer.update_reference()
        assert len(optimizer.reference()) == 4


def test_wrong_use_is_refused():
    net, loss = small_net(), AUCMarginLoss(num_labels=2)
    with pytest.raises(ValueError, match="CrossEntropyLoss does not have"):
        PESG(net.parameters(), CrossEntropyLoss(), lr=0.1, gamma=0.1)
    with pytest.raises(ValueError, match="no parameters"):
        PESG(loss.parameters(), loss, lr=0.1, gamma=0.1)
    with pytest.raises(TypeError, match="not one tensor"):
        PESG(next(net.parameters()), loss, lr=0.1, gamma=0.1)
    wrong = [
        {"lr": -1.0},
        {"gamma": -1.0},
        {"weight_decay": -1.0},
        {"momentum": 1.0},
        {"clip": 0.0},
        {"mode": "lion"},
        {"variant": "v2"},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            PESG(net.parameters(), loss, **{"lr": 0.1, "gamma": 0.1, **options})
    with pytest.raises(ValueError, match="momentum"):
        PESG([{"params": net.parameters(), "momentum": 2.0}], loss, lr=0.1, gamma=0.1)
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = PESG(embedding.parameters(), loss, lr=0.1, gamma=0.1)
    loss(torch.sigmoid(embedding(torch.tensor([0, 1]))), torch.eye(2)).backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


def test_it_learns():
    """A linear model on shifted classes: the objective of eq. (6) falls and the ranking becomes right."""
    generator = torch.Generator().manual_seed(3)
    y = (torch.arange(200) < 40).float()
    x = torch.randn(200, 4, generator=generator) + y[:, None] * torch.tensor([1.0, -1.0, 0.5, 0.0])
    for inner in ("learned", "batch"):
        net = nn.Linear(4, 1)
        with torch.no_grad():
            net.weight.zero_()
        loss = AUCMarginLoss(prior=0.2 if inner == "learned" else None, inner=inner)
        optimizer = PESG(net.parameters(), loss, lr=0.5, gamma=1 / 500)
        before = sum(loss.terms(torch.sigmoid(net(x)[:, 0]), y)).item()
        for _ in range(200):
            optimizer.zero_grad()
            loss(torch.sigmoid(net(x)[:, 0]), y).backward()
            optimizer.step()
        h = torch.sigmoid(net(x)[:, 0]).detach()
        assert sum(loss.terms(h, y)).item() < 0.6 * before
        auc = (h[y == 1][:, None] > h[y == 0][None]).float().mean().item()
        assert auc > 0.85
