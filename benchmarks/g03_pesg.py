"""Goal 3: the step of PESG on DenseNet-121's 7 million parameters, against torch's fused SGD with momentum."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from torch import nn

from benchmarks.measure import Report, Rounds, milliseconds, profile_of, repeated
from dam.objectives import PESG, AUCMarginLoss

BOUND = 2.5
KINDS: dict[str, dict[str, Any]] = {
    "the product's default": {},
    "with momentum .9": {"momentum": 0.9},
    "with momentum .9 and weight decay": {"momentum": 0.9, "weight_decay": 1e-4},
    "variant libauc (momentum .9, clip 1)": {"momentum": 0.9, "weight_decay": 1e-5, "variant": "libauc"},
}
JUDGED = ("the product's default", "with momentum .9")
LAST = ", channels_last"  # as the product trains it; there torch's fused SGD copies filters, so that the ratio is lower


def run(quick: bool) -> Report:
    """All on one thread, gradients as they come from a backward pass; both layouts for what is judged."""
    model = _network(quick)
    steps = {"SGD": _sgd(model)}
    for name, options in KINDS.items():
        steps[name] = _pesg(_with_gradients(model), options).step
    if importlib.util.find_spec("libauc"):
        steps["LibAUC 2.0.1"] = _libauc(_with_gradients(model))
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    steps["SGD" + LAST] = _sgd(last)
    for name in JUDGED:
        steps[name + LAST] = _pesg(_with_gradients(last), KINDS[name]).step
    found = Rounds({name: repeated(step, 2 if quick else 10) for name, step in steps.items()}).run(3 if quick else 12)
    report = Report(facts={f"{name}, ms a step": 1e3 * found.median(name) for name in steps})
    for name in steps:
        base = "SGD" + LAST if name.endswith(LAST) else "SGD"
        if name == base:
            continue
        bound = BOUND if name.removesuffix(LAST) in JUDGED else None
        note = f"{milliseconds(found.median(name))} against {milliseconds(found.median(base))}"
        report.lines.append(found.line(name, base, f"PESG, {name}", bound, note=note))
    if any(line.missed for line in report.lines):
        report.profile = profile_of(repeated(steps["with momentum .9"], 10))
    return report


def _network(quick: bool) -> nn.Module:
    import timm

    return timm.create_model("resnet18" if quick else "densenet121", num_classes=1, in_chans=1)


def _sgd(model: nn.Module) -> Any:
    params = _with_gradients(model).parameters()
    return torch.optim.SGD(params, lr=1e-3, momentum=0.9, weight_decay=1e-5, fused=True).step


def _with_gradients(model: nn.Module) -> nn.Module:
    mine = copy.deepcopy(model)
    for p in mine.parameters():
        p.grad = torch.randn_like(p) * 1e-3
    return mine


def _pesg(model: nn.Module, options: dict[str, Any]) -> PESG:
    loss = AUCMarginLoss()
    for p in loss.parameters():
        p.grad = torch.zeros_like(p)
    return PESG(model.parameters(), loss, lr=1e-3, gamma=0.002, **options)


def _libauc(model: nn.Module) -> Any:
    from libauc.losses import AUCMLoss
    from libauc.optimizers import PESG as Theirs

    loss = AUCMLoss()
    for value in (loss.a, loss.b, loss.alpha):
        value.grad = torch.zeros_like(value)
    return Theirs(model.parameters(), loss_fn=loss, lr=1e-3, momentum=0.9, verbose=False, device="cpu").step
