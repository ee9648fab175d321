"""The loop: one objective on one network, from the present step to the last. There is no other.

What is learned is a subclass's matter: ``Stage`` learns labels (warm start, disease models, control).
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dam.config import Config, ObjectiveConfig
from dam.data.loader import Batch, Batches
from dam.data.sampling import Draw, Sampler
from dam.objectives import Schedule
from dam.training import checkpoint, distributed, failures, replicas
from dam.training.device import Device
from dam.training.failures import NonFiniteLoss
from dam.training.inputs import Inputs
from dam.training.interrupt import Interrupted, StopRequest
from dam.training.metrics import MetricsFile
from dam.training.module import Network, average_of
from dam.training.progress import Progress
from dam.training.rundir import RunDirectory
from dam.training.skips import Skips
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

    ``rows`` are the table's rows that ``loader``, shared out by ``distributed.spread``, and ``sampler`` count from 0.
    """

    network: Network
    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    sampler: Sampler
    loader: Batches
    rows: np.ndarray
    metrics: MetricsFile


class Loop(ABC):
    """One stage in training. ``run()`` trains to the end, from ``last.ckpt`` if the folder has one."""

    def __init__(self, spec: StageSpec, tools: StageTools, learner: Learner) -> None:
        self.spec, self.tools = spec, tools
        self.cfg, self.device = tools.cfg, tools.device
        self.network, self.module = learner.network, learner.module
        self.optimizer, self.schedule = learner.optimizer, learner.schedule
        self.sampler, self.loader, self.rows = learner.sampler, learner.loader, learner.rows
        self.metrics = learner.metrics
        if self.cfg.sync_bn:
            self.network.model = replicas.synchronized(self.network.model)
        self.ema = average_of(self.network, spec.ema)
        self.gradients = replicas.GradientMean(self.module)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.device.autocast_dtype == torch.float16)
        skipping = self.cfg.on_non_finite == "skip"
        self.skips = Skips(self.module, self.scaler, spec.title) if skipping else None
        self.step = 0
        self._recent: list[tuple[int, np.ndarray, Tensor]] = []
        self._timed_saves = 0
        self._agreed = distributed.Agreement()
        self.latest_loss = math.nan

    # ------------------------------------------------------------ what is learned

    @abstractmethod
    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """The losses of the batch's parts, which add up to its loss; each is differentiated before the next. They
        are the same in all processes; ``gradients.last_pass()`` before the last one saves time.

        Leaves no trace outside the module's buffers: the step may be skipped. What is to be noted, ``stepped`` notes.
        """

    @abstractmethod
    def stepped(self, loss: Tensor) -> None:
        """Take note of the batch of ``losses`` and its ``loss`` before the optimizer steps, without waiting for the
        device."""

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

    def same_in_all(self) -> tuple[str, ...]:
        """The names in ``state`` whose tensors are the same in all processes, to the last bit."""
        return ()

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""

    # ------------------------------------------------------------ the loop

    def run(self) -> dict[str, Any]:
        """Train; leave ``best.safetensors`` (the chosen weights) and return the facts of the stage."""
        if distributed.is_main():
            self.spec.folder.mkdir(parents=True, exist_ok=True)
        with failures.of_its_stage(self.spec.folder):
            begun = self._restore()
        if not begun:
            self.begin()
        self._check_processes()
        self.progress = Progress(self.spec.title, self.spec.steps, self.step)
        self.train_mode()
        self._checkpoints = checkpoint.Writer(self.spec.folder)
        try:
            with closing(self._batches()) as batches:
                for batch in batches:
                    step, smaller = partial(self._train_step, batch), partial(self._try_size, batch)
                    failures.within_memory(step, smaller, len(batch.rows), self.cfg)
                    self._after_step(len(batch.rows))
        finally:
            self.progress.close()
            self._checkpoints.close()
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
        self._keep("last.safetensors")

    def save_best(self) -> None:
        """``best.safetensors``: the weights of this moment."""
        self._keep("best.safetensors")

    def _keep(self, name: str) -> None:
        if distributed.is_main():
            checkpoint.save_weights(self.spec.folder / name, self.averaged().model)

    def averaged(self) -> Network:
        """The network that is evaluated and kept."""
        return self.ema.module if self.ema is not None else self.network

    def _batches(self) -> Generator[Batch]:
        """Batches from the present step to the last. The loader reads ahead across the end of an epoch."""
        yield from self.loader.batches(self._draws(self.step))

    def _draws(self, step: int) -> Iterator[Draw]:
        """The draws from ``step`` to the last; an epoch is opened in its middle after a resume."""
        while step < self.spec.steps:
            epoch, position = divmod(step, self.sampler.steps_per_epoch)
            left = self.sampler.epoch(epoch)[position : position + self.spec.steps - step]
            yield from left
            step += len(left)

    def _try_size(self, batch: Batch, size: int) -> None:
        """Forward and backward of the first ``size`` images, for the sake of the memory it takes."""
        if distributed.world() > 1:
            raise RuntimeError("the other processes would have to take part")
        self.optimizer.zero_grad(set_to_none=True)
        for loss in self.losses(Batch(batch.images[:size], batch.targets[:size], batch.rows[:size])):
            loss.backward()  # type: ignore[no-untyped-call]

    def _train_step(self, batch: Batch) -> None:
        factor = self.schedule.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        if self.schedule.is_drop(self.step) and hasattr(self.optimizer, "update_reference"):
            self.optimizer.update_reference()
        # Dropout and stochastic depth are a function of (seed, stage, step): no generator state to carry along.
        torch.manual_seed(replicas.step_seed(self.spec.seed, self.spec.name, self.step))
        self.optimizer.zero_grad(set_to_none=True)
        if self.skips is not None:
            self.skips.remember()
        total = torch.zeros((), device=self.device.device)
        for loss in self.losses(batch):
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        self.gradients.finish()
        if self.skips is not None and not self.skips.usable(total):
            self.skips.skip(self.step + 1, float(total), self._names(batch.rows))
            return
        self.stepped(total)
        self._recent.append((self.step, batch.rows, total))
        self._check_finite(force=False)
        if self.spec.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.model.parameters(), self.spec.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        replicas.average_statistics(self.network.model)
        if self.ema is not None:
            self.ema.update(self.network, step=self.step)

    def _names(self, rows: np.ndarray) -> str:
        names = ", ".join(self.tools.inputs.names(self.rows[rows[:8]]))
        return f"{names}, ..." if len(rows) > 8 else names

    def _after_step(self, images: int) -> None:
        self.step += 1
        self.progress.step(images)
        if self.progress.due():
            self.progress.show(self.latest_loss)
        if self.step % self.spec.eval_every == 0 or self.step == self.spec.steps:
            self._evaluate()
        every, minutes = self.cfg.checkpoint.every, self.cfg.checkpoint.minutes
        due = minutes is not None and self.progress.seconds() > 60 * minutes * (1 + self._timed_saves)
        self._timed_saves += due
        stop, timed = self._agreed(self.tools.stop.requested, due and distributed.is_main())
        if stop:
            self._save()
            self._checkpoints.wait()
            distributed.barrier()  # a process that ends has the others ended too
            raise Interrupted
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
        raise NonFiniteLoss(
            f"{self.spec.title}: the loss became {float(loss)} at step {step + 1}; images of that batch: "
            f"{self._names(rows)}. Lower the learning rate ({self.spec.lr:g}), set clip_norm, or look "
            "at these images; the last checkpoint is from before"
        )

    def _evaluate(self) -> None:
        self._check_finite(force=True)
        self._check_processes()
        row = {
            "step": self.step,
            "epoch": self.step / self.spec.steps_per_epoch,
            "lr": self.spec.lr * self.schedule.factor(self.step - 1),
            **self.measure(self.averaged()),
            **({"skipped": self.skips.taken()} if self.skips is not None else {}),
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

    def _check_processes(self) -> None:
        """Raise ``ProcessesDiffer`` if the processes do not hold the same weights, a, b, alpha and v_ref any more."""
        if distributed.world() > 1:
            own = {"step", "network", "optimizer", "ema", *self.same_in_all()}
            replicas.check_identical({name: part for name, part in self._state().items() if name in own})

    def _save(self) -> None:
        self._check_finite(force=True)
        self._tell_progress()
        self._check_processes()
        if distributed.is_main():
            self._checkpoints.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "network": self.network.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.model.state_dict() if self.ema is not None else None,
            "scaler": self.scaler.state_dict(),
            "metrics": self.metrics.state_dict(),
            "skips": self.skips.state_dict() if self.skips is not None else None,
            **self.state(),
        }

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
        if self.skips is not None:
            self.skips.load_state_dict(state["skips"])
        self.load_state(state)
        log.info("%s goes on at step %d of %d", self.spec.title, self.step, self.spec.steps)
        return True


# ---------------------------------------------------------------- small pure helpers


def parts_of(size: int, count: int) -> list[slice]:
    """``size`` images in ``count`` parts, of two images at least: BatchNorm cannot do with one."""
    edges = np.linspace(0, size, max(1, min(count, size // 2)) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]
