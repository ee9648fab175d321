"""Goal 2: one training item from the image store, augmented and normalized, against PIL with torchvision."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Report, Rounds, milliseconds, profile_of
from benchmarks.workload import CHEST, CIFAR, one_stage
from dam.training.stage import Stage

BOUNDS = {224: 1 / 5, 32: 1 / 10}
BATCHES = 8


def run(quick: bool) -> Report:
    """At 224 pixels the usual item is a JPEG of 390 x 320 from disk; of CIFAR it is an array in memory, as its files
    are read once. The same kind of augmentation on both sides; batches
    of 32 and 128, as the recipes have."""
    report = Report()
    chest, cifar = one_stage((*CHEST, "model=timm", "model.name=resnet8_cifar"), 32, 1), one_stage(CIFAR, 128, 3)
    for size, stage, usual in ((224, chest, _chest_items(chest)), (32, cifar, _cifar_items())):
        variants = {"dam": lambda stage=stage: _items(stage), "torchvision": usual}
        if size == 224 and importlib.util.find_spec("timm"):
            variants["timm"] = _timm_items(chest)
        found = Rounds(variants).run(2 if quick else 9)
        note = f"{milliseconds(found.median('dam'))} against {milliseconds(found.median('torchvision'))}"
        line = found.line("dam", "torchvision", f"item of {size} x {size}", BOUNDS[size], note=note)
        report.lines.append(line)
        if "timm" in variants:
            report.lines.append(found.line("timm", "torchvision", "peer: timm's training transform"))
        if line.missed:
            report.profile += f"{line.what}\n{profile_of(lambda stage=stage: _items(stage))}\n"
    return report


def _items(stage: Stage) -> int:
    """Read, augmented by the loader, normalized by the network's first layer: float tensors as the model takes them."""
    seen = 0
    with torch.no_grad():
        for batch in stage.loader.batches(stage.sampler.epoch(0)[:BATCHES]):
            seen += len(stage.network.inputs(batch.images))
    return seen


def _files(stage: Stage) -> list[Path]:
    folder = stage.tools.inputs.store.path / "jpeg"
    files = [folder / f"{number}.jpg" for number in range(64)]
    if not folder.exists():
        folder.mkdir()
        pictures = stage.tools.inputs.store.take(np.arange(64))[..., 0]
        for file, picture in zip(files, pictures, strict=True):
            Image.fromarray(picture).resize((390, 320)).save(file, quality=90)
    return files


def _chest_items(stage: Stage):
    from torchvision import transforms

    files = _files(stage)
    pipeline = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.RandomAffine(15, (0.05, 0.05), (0.95, 1.05)),
            transforms.RandomApply([transforms.ColorJitter(0.1, 0.1)], 0.5),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    def usual() -> int:
        torch.stack([pipeline(Image.open(file).convert("RGB")) for file in files])
        return len(files)

    return usual


def _timm_items(stage: Stage):
    from timm.data import create_transform

    files, pipeline = _files(stage), create_transform(224, is_training=True)

    def theirs() -> int:
        torch.stack([pipeline(Image.open(file).convert("RGB")) for file in files])
        return len(files)

    return theirs


def _cifar_items():
    from torchvision import transforms

    pictures = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    pipeline = transforms.Compose(
        [
            transforms.RandomCrop(32, 4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.491, 0.482, 0.447], [0.247, 0.243, 0.262]),
        ]
    )

    def usual() -> int:
        torch.stack([pipeline(Image.fromarray(picture)) for picture in pictures])
        return len(pictures)

    return usual
