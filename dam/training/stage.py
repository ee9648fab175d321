"""The stage that learns labels: warm start, disease models, control and metadata networks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dam.config import AUCSquareConfig
from dam.data.loader import Batch
from dam.data.sampling import make_sampler
from dam.models.backbones import parameter_groups
from dam.objectives import class_counts, make_loss, make_optimizer, make_schedule
from dam.training import distributed, selection
from dam.training.failures import NonFiniteLoss
from dam.training.loop import Learner, Loop, StageSpec, StageTools, parts_of
from dam.training.metrics import MetricsFile, columns_of
from dam.training.module import Network, TrainingModule
from dam.training.monitor import Monitor, has_collapsed
from dam.training.validation import Validation, operating_columns

log = logging.getLogger("dam")

WATCHED = ("a1", "a2", "a3", "distance", "alpha")  # columns of metrics.csv that an AUC stage also shows on screen


class Stage(Loop):
    """One objective on the labels ``spec.labels``, judged by the validation AUC."""

    def __init__(self, spec: StageSpec, tools: StageTools, network: Network) -> None:
        cfg, device = tools.cfg, tools.device
        rows = tools.inputs.known("train", spec.labels)
        targets = tools.inputs.targets(rows, spec.labels)
        loss = make_loss(spec.objective.loss, len(spec.labels), torch.from_numpy(prior(targets)), spec.form)
        loss_cfg = spec.objective.loss
        self.margin = loss_cfg.margin if isinstance(loss_cfg, AUCSquareConfig) else None
        score = loss_cfg.score if isinstance(loss_cfg, AUCSquareConfig) else "none"
        self.loss = loss
        self.validation = Validation(tools.inputs, spec.labels, cfg.batch_size)
        self.selection = selection.Selection(selection.resolve(cfg.select, self.validation.targets))
        self.monitor = Monitor(len(spec.labels), self.margin, loss_cfg.name == "auc_margin", device.device)
        self.by_accuracy = self.selection.rule == "accuracy"
        self._noted: tuple[Tensor, list[tuple[Tensor, Tensor]]]  # of the present batch: class counts; scores, targets
        module = TrainingModule(network, loss, score).to(device.device)
        groups, lines = parameter_groups(network.model, spec.lr, cfg.model)
        for line in lines:
            log.info("%s: %s", spec.title, line)
        more = operating_columns(spec.labels) if self.by_accuracy else ()
        more += ("skipped",) if cfg.on_non_finite == "skip" else ()
        learner = Learner(
            network=network,
            module=module,
            optimizer=make_optimizer(spec.objective.optimizer, spec.lr, groups, loss),
            schedule=make_schedule(spec.objective.schedule, spec.steps, spec.steps_per_epoch),
            sampler=make_sampler(spec.objective.sampler, targets, cfg.batch_size, spec.seed),
            loader=distributed.spread(tools.inputs.loader(rows, spec.labels, augment_seed=spec.seed), targets),
            rows=rows,
            metrics=MetricsFile(spec.folder, columns_of(spec.labels) + more),
        )
        super().__init__(spec, tools, learner)

    def run(self) -> dict[str, Any]:
        """As ``Loop.run``. Where no evaluation was the best, the last weights are ``best.safetensors``."""
        facts = super().run()
        if self.selection.best_step == 0:
            self.save_best()
        return facts

    def time_steps(self) -> float:
        """As ``Loop.time_steps``, then one validation batch."""
        seconds = super().time_steps()
        self.validation.logits(self.averaged(), min(2, len(self.validation.rows)))
        return seconds

    # ------------------------------------------------------------ a step

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        there = self.device.device
        self._noted = class_counts(batch.targets), []
        counts = self._noted[0].to(there, non_blocking=True)
        images = batch.images.to(there, non_blocking=True)
        targets = batch.targets.to(there, non_blocking=True)
        parts = parts_of(len(images), self.cfg.accumulate)
        for part in parts:
            whole = distributed.part_of(targets, part)
            loss, scores = self.module(images[part], whole, counts)
            self._noted[1].append((scores, whole))
            if part is parts[-1]:
                self.gradients.last_pass()
            yield loss

    def stepped(self, loss: Tensor) -> None:
        counts, parts = self._noted
        self.monitor.add_counts(counts)
        for scores, targets in parts:
            self.monitor.add_scores(scores, targets)
        self.monitor.add_loss(loss)

    # ------------------------------------------------------------ an evaluation

    def measure(self, network: Network) -> dict[str, Any]:
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
            self.save_best()
        return {
            "val_auc": measured.mean,
            "val_auc_smoothed": smoothed,
            "val_loss": measured.loss,
            **self.monitor.read(self.loss),
            **({f"val_auc/{label}": value for label, value in zip(self.spec.labels, measured.aucs, strict=True)}),
            **(point.columns() if point is not None else {}),
        }

    def evaluated(self, row: dict[str, Any]) -> tuple[str, float]:
        if self.margin is not None and has_collapsed(row["distance"], self.margin, self.metrics.column("a3")):
            log.warning(
                "%s: the scores collapse (A3 rose to %.3f while the class means are %.4f apart, margin %g): lower the "
                "learning rate or the momentum",
                *(self.spec.title, row["a3"], row["distance"], self.margin),
            )
        watched = "".join(f"  {name} {row[name]:.3f}" for name in WATCHED if self.margin is not None)
        return f"{watched}  val AUC {row['val_auc']:.4f}", row["val_auc"]

    def best_so_far(self) -> float | None:
        return None if math.isinf(self.selection.best_auc) else self.selection.best_auc

    def facts(self) -> dict[str, Any]:
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

    def state(self) -> dict[str, Any]:
        return {
            "loss": self.loss.state_dict(),
            "selection": self.selection.state_dict(),
            "monitor": self.monitor.state_dict(),
        }

    def same_in_all(self) -> tuple[str, ...]:
        return ("loss",)

    def load_state(self, state: dict[str, Any]) -> None:
        self.loss.load_state_dict(state["loss"])
        self.selection.load_state_dict(state["selection"])
        self.monitor.load_state_dict(state["monitor"])

    def begin(self) -> None:
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
        self.loss.closed_form_init(torch.cat(scores), torch.cat(targets))  # type: ignore[operator]


def prior(targets: np.ndarray) -> np.ndarray:
    """Share of positives among the known, float32 (K,); soft labels count by their weight."""
    return np.asarray(np.nanmean(targets, axis=0), dtype=np.float32)
