"""Objectives of deep AUC maximization in pure torch: losses, the scores in front of them, PESG, schedules.

For a loop of one's own::

    loss = AUCMarginLoss(margin=1.0, prior=0.1)
    optimizer = PESG(model.parameters(), loss, lr=0.1, gamma=1 / 500)
    loss(apply_score("sigmoid", model(images)), targets).backward()
    optimizer.step()
"""

from __future__ import annotations

from dam.objectives.auc_margin import AUCMarginLoss, AUCSquareLoss
from dam.objectives.batch import class_counts
from dam.objectives.cross_entropy import CrossEntropyLoss, FocalLoss
from dam.objectives.monitor import StreamMonitor, Terms
from dam.objectives.pesg import PESG
from dam.objectives.registry import (
    OBJECTIVES,
    Objective,
    legal_optimizers,
    make_loss,
    make_optimizer,
    resolve_form,
)
from dam.objectives.schedules import Schedule, make_schedule, resolve_steps
from dam.objectives.scores import SCORES, apply_score, batch_score_normalization

__all__ = [
    "OBJECTIVES",
    "PESG",
    "SCORES",
    "AUCMarginLoss",
    "AUCSquareLoss",
    "CrossEntropyLoss",
    "FocalLoss",
    "Objective",
    "Schedule",
    "StreamMonitor",
    "Terms",
    "apply_score",
    "batch_score_normalization",
    "class_counts",
    "legal_optimizers",
    "make_loss",
    "make_optimizer",
    "make_schedule",
    "resolve_form",
    "resolve_steps",
]
