"""Goal 5: DenseNet-121 at 224 x 224 in the layout and precision that the product would use, against float32 as is."""

from __future__ import annotations

import copy

import timm
import torch

from benchmarks.machine import has_bf16
from benchmarks.measure import Report, Rounds, milliseconds, profile_of
from benchmarks.workload import Bare
from dam.training.device import Device

BOUNDS = {"float32, the product's layout": 0.88, "bf16, the product's layout": 0.50}


def run(quick: bool) -> Report:
    """The layout is what ``Device.place`` chooses; bf16 is judged where the processor has units for it."""
    size, batch, steps = (64, 2, 1) if quick else (224, 8, 2)
    model = timm.create_model("densenet121", num_classes=1, in_chans=1)
    cpu = torch.device("cpu")
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
    found = Rounds({name: (lambda one=one: one(steps)) for name, one in bare.items()}).run(2 if quick else 7)
    report = Report()
    for name, bound in BOUNDS.items():
        judged = bound if "bf16" not in name or has_bf16() else None
        base = "float32, default layout"
        note = f"{milliseconds(found.median(name))} against {milliseconds(found.median(base))} an image"
        report.lines.append(found.line(name, base, f"DenseNet-121, {size}: {name}", judged, note=note))
        if report.lines[-1].missed:
            report.profile += profile_of(lambda one=bare[name]: one(1))
    return report
