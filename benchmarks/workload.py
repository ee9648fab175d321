"""What the benchmarks train on: stores of made-up rows, and the product's own stages over them."""

from __future__ import annotations

import itertools
import json
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dam.compose import compose
from dam.config import Config
from dam.data import store as stores
from dam.data.store import ImageStore
from dam.data.table import ImageTable
from dam.training import tracking
from dam.training.device import Device, resolve
from dam.training.inputs import Inputs, on_paper
from dam.training.interrupt import StopRequest
from dam.training.module import Network
from dam.training.networks import disease_network
from dam.training.plan import make_plan
from dam.training.progress import Progress
from dam.training.rundir import RunDirectory
from dam.training.stage import Stage, StageTools

FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
CIFAR = ("model=resnet20_cifar", "augment=cifar", "image_size=32")
CHEST = ("model=densenet121", "augment=chest")


def make_store(rows: int, size: int, channels: int, folder: Path | None = None) -> ImageStore:
    """A store of ``rows`` smooth random pictures, in the format of the product's."""
    folder = folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    side = max(1, size // 8)
    name = {1: "gray.u8", 3: "rgb.u8"}[channels]
    with open(folder / name, "wb") as file:
        for start in range(0, rows, 512):
            coarse = rng.integers(0, 256, (min(512, rows - start), side, side, channels), dtype=np.uint8)
            fine = coarse.repeat(-(-size // side), axis=1).repeat(-(-size // side), axis=2)[:, :size, :size]
            file.write(np.ascontiguousarray(fine).data)
    index = {
        "format": stores.FORMAT, "first_built_for": "benchmark", "size": size, "channels": channels, "colour": "auto",
        "fit": "pad", "file": name, "skipped": {}, "remarks": {}, "locators": [f"{row:07d}.jpg" for row in range(rows)],
        "digests": [f"{row:032x}" for row in range(rows)],
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return ImageStore(folder)


def make_table(rows: int, labels: tuple[str, ...], validation: int = 64) -> ImageTable:
    """``rows`` training rows and ``validation`` others, two images a patient, a fifth of each label positive."""
    rng = np.random.default_rng(1)
    count = rows + validation
    number = np.arange(count)
    frame = pd.DataFrame(
        {
            "image": [f"{row:07d}.jpg" for row in number],
            "patient": [f"p{row // 2}" for row in number],
            "study": [f"s{row}" for row in number],
            "split": ["train"] * rows + ["val"] * validation,
            **{label: (rng.random(count) < 0.2).astype(float) for label in labels},
        }
    )
    return ImageTable(frame, labels, Path(), "benchmark")


def config(*words: str) -> Config:
    """A config of the second part alone, without weights from anywhere."""
    fixed = ["data=phantom", "model.weights=null", "warm_start=none", "auc=auc_margin", "device=cpu", "workers=1"]
    return compose([*fixed, "checkpoint.minutes=null", *words])


def inputs_of(cfg: Config, table: ImageTable, store: ImageStore, device: Device) -> Inputs:
    """As the product makes them of a store that holds the table's images in its order."""
    return replace(on_paper(cfg, table), store=store, store_rows=np.arange(len(table)), device=device.device)


def make_stages(cfg: Config, inputs: Inputs, device: Device, folder: Path | None = None) -> list[Stage]:
    """The stages of the second part, ready to train, one a label."""
    run = RunDirectory(folder or Path(tempfile.mkdtemp()))
    tools = StageTools(cfg, run, inputs, device, StopRequest(), tracking.make_trackers(cfg.tracking))
    return [
        begin(Stage(planned.spec, tools, disease_network(planned, tools))) for planned in make_plan(cfg, inputs, run)
    ]


def begin(stage: Stage) -> Stage:
    """In training mode, as ``Stage.run`` begins."""
    stage.spec.folder.mkdir(parents=True, exist_ok=True)
    stage.progress = Progress(stage.spec.title, stage.spec.steps, 0)
    stage.train_mode()
    return stage


def one_stage(words: tuple[str, ...], batch: int, channels: int, steps: int = 20) -> Stage:
    """A stage whose epochs have ``steps`` steps and that evaluates never; ``steps`` is as much as a round trains."""
    rows = batch * steps
    cfg = config(*words, f"batch_size={batch}", "auc.labels=[Edema]",
                 "sampler@auc.sampler=shuffle", "auc.loss.prior=train",
                 "auc.epochs=1000", "auc.eval_every=1000")  # fmt: skip
    device = resolve(cfg)
    table = make_table(rows, FIVE)
    store = make_store(len(table), cfg.image_size, channels)
    (stage,) = make_stages(cfg, inputs_of(cfg, table, store, device), device)
    return stage


def train(stage: Stage, steps: int) -> int:
    """The next ``steps`` steps as ``Stage.run`` makes them, with a loader started and ended; images seen."""
    images = 0
    draws = itertools.islice(stage._draws(stage.step), steps)
    with closing(stage.loader.batches(draws)) as batches:
        for batch in batches:
            stage._train_step(batch)
            stage._after_step(len(batch.rows))
            images += len(batch.rows)
    return images


class Bare:
    """Forward and backward of a network on one batch in memory, already what the network takes; nothing else.

    ``optimizer``: also its step, as the bare training step.
    """

    def __init__(
        self, model: nn.Module, device: Device, images: Tensor, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        self._model, self._device, self._images, self._optimizer = model, device, images, optimizer
        self._targets = (torch.arange(len(images), device=device.device) % 2).float().unsqueeze(1)

    def __call__(self, steps: int) -> int:
        """``steps`` times; images seen."""
        for _ in range(steps):
            self._model.zero_grad(set_to_none=True)
            with self._device.autocast():
                features = self._model.forward_features(self._images)  # type: ignore[operator]
            logits = self._model.forward_head(features.float())  # type: ignore[operator]
            nn.functional.binary_cross_entropy_with_logits(logits, self._targets.expand_as(logits)).backward()
            if self._optimizer is not None:
                self._optimizer.step()
        return steps * len(self._images)


def normalized(network: Network, shape: tuple[int, int, int, int]) -> Tensor:
    """Random uint8 images (N, H, W, C) as ``network`` hands them to its model: also laid out in memory so."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=network.device.device)
    with torch.no_grad():
        return network.inputs(images)


def bare_of(stage: Stage, with_optimizer: bool = False) -> Bare:
    """The bare step of a stage's own network; with an optimizer of the same kind on a copy of it."""
    cfg, channels = stage.cfg, stage.tools.inputs.store.channels
    shape = (cfg.batch_size, cfg.image_size, cfg.image_size, channels)
    images = normalized(stage.network, shape)
    if not with_optimizer:
        return Bare(stage.network.model, stage.device, images)
    import copy

    from dam.objectives import PESG, AUCMarginLoss

    model = copy.deepcopy(stage.network.model)
    return Bare(model, stage.device, images, PESG(model.parameters(), AUCMarginLoss(), 1e-3, 0.002))
