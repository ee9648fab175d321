"""The loop: one objective on one network, from the present step to the last. There is no other.

What is learned is a subclass's matter: ``Stage`` learns labels (warm start, disease models, control).
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from dam.config import Config, ObjectiveConfig
from dam.data.loader import Batch, Batches
from dam.data.sampling import Sampler
from dam.objectives import Schedule
from dam.training import checkpoint
from dam.training.device import Device
from dam.training.inputs import Inputs
from dam.training.interrupt import Interrupted, StopRequest
from dam.training.metrics import MetricsFile
from dam.training.module import Network
from dam.training.progress import Progress
from dam.training.rundir import RunDirectory
from dam.training.tracking import Trackers

log = logging.getLogger("dam")

# On CUDA a look at the loss waits for the device, so a non-finite one is noticed up to this many steps later.
_LOOK_EVERY = {"cuda": 16, "mps": 16}


@dataclass(frozen=True)
class StageSpec:
    """What a stage is; all durations are in steps already."""

    name: str
    title: str
    labels: tuple[str, ...]
    objective: ObjectiveConfig
    form: str
    lr: float
    steps: int
    steps_per_epoch: int
    ema: float | None
    clip_norm: float | None
    eval_every: int
    seed: int
    folder: Path


@dataclass(frozen=True)
class StageTools:
    """What all stages of a run share."""

    cfg: Config
    run: RunDirectory
    inputs: Inputs
    device: Device
    stop: StopRequest
    trackers: Trackers


@dataclass(frozen=True)
class Learner:
    """What a loop moves. ``module`` holds ``network`` and the loss; only its parameters and buffers are learned.

    ``rows`` are the table's rows that ``loader`` and ``sampler`` count from 0.
    """

    network: Network
    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    sampler: Sampler
    loader: Batches
    rows: np.ndarray
    metrics: MetricsFile


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the last checkpoint is older than that."""


