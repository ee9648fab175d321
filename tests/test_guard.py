"""What costs time, counted instead of timed: operators, launches, allocations, bytes, modules; against bounds.

A change that exceeds a bound either has a reason (then raise the bound with it) or is a regression. The figures are the
same on every machine. What they are worth in seconds is measured by ``python -m benchmarks``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dam.objectives import PESG, AUCMarginLoss, AUCSquareLoss, CrossEntropyLoss, FocalLoss, StreamMonitor, class_counts

# Operators that wait for a GPU: the host needs to know a value.
WAITING = ("aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")


def operators(function: Callable[[], Any], times: int = 1) -> Counter[str]:
    """Calls of each operator that Python or autograd makes (those within another operator left out)."""
    function()  # what only the first call does
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(times):
            function()
    found: Counter[str] = Counter()
    for event in profiler.events():
        inside = event.cpu_parent is not None and event.cpu_parent.name.startswith("aten::")
        if event.name.startswith("aten::") and (not inside or event.name in WAITING):
            found[event.name] += 1
    return found


def allocated(function: Callable[[], Any]) -> int:
    """Bytes that the operators of ``function`` allocate, whether freed again or not."""
    function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    return sum(max(0, event.self_cpu_memory_usage) for event in profiler.key_averages())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)) for _ in range(20)])


def stepping(device: str = "cpu", **options: Any) -> tuple[PESG, nn.Module, AUCMarginLoss]:
    net, loss = network().to(device), AUCMarginLoss().to(device)
    for p in [*net.parameters(), *loss.parameters()]:
        p.grad = torch.ones_like(p)
    return PESG(net.parameters(), loss, 0.1, 0.002, **options), net, loss


# ---------------------------------------------------------------- PESG


@pytest.mark.parametrize(
    ("options", "launches"),
    [
        # v_ref and v in one pass, the gradient, the running sum: three each for the network and for a and b, and two
        # for alpha; every eighth step takes v_ref off the sums
        ({}, 8),
        ({"weight_decay": 1e-4}, 10),
        ({"momentum": 0.9}, 8),
        ({"momentum": 0.9, "weight_decay": 1e-4}, 8),
        ({"momentum": 0.9, "variant": "libauc"}, 18),
    ],
)
def test_a_pesg_step_is_a_few_passes_however_many_tensors(options: dict[str, Any], launches: int) -> None:
    optimizer, _, _ = stepping(**options)
    found = operators(optimizer.step, times=4)
    assert sum(found.values()) <= 4 * launches, found
    assert not any(found[name] for name in WAITING)


def test_a_momentum_step_is_fused_in_the_layout_that_convolutions_have() -> None:
    """One channel and 1 x 1 filters have strides of their own choice, which must not send the step the slow way."""
    net = nn.Sequential(nn.Conv2d(1, 8, 7), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3)).to(
        memory_format=torch.channels_last
    )
    loss = AUCMarginLoss()
    net(torch.randn(2, 1, 16, 16).contiguous(memory_format=torch.channels_last)).square().sum().backward()
    for p in loss.parameters():
        p.grad = torch.ones_like(p)
    optimizer = PESG(net.parameters(), loss, 0.1, 0.002, momentum=0.9)
    optimizer.step()
    found = operators(optimizer.step, times=4)
    assert found["aten::_fused_sgd_"] == 4 * 2 and sum(found.values()) <= 4 * 8, found  # the network; a and b
    assert allocated(optimizer.step) <= 4 * 4 * 8 * 9 + 64  # torch's kernel copies a 3 x 3 filter, one after the other


def test_a_pesg_step_never_waits_for_the_device() -> None:
    """The meta device has no values, so whatever asked for one would raise."""
    for options in ({}, {"momentum": 0.9}, {"mode": "adam"}, {"variant": "libauc", "momentum": 0.9}):
        optimizer, _, _ = stepping("meta", **options)
        optimizer.step()
        optimizer.update_reference()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 1e-4}])
def test_a_pesg_step_allocates_nothing(options: dict[str, Any]) -> None:
    optimizer, _, _ = stepping(**options)
    assert allocated(optimizer.step) <= 64


@pytest.mark.parametrize(("options", "expected"), [({}, 8), ({"momentum": 0.9}, 12), ({"mode": "adam"}, 16)])
def test_the_bytes_of_pesgs_state_a_parameter(options: dict[str, Any], expected: int) -> None:
    optimizer, net, _ = stepping(**options)
    optimizer.step()
    weights = list(net.parameters())
    held = sum(t.nbytes for p in weights for t in optimizer.state[p].values() if isinstance(t, torch.Tensor))
    assert held == expected * sum(p.numel() for p in weights)


# ---------------------------------------------------------------- losses


def losses(labels: int) -> dict[str, nn.Module]:
    return {
        "auc_margin": AUCMarginLoss(num_labels=labels),
        "auc_margin, prior": AUCMarginLoss(num_labels=labels, prior=0.2),
        "auc_margin, class_mean": AUCMarginLoss(num_labels=labels, form="class_mean"),
        "auc_square": AUCSquareLoss(num_labels=labels),
        "auc_direct": AUCMarginLoss(num_labels=labels, inner="batch"),
        "ce": CrossEntropyLoss(),
        "focal": FocalLoss(0.25, 2.0),
    }


# With the counts of the batch, forward and backward; a few of them look at the targets, on the CPU alone.
BOUNDS = {
    "auc_margin": 67,
    "auc_margin, prior": 66,
    "auc_margin, class_mean": 76,
    "auc_square": 67,
    "auc_direct": 128,
    "ce": 45,
    "focal": 63,
}


@pytest.mark.parametrize("name", BOUNDS)
def test_operators_of_a_loss_do_not_grow_with_the_labels(name: str) -> None:
    counts = {}
    for labels in (1, 14):
        loss = losses(labels)[name]
        scores = torch.randn(32, labels, requires_grad=True)
        targets = (torch.arange(32 * labels) % 3 == 0).float().view(32, labels)

        def step(loss: nn.Module = loss, scores: torch.Tensor = scores, targets: torch.Tensor = targets) -> None:
            scores.grad = None
            loss.zero_grad(set_to_none=True)
            loss(scores, targets, class_counts(targets)).backward()

        counts[labels] = sum(operators(step).values())
    assert counts[1] == counts[14] <= BOUNDS[name], counts


@pytest.mark.parametrize("name", BOUNDS)
def test_a_loss_never_waits_for_the_device(name: str) -> None:
    loss = losses(5)[name].to("meta")
    scores, targets = torch.empty(8, 5, device="meta", requires_grad=True), torch.empty(8, 5, device="meta")
    loss(scores, targets, torch.empty(2, 5, device="meta")).backward()
    StreamMonitor(5).to("meta").update(scores, targets)


# ---------------------------------------------------------------- the loop


def test_what_the_loop_adds_to_forward_and_backward(tmp_path: Any) -> None:
    """Operators of a training step, less those of the bare one on the same network: loss, score, monitor, schedule,
    normalization, check of the loss, optimizer."""
    workload = pytest.importorskip("benchmarks.workload")
    stage = workload.one_stage(("model=timm", "model.name=resnet8_cifar", "augment=none", "image_size=32"), 4, 1, 8)
    batches = iter(list(stage.loader.batches(stage.sampler.epoch(0))))
    step = operators(lambda: stage._train_step(next(batches)), times=4)
    bare = operators(lambda: workload.bare_of(stage)(1), times=4)
    added = sum(step.values()) / 4 - sum(bare.values()) / 4
    assert added <= 165, (added, step - bare)
    # On the CPU the losses look at their targets and counts, and the loop at the loss, which costs nothing there.
    waits = {name: step[name] / 4 for name in WAITING}
    assert sum(waits.values()) <= 8, waits


# ---------------------------------------------------------------- the store, the command line


def test_an_item_reads_its_own_bytes_and_no_others(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = pytest.importorskip("benchmarks.workload")
    store = workload.make_store(64, 24, 1, tmp_path / "store")
    reads: list[int] = []
    preadv = os.preadv

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        got = preadv(descriptor, buffers, offset)
        reads.append(got)
        return got

    monkeypatch.setattr(os, "preadv", counted)
    store.take(np.array([3, 60, 3, 17]))
    assert reads == [24 * 24] * 4


def test_the_command_line_imports_nothing_of_others() -> None:
    code = (
        "import sys; before = set(sys.modules); from dam.cli import main; main(['--help']); "
        "new = set(sys.modules) - before; "
        "print('MODULES', *sorted({m.split('.')[0] for m in new} - set(sys.stdlib_module_names)), len(new))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()[-1].split()
    assert words[1:-1] == ["dam"]
    assert int(words[-1]) <= 130, done.stdout
