"""Momentum contrast in the one training loop: what a step learns, what an evaluation measures, what is kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dam.config import PretrainConfig
from dam.data.loader import Batch
from dam.models.backbones import parameter_groups
from dam.models.normalization import normalization_facts
from dam.objectives import make_optimizer, make_schedule
from dam.pretraining.moco import Encoder, MoCo, batch_norms, projection_head
from dam.pretraining.probe import Probe, Probed
from dam.pretraining.views import PairedBatches, TwoViewSampler
from dam.training import distributed
from dam.training.failures import NonFiniteLoss
from dam.training.loop import Learner, Loop, StageSpec, StageTools
from dam.training.metrics import MetricsFile
from dam.training.module import Network
from dam.training.selection import Selection

log = logging.getLogger("dam")

COLUMNS = ("step", "epoch", "lr", "train_loss", "top1", "probe_auc", "probe_accuracy", "knn_auc")
_NETWORK = "encoder_q.network.model."  # which the loop itself puts into a checkpoint


class MocoStage(Loop):
    """The network's weights as the query encoder's, judged by the probe where there are labels."""

    def __init__(self, spec: StageSpec, tools: StageTools, network: Network, settings: PretrainConfig) -> None:
        cfg, inputs = tools.cfg, tools.inputs
        self.settings = settings
        encoder = Encoder(network, projection_head(settings.head, self._width(network, tools), settings.dim, cfg.seed))
        groups = settings.bn_groups // distributed.world() if batch_norms(network.model) else 1
        self.moco = module = MoCo(encoder, settings, groups, cfg.seed).to(tools.device.device)
        self.probe = Probe(inputs, settings.probe, cfg.batch_size, spec.seed)
        self.selection = Selection("best" if cfg.select == "best" and self.probe.usable else "last")
        # The sums of loss and top-1 since the last evaluation, and over how many steps.
        self._sums = torch.zeros(2, device=tools.device.device)
        self._count = 0
        self._found: Tensor  # of the present batch
        rows = inputs.splits["train"]
        groups_of, lines = parameter_groups(network.model, spec.lr, cfg.model)
        groups_of.append({"params": list(encoder.projection.parameters()), "lr": spec.lr, "initial_lr": spec.lr})
        for line in lines:
            log.info("%s: %s", spec.title, line)
        per_label = tuple(f"probe_auc/{label}" for label in self.probe.labels) if len(self.probe.labels) > 1 else ()
        views = inputs.loader(rows, (), augment_seed=spec.seed)
        learner = Learner(
            network=network,
            module=module,
            optimizer=make_optimizer(settings.optimizer, spec.lr, groups_of, module),
            schedule=make_schedule(settings.schedule, spec.steps, spec.steps_per_epoch),
            sampler=TwoViewSampler(len(rows), cfg.batch_size, spec.seed),
            loader=PairedBatches(distributed.spread(views, inputs.targets(rows, ()))),
            rows=rows,
            metrics=MetricsFile(spec.folder, COLUMNS + per_label + ("skipped",) * (cfg.on_non_finite == "skip")),
        )
        super().__init__(spec, tools, learner)

    @staticmethod
    def _width(network: Network, tools: StageTools) -> int:
        size, channels = tools.cfg.image_size, tools.inputs.store.channels
        training = network.training
        network.eval()
        with torch.inference_mode():
            blank = torch.zeros(1, size, size, channels, dtype=torch.uint8, device=tools.device.device)
            width = int(network(blank).shape[1])
        network.train(training)
        return width

    def train_mode(self) -> None:
        """As ``Loop.train_mode``; the key encoder's layers are in the mode of the query's."""
        super().train_mode()
        pairs = zip(self.moco.encoder_q.modules(), self.moco.encoder_k.modules(), strict=True)
        for query, key in pairs:
            key.training = query.training

    def begin(self) -> None:
        """What the weights are worth that training begins with, as the row of step 0."""
        probed = self.probe.measure(self.averaged())
        self.metrics.add({"step": 0, "epoch": 0.0, "lr": 0.0, **self._columns(probed)}, 0.0, 0.0)
        if self.probe.usable:
            log.info("%s: probe before step 1: AUC %.4f, nearest neighbours %.4f", self.spec.title, probed.auc,
                     probed.knn_auc)  # fmt: skip

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        images = batch.images.to(self.device.device, non_blocking=True)
        seed = int(np.random.SeedSequence([self.spec.seed, self.step]).generate_state(1)[0])
        self.gradients.last_pass()
        loss, self._found = self.moco(images, seed)
        yield loss

    def stepped(self, loss: Tensor) -> None:
        self._sums += torch.stack([loss, self._found])
        self._count += 1

    # ------------------------------------------------------------ an evaluation

    def measure(self, network: Network) -> dict[str, Any]:
        probed = self.probe.measure(network)
        if self.probe.usable and math.isnan(probed.auc):
            raise NonFiniteLoss(
                f"{self.spec.title}: the features are not finite any more at step {self.step}; lower the learning rate "
                f"({self.spec.lr:g}) or set clip_norm; the last checkpoint is from before"
            )
        if self.selection.add(probed.auc, self.step)[1]:
            self.save_best()
        loss, found = (self._sums / self._count).tolist()  # NaN where every step was skipped
        self._sums.zero_()
        self._count = 0
        return {"train_loss": loss, "top1": found, **self._columns(probed)}

    def _columns(self, probed: Probed) -> dict[str, float]:
        one_each = {f"probe_auc/{name}": value for name, value in zip(self.probe.labels, probed.aucs, strict=False)}
        means = {"probe_auc": probed.auc, "probe_accuracy": probed.accuracy, "knn_auc": probed.knn_auc}
        return means | one_each

    def evaluated(self, row: dict[str, Any]) -> tuple[str, float]:
        words = f"  top-1 {row['top1']:.3f}"
        if self.probe.usable:
            words += f"  probe AUC {row['probe_auc']:.4f}"
        return words, float(row["probe_auc"])

    def best_so_far(self) -> float | None:
        defined = [value for value in self.selection.values if not math.isnan(value)]
        return max(defined, default=None)

    def facts(self) -> dict[str, Any]:
        """As ``Loop.facts``; leaves the weights of the last step, which are also the best unless the probe chose."""
        self.save_last()
        if self.selection.best_step == 0:
            self.save_best()
        channels = self.tools.inputs.store.channels
        start = self.metrics.column("probe_auc")[:1]
        settings = {key: value for key, value in asdict(self.settings).items() if key not in ("epochs", "steps")}
        return {
            "method": "moco",
            "model": self.cfg.model.name,
            "image_size": self.cfg.image_size,
            "in_chans": channels,
            "input": normalization_facts(self.cfg.model, channels),
            "batch_size": self.cfg.batch_size,
            "images": len(self.rows),
            **settings,
            "bn_groups": self.settings.bn_groups if batch_norms(self.network.model) else 1,
            "steps": self.step,
            "steps_per_epoch": self.spec.steps_per_epoch,
            "select": self.selection.rule,
            "chosen_step": self.selection.best_step or self.step,
            "probe_labels": list(self.probe.labels) if self.probe.usable else [],
            "probe_images": [len(self.probe.rows), len(self.probe.val_rows)] if self.probe.usable else [0, 0],
            "probe_auc": self.selection.chosen_auc() if self.probe.usable else None,
            "probe_auc_before": start[0] if start else None,
        }

    # ------------------------------------------------------------ exact resume

    def state(self) -> dict[str, Any]:
        own = {name: value for name, value in self.module.state_dict().items() if not name.startswith(_NETWORK)}
        learned = {name for name, _ in self.module.named_parameters()} | {"queue", "queue_ptr"}
        moco = {name: value for name, value in own.items() if name in learned}
        statistics = {name: value for name, value in own.items() if name not in learned}
        return {
            "moco": moco,
            "statistics": statistics,
            "sums": self._sums,
            "count": self._count,
            "selection": self.selection.state_dict(),
        }

    def same_in_all(self) -> tuple[str, ...]:
        return ("moco",)

    def load_state(self, state: dict[str, Any]) -> None:
        missing, unexpected = self.module.load_state_dict(state["moco"] | state["statistics"], strict=False)
        if unexpected or any(not name.startswith(_NETWORK) for name in missing):
            raise RuntimeError(f"the checkpoint is another network's: {[*unexpected, *missing][:3]}")
        self._sums.copy_(state["sums"])
        self._count = state["count"]
        self.selection.load_state_dict(state["selection"])