class Loop(ABC):
    """One stage in training. ``run()`` trains to the end, from ``last.ckpt`` if the folder has one."""

    def __init__(self, spec: StageSpec, tools: StageTools, learner: Learner) -> None:
        self.spec, self.tools = spec, tools
        self.cfg, self.device = tools.cfg, tools.device
        self.network, self.module = learner.network, learner.module
        self.optimizer, self.schedule = learner.optimizer, learner.schedule
        self.sampler, self.loader, self.rows = learner.sampler, learner.loader, learner.rows
        self.metrics = learner.metrics
        self.ema = _average(self.network, spec.ema)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.device.autocast_dtype == torch.float16)
        self.step = 0
        self._recent: list[tuple[int, np.ndarray, Tensor]] = []
        self._timed_saves = 0
        self.latest_loss = math.nan

    # ------------------------------------------------------------ what is learned

    @abstractmethod
    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """The losses of the batch's parts, which add up to its loss; each is differentiated before the next."""

    @abstractmethod
    def stepped(self, loss: Tensor) -> None:
        """Take note of a batch's ``loss`` before the optimizer steps, without waiting for the device."""

    @abstractmethod
    def measure(self, network: Network) -> dict[str, Any]:
        """An evaluation of ``network`` (the averaged one, if there is one): the row of metrics.csv, less step, epoch
        and lr. Keeps ``best.safetensors`` where it is the best so far. Raises ``NonFiniteLoss``."""

    @abstractmethod
    def evaluated(self, row: dict[str, Any]) -> tuple[str, float]:
        """What a log line says of a row beyond the loss, and the number that the bar shows."""

    @abstractmethod
    def best_so_far(self) -> float | None:
        """For progress.json."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """For ``stage.json``, at the end."""

    def begin(self) -> None:  # noqa: B027  not every objective has something to do
        """Before step 1 of a stage that does not resume."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What exact resume needs beyond network, optimizer, average, scaler and metrics."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""

    # ------------------------------------------------------------ the loop

    def run(self) -> dict[str, Any]:
        """Train; leave ``best.safetensors`` (the chosen weights) and return the facts of the stage."""
        self.spec.folder.mkdir(parents=True, exist_ok=True)
        if not self._restore():
            self.begin()
        self.progress = Progress(self.spec.title, self.spec.steps, self.step)
        self.train_mode()
        try:
            with closing(self._batches()) as batches:
                for batch in batches:
                    self._train_step(batch)
                    self._after_step(len(batch.rows))
        finally:
            self.progress.close()
        return self.facts()

    def train_mode(self) -> None:
        """Training mode, but BatchNorm layers whose parameters are frozen keep their running statistics too."""
        self.module.train()
        for layer in self.network.model.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) and layer.affine:
                layer.train(any(p.requires_grad for p in layer.parameters(recurse=False)))

    def time_steps(self) -> float:
        """Seconds of a training step, the first left out. For the dry run."""
        self.progress = Progress(self.spec.title, self.spec.steps, 0)
        self.train_mode()
        seconds = []
        with closing(self._batches()) as batches:
            for batch in batches:
                began = time.perf_counter()
                self._train_step(batch)
                self._check_finite(force=True)  # waits for the device
                seconds.append(time.perf_counter() - began)
                self.step += 1
        self.progress.close()
        return min(seconds[1:] or seconds)

    def save_last(self) -> None:
        """``last.safetensors``: the weights after the last step, for ``warm_start.take=last``."""
        checkpoint.save_weights(self.spec.folder / "last.safetensors", self.averaged().model)

    def save_best(self) -> None:
        """``best.safetensors``: the weights of this moment."""
        checkpoint.save_weights(self.spec.folder / "best.safetensors", self.averaged().model)

    def averaged(self) -> Network:
        """The network that is evaluated and kept."""
        return self.ema.module if self.ema is not None else self.network

    def _batches(self) -> Generator[Batch]:
        """Batches from the present step to the last; an epoch is opened in its middle after a resume."""
        while self.step < self.spec.steps:
            epoch, position = divmod(self.step, self.sampler.steps_per_epoch)
            left = self.spec.steps - self.step
            yield from self.loader.batches(self.sampler.epoch(epoch)[position : position + left])

    def _train_step(self, batch: Batch) -> None:
        factor = self.schedule.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        if self.schedule.is_drop(self.step) and hasattr(self.optimizer, "update_reference"):
            self.optimizer.update_reference()
        # Dropout and stochastic depth are a function of (seed, stage, step): no generator state to carry along.
        torch.manual_seed(_mix(self.spec.seed, self.spec.name, self.step))
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device.device)
        for loss in self.losses(batch):
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        self.stepped(total)
        self._recent.append((self.step, batch.rows, total))
        self._check_finite(force=False)
        if self.spec.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.model.parameters(), self.spec.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.network, step=self.step)

    def _after_step(self, images: int) -> None:
        self.step += 1
        self.progress.step(images)
        if self.progress.due():
            self.progress.show(self.latest_loss)
        if self.step % self.spec.eval_every == 0 or self.step == self.spec.steps:
            self._evaluate()
        if self.tools.stop.requested:
            self._save()
            raise Interrupted
        every, minutes = self.cfg.checkpoint.every, self.cfg.checkpoint.minutes
        timed = minutes is not None and self.progress.seconds() > 60 * minutes * (1 + self._timed_saves)
        self._timed_saves += timed
        if self.step < self.spec.steps and (timed or (every is not None and self.step % every == 0)):
            self._save()

    def _check_finite(self, force: bool) -> None:
        """Stop before the optimizer steps on a non-finite loss (on CUDA: before anything is saved)."""
        every = _LOOK_EVERY.get(self.device.device.type, 1)
        if not force and len(self._recent) < every:
            return
        recent, self._recent = self._recent, []
        if not recent:
            return
        losses = torch.stack([loss for _, _, loss in recent]).cpu()
        self.latest_loss = float(losses[-1])
        finite = torch.isfinite(losses).numpy()
        # The fp16 scaler skips a step whose gradients overflow; only a stage that does nothing else has to stop.
        if finite.all() or (self.scaler.is_enabled() and (finite.any() or len(finite) < every)):
            return
        step, rows, loss = recent[int(np.argmin(finite))]
        names = ", ".join(self.tools.inputs.names(self.rows[rows])[:8])
        raise NonFiniteLoss(
            f"{self.spec.title}: the loss became {float(loss)} at step {step + 1}; images of that batch: {names}"
            f"{', ...' if len(rows) > 8 else ''}. Lower the learning rate ({self.spec.lr:g}), set clip_norm, or look "
            "at these images; the last checkpoint is from before"
        )

    def _evaluate(self) -> None:
        self._check_finite(force=True)
        row = {
            "step": self.step,
            "epoch": self.step / self.spec.steps_per_epoch,
            "lr": self.spec.lr * self.schedule.factor(self.step - 1),
            **self.measure(self.averaged()),
        }
        self.metrics.add(row, self.progress.seconds(), self.progress.rate())
        self.tools.trackers.log(self.spec.name, self.step, {k: v for k, v in row.items() if isinstance(v, float)})
        words, shown = self.evaluated(row)
        self.progress.evaluated(shown)
        left = (self.spec.steps - self.step) * self.progress.seconds() / max(1, self.progress.made)
        log.info(
            "%s  step %d/%d  epoch %.2f  loss %.4f%s  %.0f images/s  %d s left",
            *(self.spec.title, self.step, self.spec.steps, row["epoch"], row["train_loss"], words),
            *(self.progress.rate(), left),
        )
        self._tell_progress()

    def _tell_progress(self) -> None:
        where = {"stage": self.spec.name, "epoch": self.step / self.spec.steps_per_epoch, "step": self.step}
        self.tools.run.progress("running", **where, steps=self.spec.steps, best_val_auc=self.best_so_far())

    # ------------------------------------------------------------ exact resume

    def _save(self) -> None:
        self._check_finite(force=True)
        self._tell_progress()
        state = {
            "step": self.step,
            "network": self.network.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.model.state_dict() if self.ema is not None else None,
            "scaler": self.scaler.state_dict(),
            "metrics": self.metrics.state_dict(),
            **self.state(),
        }
        checkpoint.save(self.spec.folder, state)

    def _restore(self) -> bool:
        state = checkpoint.load(self.spec.folder)
        if state is None:
            return False
        self.step = state["step"]
        self.network.model.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.model.load_state_dict(state["ema"])
        if state["scaler"] and self.scaler.is_enabled():  # a run may have moved to a device without fp16
            self.scaler.load_state_dict(state["scaler"])
        self.metrics.load_state_dict(state["metrics"])
        self.load_state(state)
        log.info("%s goes on at step %d of %d", self.spec.title, self.step, self.spec.steps)
        return True


# ---------------------------------------------------------------- small pure helpers


def parts_of(size: int, count: int) -> list[slice]:
    """``size`` images in ``count`` parts, of two images at least: BatchNorm cannot do with one."""
    edges = np.linspace(0, size, max(1, min(count, size // 2)) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _average(network: Network, decay: float | None) -> ModelEmaV3 | None:
    if decay is None:
        return None
    average = ModelEmaV3(network, decay=decay, use_warmup=True)
    average.module.compiled = None
    return average


def _mix(seed: int, name: str, step: int) -> int:
    state = np.random.SeedSequence([seed, zlib.crc32(name.encode()), step]).generate_state(2)
    return int(state[0]) << 31 | int(state[1]) >> 1
