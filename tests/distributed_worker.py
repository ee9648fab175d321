"""Stages trained by as many processes as the environment says, for ``test_distributed.py``: what each rank ends with.

``python distributed_worker.py FOLDER`` writes ``FOLDER/<scenario>.<rank>.pt`` and ``FOLDER/facts.<rank>.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import tiny
from torch import nn

from dam.data.sampling import Draw
from dam.errors import UserError
from dam.objectives import AUCMarginLoss, CrossEntropyLoss, class_counts
from dam.processes import place
from dam.training import checkpoint, distributed, replicas, single
from dam.training.interrupt import StopRequest
from dam.training.loop import StageTools
from dam.training.module import TrainingModule
from dam.training.networks import disease_network
from dam.training.plan import make_plan
from dam.training.rundir import RunDirectory
from dam.training.skips import Skips
from dam.training.stage import Stage
from dam.training.tracking import Trackers

ONE = "data.labels=[Edema]"
AUC = ("warm_start=none", "auc.steps=10", "auc.heads=joint")
# A transformer: LayerNorm, no BatchNorm, whose statistics would be those of each process.
SCENARIOS: dict[str, tuple[str, ...]] = {
    "cross_entropy": ("auc=none", "warm_start.steps=10", "data.blank.default=ignore", "batch_size=13"),
    "pesg": (*AUC, ONE, "auc=auc_margin", "auc.schedule=step", "auc.ema=0.9"),
    "pesg_odd": (*AUC, ONE, "auc=auc_margin", "batch_size=15", "auc.clip_norm=1.0"),
    "direct_bsn": (*AUC, ONE, "auc=auc_direct", "batch_size=15"),
    "joint": (
        *AUC,
        "auc=auc_margin",
        "auc.sampler=shuffle",
        "auc.loss.prior=train",
        "data.blank.default=ignore",
        "batch_size=13",
    ),
    "accumulated": (*AUC, ONE, "auc=auc_margin", "accumulate=2", "auc.loss.init=closed_form"),
}


def train(folder: Path, name: str) -> dict[str, Any]:
    """The one stage of a scenario: its metrics and, at the end, whatever must be the same everywhere."""
    cfg = tiny(folder / name, "model.name=test_vit", "precision=fp32", "augment=none", *SCENARIOS[name])
    device, table = single.checked(cfg)
    inputs = single.inputs_of(cfg, table, device)
    run = RunDirectory(folder / name)
    (planned,) = make_plan(cfg, inputs, run)
    tools = StageTools(cfg, run, inputs, device, StopRequest(), Trackers([]))
    stage = Stage(planned.spec, tools, disease_network(planned, tools))
    stage.run()
    distributed.barrier()
    saved = checkpoint.load(planned.spec.folder)  # of the first process, which alone writes
    optimizer = {f"{n}.{k}": v for n, state in stage.optimizer.state_dict()["state"].items() for k, v in state.items()}
    return {
        "columns": {column: stage.metrics.column(column) for column in ("train_loss", "val_loss", "val_auc", "alpha")},
        "network": stage.averaged().model.state_dict(),
        "loss": stage.loss.state_dict(),
        "optimizer": {name: value for name, value in optimizer.items() if isinstance(value, torch.Tensor)},
        "logits": torch.from_numpy(stage.validation.logits(stage.averaged())),
        "saved_step": saved["step"] if saved else None,
    }


class _Backbone(nn.Module):
    """A network in float64 whose samples do not meet."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, outputs))
        self.unused = nn.Parameter(torch.ones(3))
        for number, parameter in enumerate(self.parameters()):
            values = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) + number)
            parameter.data = values.reshape(parameter.shape)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(images)
        return out


def gradients(name: str, form: str, inner: str, score: str, parts: int) -> list[torch.Tensor]:
    """Of 11 samples with missing labels: of the network's weights and of a, b, alpha, by all processes together."""
    random = np.random.default_rng(3)
    images = torch.from_numpy(random.normal(size=(11, 5)))
    targets = torch.from_numpy(np.where(random.random((11, 2)) < 0.2, np.nan, random.random((11, 2)) < 0.4))
    targets = targets.to(torch.float32)
    loss = CrossEntropyLoss() if name == "ce" else AUCMarginLoss(form=form, inner=inner, num_labels=2)  # type: ignore[arg-type]
    loss = loss.double()
    if inner == "learned":
        for number, parameter in enumerate(loss.parameters()):
            parameter.data += 0.1 * (number + 1)
    module = TrainingModule(_Backbone(2), loss, score)  # type: ignore[arg-type]
    mean = replicas.GradientMean(module)
    places = distributed.shared_out(11)
    whole = torch.cat([targets, targets.new_full((1, 2), torch.nan)])[places.reshape(-1)]
    mine = images[places[distributed.rank()]]  # a filler is a copy of the last
    for part in np.array_split(np.arange(places.shape[1]), parts):
        piece = slice(int(part[0]), int(part[-1]) + 1)
        if piece.stop == places.shape[1]:
            mean.last_pass()
        value, _ = module(mine[piece], distributed.part_of(whole, piece), class_counts(targets))
        value.backward()
    mean.finish()
    return [p.grad if p.grad is not None else torch.zeros(0) for p in module.parameters()]


