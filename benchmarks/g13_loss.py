"""Goal 13: the AUC-M loss of 14 labels at batch 128, forward and backward, against BCE with logits."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from benchmarks.measure import Report, Rounds, profile_of, repeated
from dam.objectives import AUCMarginLoss, class_counts

BOUND = 4.5


def run(quick: bool) -> Report:
    """Scores and targets are the same tensors; every gradient starts from None, as after ``zero_grad``."""
    torch.manual_seed(0)
    scores = torch.randn(128, 14, requires_grad=True)
    targets = (torch.rand(128, 14) < 0.2).float()
    counts = class_counts(targets)
    partly = torch.where(torch.rand(128, 14) < 0.1, torch.nan, targets)
    bce, ours = nn.BCEWithLogitsLoss(), AUCMarginLoss(num_labels=14)
    means = AUCMarginLoss(num_labels=14, form="class_mean")

    def step(loss, *arguments) -> None:
        scores.grad = None
        loss.zero_grad(set_to_none=True)
        loss(scores, *arguments).backward()

    losses = {
        "BCE": lambda: step(bce, targets),
        "AUC-M": lambda: step(ours, targets),
        "AUC-M with counts of the whole batch, as in the loop": lambda: step(ours, targets, counts),
        "AUC-M, class-mean form": lambda: step(means, targets),
        "AUC-M, a tenth of the targets unknown": lambda: step(ours, partly),
    }
    if importlib.util.find_spec("libauc"):
        from libauc.losses import MultiLabelAUCMLoss

        theirs = MultiLabelAUCMLoss(num_labels=14, device="cpu")
        losses["peer: LibAUC's multi-label loss"] = lambda: (_clear(scores), theirs(scores, targets).backward())
    times = {name: 20 if quick or "peer" in name else 300 for name in losses}
    found = Rounds({name: repeated(loss, times[name]) for name, loss in losses.items()}).run(3 if quick else 15)
    report = Report(facts={f"{name}, microseconds": 1e6 * found.median(name) for name in losses})
    for name in list(losses)[1:]:
        note = f"{1e6 * found.median(name):.0f} against {1e6 * found.median('BCE'):.0f} microseconds"
        report.lines.append(found.line(name, "BCE", name, BOUND if name == "AUC-M" else None, note=note))
    if report.lines[0].missed:
        report.profile = profile_of(repeated(losses["AUC-M"], 100))
    return report


def _clear(scores: torch.Tensor) -> None:
    scores.grad = None
