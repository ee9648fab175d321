"""Goal 5: DenseNet-121 at 224 x 224 in the layout and precision that the product would use, against float32 as is.

Batches of 16: below, torch with one thread computes convolutions of 1 x 1 without oneDNN (``_slow_conv2d``), which it
never does with two threads. All with freed memory kept, as the product has it; what that saves is measured first.
"""

from __future__ import annotations

import copy

import timm
import torch

from benchmarks.machine import has_bf16
from benchmarks.measure import Line, Report, Rounds, cpu_seconds, milliseconds, profile_of
from benchmarks.workload import Bare
from dam.memory import keep_freed
from dam.training.device import Device

BOUNDS = {"float32, the product's layout": 0.88, "bf16, the product's layout": 0.50}


def run(quick: bool) -> Report:
    """The layout is what ``Device.layout`` chooses; bf16 is judged where the processor has units for it."""
    size, batch = (64, 2) if quick else (224, 16)
    model = timm.create_model("densenet121", num_classes=1, in_chans=1)
    cpu = torch.device("cpu")
    kept = _kept(model, size, 2 * batch)
    plain, auto, half = Device(cpu, None, False), Device(cpu, None, None), Device(cpu, torch.bfloat16, None)
    variants = {
        "float32, default layout": plain,
        "float32, the product's layout": auto,
        "bf16, the product's layout": half,
    }
    bare = {}
    for name, device in variants.items():
        mine = copy.deepcopy(model).to(memory_format=device.layout(model))
        images = torch.randn(batch, 1, size, size)
        if device is not plain:  # gray pixels one after another are both layouts at once; this says which is meant
            images = images.contiguous(memory_format=torch.channels_last)
        bare[name] = Bare(mine, device, images)
    found = Rounds({name: (lambda one=one: one(1)) for name, one in bare.items()}).run(2 if quick else 5)
    report = Report([Line(f"float32, batch {2 * batch}: freed memory kept, against glibc as it is", kept)])
    for name, bound in BOUNDS.items():
        judged = bound if "bf16" not in name or has_bf16() else None
        base = "float32, default layout"
        note = f"{milliseconds(found.median(name))} against {milliseconds(found.median(base))} an image"
        report.lines.append(found.line(name, base, f"DenseNet-121, {size}: {name}", judged, note=note))
        if report.lines[-1].missed:
            report.profile += profile_of(lambda one=bare[name]: one(1))
    return report


def _kept(model: torch.nn.Module, size: int, batch: int) -> float:
    """CPU seconds of a step with ``keep_freed``, which nothing undoes, against those before it."""
    device = Device(torch.device("cpu"), None, True)
    images = torch.randn(batch, 1, size, size).contiguous(memory_format=torch.channels_last)
    bare = Bare(copy.deepcopy(model).to(memory_format=torch.channels_last), device, images)
    taken = []
    for prepare in (None, keep_freed):
        if prepare is not None:
            prepare()
        bare(1)
        began = cpu_seconds()
        bare(2)
        taken.append(cpu_seconds() - began)
    return taken[1] / taken[0]