GRADIENTS = [
    ("ce", "prior", "learned", "none", 2),
    ("auc", "prior", "learned", "sigmoid", 1),
    ("auc", "class_mean", "learned", "sigmoid", 2),
    ("auc", "class_mean", "learned", "bsn_sqrt", 1),
    ("auc", "class_mean", "batch", "bsn", 1),
]


def exchanges() -> dict[str, Any]:
    """The small things, asked of every process."""
    rank, world = distributed.rank(), distributed.world()
    turns = {}
    for count in (1, 2, 7, 8, 23):
        sizes = [min(3, count - start) for start in range(0, count, 3)]
        rows = np.split(np.arange(2.0 * count).reshape(count, 2), np.cumsum(sizes)[:-1])
        mine = np.concatenate([np.zeros((0, 2 if rows[rank::world] else 0)), *rows[rank::world]])
        turns[count] = distributed.in_turns(mine, sizes).tolist()
    agreed, agreement = [], distributed.Agreement()
    for step in range(6):
        agreed.append(agreement(rank == world - 1 and step == 2, False))
    norm = nn.Sequential(nn.BatchNorm1d(2))
    norm[0].running_mean += rank
    replicas.average_statistics(norm)
    facts = {
        "turns": turns,
        "agreed": agreed,
        "any": [distributed.any_of(False), distributed.any_of(rank == world - 1)],
        "answer": distributed.from_main(lambda: {"rank": rank}),
        "running_mean": norm[0].running_mean.tolist(),
        "seed": replicas.step_seed(1, "auc/edema", 5),
    }
    skipped = {at: _skipped(at, rank) for at in ("gradient", "loss")}
    return facts | {"refused": _refused(), "apart": _apart(rank, world), "skipped": skipped}


def _skipped(at: str, rank: int) -> dict[str, Any]:
    """Of three steps the second is not finite in process 1: its gradient, or its share of the scores."""
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    mean, skips = replicas.GradientMean(module), Skips(module, torch.amp.GradScaler("cpu", enabled=False), "stage")
    usable = []
    for step in range(3):
        bad = rank == 1 and step == 1
        module.zero_grad()
        skips.remember()
        before = module[0].running_mean.clone()
        own = module(torch.arange(6.0).reshape(3, 2) + rank + step) * (torch.nan if bad and at == "loss" else 1.0)
        loss = distributed.gathered_with_gradient(own).square().mean()
        loss.backward()
        if bad and at == "gradient":
            module[1].weight.grad[0, 0] = torch.inf
        mean.finish()
        usable.append(skips.usable(loss.detach()))
        if not usable[-1]:
            skips.skip(step, float(loss.detach()), "images")
            restored = torch.equal(module[0].running_mean, before)
        else:
            assert not torch.equal(module[0].running_mean, before)
            replicas.average_statistics(module)
    return {"usable": usable, "taken": skips.taken(), "restored": restored}


def _refused() -> str:
    def mistaken() -> None:
        raise UserError("the disk is on fire; put it out")

    try:
        distributed.from_main(mistaken)
    except UserError as error:
        return str(error)
    return ""


def _apart(rank: int, world: int) -> str:
    state = {"step": 3, "loss": {"a": torch.ones(2), "alpha": torch.full((2,), 1.0 + 1e-7 * (rank == world - 1))}}
    try:
        replicas.check_identical(state)
    except replicas.ProcessesDiffer as error:
        return str(error)
    return ""


def shares() -> dict[str, Any]:
    """Which rows and targets each process is given of batches of 5, 4 and 2 rows."""

    class Rows:
        def batches(self, draws: Any) -> Any:
            for draw in draws:
                yield distributed.Batch(torch.from_numpy(draw.rows), torch.zeros(0), draw.rows)

    targets = np.arange(20, dtype=np.float32).reshape(-1, 1) / 20
    draws = [
        Draw(np.arange(start, start + size), np.zeros(size, np.int64)) for start, size in ((0, 5), (7, 4), (18, 2))
    ]
    batches = list(distributed.spread(Rows(), targets).batches(iter(draws)))
    return {
        "images": [batch.images.tolist() for batch in batches],
        "targets": [batch.targets[:, 0].tolist() for batch in batches],
        "rows": [batch.rows.tolist() for batch in batches],
    }


def main(folder: Path) -> None:
    """All scenarios, in one meeting of the processes."""
    distributed.join()
    rank = place().rank
    for name in SCENARIOS:
        torch.save(train(folder, name), folder / f"{name}.{rank}.pt")
    found = {repr(case): gradients(*case) for case in GRADIENTS}
    torch.save(found, folder / f"gradients.{rank}.pt")
    facts = exchanges() | {"shares": shares()} if place().world > 1 else {}
    (folder / f"facts.{rank}.json").write_text(json.dumps(facts))
    distributed.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
