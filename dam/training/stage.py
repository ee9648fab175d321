"""The loop: one objective on one model. Warm start, disease models and control all go through here."""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from dam.config import AUCSquareConfig, Config, ObjectiveConfig
from dam.data.loader import Batch
from dam.data.sampling import make_sampler
from dam.models.backbones import parameter_groups
from dam.objectives import Schedule, class_counts, make_loss, make_optimizer, make_schedule
from dam.training import checkpoint, selection
from dam.training.device import Device
from dam.training.inputs import Inputs
from dam.training.interrupt import Interrupted, StopRequest
from dam.training.metrics import MetricsFile
from dam.training.module import Network, TrainingModule
from dam.training.monitor import Monitor, has_collapsed
from dam.training.progress import Progress
from dam.training.rundir import RunDirectory
from dam.training.tracking import Trackers
from dam.training.validation import Validation, operating_columns

log = logging.getLogger("dam")

WATCHED = ("a1", "a2", "a3", "distance", "alpha")  # columns of metrics.csv that an AUC stage also shows on screen
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


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the last checkpoint is older than that."""


class Stage:
    """One stage in training. ``run()`` trains to the end, from ``last.ckpt`` if the folder has one."""

    def __init__(self, spec: StageSpec, tools: StageTools, network: Network) -> None:
        self.spec, self.tools = spec, tools
        self.cfg, self.device = tools.cfg, tools.device
        self.rows = tools.inputs.known("train", spec.labels)
        self.validation = Validation(tools.inputs, spec.labels, self.cfg.batch_size)
        self.loader = tools.inputs.loader(self.rows, spec.labels, augment_seed=spec.seed)
        targets = tools.inputs.targets(self.rows, spec.labels)
        self.sampler = make_sampler(spec.objective.sampler, targets, self.cfg.batch_size, spec.seed)
        self.schedule: Schedule = make_schedule(spec.objective.schedule, spec.steps, spec.steps_per_epoch)
        loss = make_loss(spec.objective.loss, len(spec.labels), torch.from_numpy(prior(targets)), spec.form)
        loss_cfg = spec.objective.loss
        self.margin = loss_cfg.margin if isinstance(loss_cfg, AUCSquareConfig) else None
        score = loss_cfg.score if isinstance(loss_cfg, AUCSquareConfig) else "none"
        self.network = network
        self.module = TrainingModule(network, loss, score).to(self.device.device)
        groups, lines = parameter_groups(network.model, spec.lr, self.cfg.model)
        for line in lines:
            log.info("%s: %s", spec.title, line)
        self.optimizer = make_optimizer(spec.objective.optimizer, spec.lr, groups, loss)
        self.ema = _average(network, spec.ema)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.device.autocast_dtype == torch.float16)
        self.selection = selection.Selection(selection.resolve(self.cfg.select, self.validation.targets))
        hinge = loss_cfg.name == "auc_margin"
        self.monitor = Monitor(len(spec.labels), self.margin, hinge, self.device.device)
        self.by_accuracy = self.selection.rule == "accuracy"
        more = operating_columns(spec.labels) if self.by_accuracy else ()
        self.metrics = MetricsFile(spec.folder, spec.labels, more)
        self.step = 0
        self._recent: list[tuple[int, np.ndarray, Tensor]] = []
        self._timed_saves = 0
        self.latest_loss = math.nan

    # ------------------------------------------------------------ the loop

    def run(self) -> dict[str, Any]:
        """Train; leave ``best.safetensors`` (the chosen weights) and return the facts of the stage."""
        self.spec.folder.mkdir(parents=True, exist_ok=True)
        if not self._restore():
            self._initialize_inner()
        self.progress = Progress(self.spec.title, self.spec.steps, self.step)
        self._train_mode()
        try:
            with closing(self._batches()) as batches:
                for batch in batches:
                    self._train_step(batch)
                    self._after_step(len(batch.rows))
        finally:
            self.progress.close()
        if self.selection.best_step == 0:
            checkpoint.save_weights(self.spec.folder / "best.safetensors", self._averaged().model)
        return self._facts()

    def _train_mode(self) -> None:
        """Training mode, but BatchNorm layers whose parameters are frozen keep their running statistics too."""
        self.module.train()
        for layer in self.network.model.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) and layer.affine:
                layer.train(any(p.requires_grad for p in layer.parameters(recurse=False)))

    def time_steps(self) -> float:
        """Seconds of a training step, the first left out; then one validation batch. For the dry run."""
        self.progress = Progress(self.spec.title, self.spec.steps, 0)
        self._train_mode()
        seconds = []
        with closing(self._batches()) as batches:
            for batch in batches:
                began = time.perf_counter()
                self._train_step(batch)
                self._check_finite(force=True)  # waits for the device
                seconds.append(time.perf_counter() - began)
                self.step += 1
        self.progress.close()
        self.validation.logits(self._averaged(), min(2, len(self.validation.rows)))
        return min(seconds[1:] or seconds)

    def save_last(self) -> None:
        """``last.safetensors``: the weights after the last step, for ``warm_start.take=last``."""
        checkpoint.save_weights(self.spec.folder / "last.safetensors", self._averaged().model)

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
        counts = class_counts(batch.targets)
        images = batch.images.to(self.device.device, non_blocking=True)
        targets = batch.targets.to(self.device.device, non_blocking=True)
        counts_there = counts.to(self.device.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device.device)
        for part in _parts(len(images), self.cfg.accumulate):
            loss, scores = self.module(images[part], targets[part], counts_there)
            self.scaler.scale(loss).backward()
            total = total + loss.detach()
            self.monitor.add_scores(scores, targets[part])
        self.monitor.add_loss(total, counts)
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

    # ------------------------------------------------------------ evaluation

    def _averaged(self) -> Network:
        return self.ema.module if self.ema is not None else self.network

    def _evaluate(self) -> None:
        self._check_finite(force=True)
        network = self._averaged()
        measured = self.validation.measure(network, self.by_accuracy)
        if not measured.finite:
            raise NonFiniteLoss(
                f"{self.spec.title}: the network's outputs are not finite any more at step {self.step}; lower the "
                f"learning rate ({self.spec.lr:g}) or set clip_norm; the last checkpoint is from before"
            )
        point = measured.operating
        accuracy, facts = (point.accuracy, point.facts()) if point is not None else (math.nan, {})
        smoothed, keep = self.selection.add(measured.mean, self.step, accuracy, **facts)
        if keep:
            checkpoint.save_weights(self.spec.folder / "best.safetensors", network.model)
        values = self.monitor.read(self.module.loss)
        row = {
            "step": self.step,
            "epoch": self.step / self.spec.steps_per_epoch,
            "lr": self.spec.lr * self.schedule.factor(self.step - 1),
            "val_auc": measured.mean,
            "val_auc_smoothed": smoothed,
            "val_loss": measured.loss,
            **values,
            **({f"val_auc/{label}": value for label, value in zip(self.spec.labels, measured.aucs, strict=True)}),
            **(point.columns() if point is not None else {}),
        }
        self.metrics.add(row, self.progress.seconds(), self.progress.rate())
        self.progress.evaluated(measured.mean)
        self.tools.trackers.log(self.spec.name, self.step, {k: v for k, v in row.items() if isinstance(v, float)})
        self._say(row)
        self._tell_progress()
        if self.margin is not None:
            self._warn_of_collapse(values)

    def _say(self, row: dict[str, Any]) -> None:
        left = (self.spec.steps - self.step) * self.progress.seconds() / max(1, self.progress.made)
        watched = "".join(f"  {name} {row[name]:.3f}" for name in WATCHED if self.margin is not None)
        log.info(
            "%s  step %d/%d  epoch %.2f  loss %.4f%s  val AUC %.4f  %.0f images/s  %d s left",
            *(self.spec.title, self.step, self.spec.steps, row["epoch"], row["train_loss"], watched),
            *(row["val_auc"], self.progress.rate(), left),
        )

    def _tell_progress(self) -> None:
        best = None if math.isinf(self.selection.best_auc) else self.selection.best_auc
        where = {"stage": self.spec.name, "epoch": self.step / self.spec.steps_per_epoch, "step": self.step}
        self.tools.run.progress("running", **where, steps=self.spec.steps, best_val_auc=best)

    def _warn_of_collapse(self, values: dict[str, float]) -> None:
        if has_collapsed(values["distance"], self.margin or 0.0, self.metrics.column("a3")):
            log.warning(
                "%s: the scores collapse (A3 rose to %.3f while the class means are %.4f apart, margin %g): lower the "
                "learning rate or the momentum",
                *(self.spec.title, values["a3"], values["distance"], self.margin),
            )

    def _facts(self) -> dict[str, Any]:
        objective = self.spec.objective
        chosen = self.selection.best_step or self.step
        return {
            "labels": list(self.spec.labels),
            "objective": objective.loss.name,
            "loss": asdict(objective.loss),
            "sampler": asdict(objective.sampler),
            "schedule": asdict(objective.schedule),
            "ema": self.spec.ema,
            "clip_norm": self.spec.clip_norm,
            "optimizer": asdict(objective.optimizer) | {"lr": self.spec.lr},
            "form": self.spec.form,
            "steps": self.step,
            "steps_per_epoch": self.spec.steps_per_epoch,
            "select": self.selection.rule,
            "chosen_step": chosen,
            "val_auc": self.selection.chosen_auc(),
            **self.selection.facts,
        }

    # ------------------------------------------------------------ exact resume

    def _save(self) -> None:
        self._check_finite(force=True)
        self._tell_progress()
        state = {
            "step": self.step,
            "network": self.network.model.state_dict(),
            "loss": self.module.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.model.state_dict() if self.ema is not None else None,
            "scaler": self.scaler.state_dict(),
            "selection": self.selection.state_dict(),
            "monitor": self.monitor.state_dict(),
            "metrics": self.metrics.state_dict(),
        }
        checkpoint.save(self.spec.folder, state)

    def _restore(self) -> bool:
        state = checkpoint.load(self.spec.folder)
        if state is None:
            return False
        self.step = state["step"]
        self.network.model.load_state_dict(state["network"])
        self.module.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.model.load_state_dict(state["ema"])
        if state["scaler"] and self.scaler.is_enabled():  # a run may have moved to a device without fp16
            self.scaler.load_state_dict(state["scaler"])
        self.selection.load_state_dict(state["selection"])
        self.monitor.load_state_dict(state["monitor"])
        self.metrics.load_state_dict(state["metrics"])
        log.info("%s goes on at step %d of %d", self.spec.title, self.step, self.spec.steps)
        return True

    def _initialize_inner(self) -> None:
        """``init=closed_form``: a, b and alpha from the class means of the first batches, before step 1."""
        loss_cfg = self.spec.objective.loss
        if not isinstance(loss_cfg, AUCSquareConfig) or loss_cfg.init != "closed_form":
            return
        draws = self.sampler.epoch(0)[:8]
        self.network.eval()
        scores, targets = [], []
        with torch.no_grad():
            for batch in self.loader.batches(draws):
                there = batch.targets.to(self.device.device)
                _, part = self.module(batch.images.to(self.device.device), there, class_counts(batch.targets).to(there))
                scores.append(part)
                targets.append(there)
        self.module.loss.closed_form_init(torch.cat(scores), torch.cat(targets))  # type: ignore[operator]


# ---------------------------------------------------------------- small pure helpers


def prior(targets: np.ndarray) -> np.ndarray:
    """Share of positives among the known, float32 (K,); soft labels count by their weight."""
    return np.asarray(np.nanmean(targets, axis=0), dtype=np.float32)


def _parts(size: int, count: int) -> list[slice]:
    # At least two images a part: BatchNorm cannot do with one.
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
