"""The usual loop of LibAUC 2.0.1, as its examples write it: torchvision transforms on PIL images, ``DualSampler``,
``DataLoader`` with two workers, ``AUCMLoss``, ``PESG``, a sigmoid, and the AUC of held-out rows by scikit-learn.

``python -m benchmarks.libauc_loop OUT NPZ MODEL BATCH STEPS RATE``; NPZ holds ``train``, ``val`` and ``test`` (uint8
arrays of images, or file names) and their ``_labels``. Its figures go to OUT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from benchmarks.measure import cpu_seconds, peak_bytes


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Items as the examples make them; ``targets`` is where ``DualSampler`` looks."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, pipeline: Any) -> None:
        self.images, self.targets, self.pipeline = images, labels.astype(np.float32), pipeline

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.images[row]
        image = Image.open(item).convert("RGB") if isinstance(item, str) else Image.fromarray(item)
        return self.pipeline(image), torch.tensor([self.targets[row]])


def pipelines(small: bool) -> tuple[Any, Any]:
    """Training and validation transforms, of the same kind as the product's ``augment=cifar`` and ``augment=chest``."""
    if small:
        mine = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip()]
        sized: list[Any] = []
    else:
        mine = [transforms.RandomAffine(15, (0.05, 0.05), (0.95, 1.05)),
                transforms.RandomApply([transforms.ColorJitter(0.1, 0.1)], 0.5)]  # fmt: skip
        sized = [transforms.Resize((224, 224))]
    end = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    return transforms.Compose([*sized, *mine, *end]), transforms.Compose([*sized, *end])


def main(out: Path, data: Path, model_name: str, batch: int, steps: int, rate: float) -> None:
    """``steps`` steps, then one evaluation on the validation rows and one on the test rows."""
    import timm
    from libauc.losses import AUCMLoss
    from libauc.optimizers import PESG
    from libauc.sampler import DualSampler
    from sklearn.metrics import roc_auc_score

    import dam.models.resnet_cifar  # noqa: F401  registers the networks of 32 x 32 images with timm

    torch.manual_seed(0)
    files = np.load(data)
    training, validation = pipelines(small=files["train"].dtype == np.uint8)
    items = [Images(_native(files[name]), files[f"{name}_labels"], pipeline)
             for name, pipeline in (("train", training), ("val", validation), ("test", validation))]  # fmt: skip
    sampler = DualSampler(items[0], batch, sampling_rate=rate)
    loader = torch.utils.data.DataLoader(items[0], batch, sampler=sampler, num_workers=2)
    model = timm.create_model(model_name, num_classes=1)
    loss_fn = AUCMLoss(device="cpu")
    optimizer = PESG(model.parameters(), loss_fn=loss_fn, lr=0.1, momentum=0.9, verbose=False, device="cpu")
    began, done = cpu_seconds(), 0
    model.train()
    while done < steps:
        for images, targets in loader:
            loss = loss_fn(torch.sigmoid(model(images)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    trained = cpu_seconds() - began
    model.eval()
    aucs = []
    for held_out in items[1:]:
        scores = []
        with torch.no_grad():
            for images, _ in torch.utils.data.DataLoader(held_out, batch, num_workers=2):
                scores.append(torch.sigmoid(model(images)))
        aucs.append(float(roc_auc_score(held_out.targets, torch.cat(scores).numpy()[:, 0])))
    told = {"cpu": cpu_seconds(), "loop": trained, "peak": peak_bytes(), "steps": done, "auc": aucs[0]}
    out.write_text(json.dumps(told), encoding="utf-8")


def _native(images: np.ndarray) -> Any:
    return images if images.dtype == np.uint8 else [str(name) for name in images]


if __name__ == "__main__":
    place, npz, name, size, count, share = sys.argv[1:]
    main(Path(place), Path(npz), name, int(size), int(count), float(share))
