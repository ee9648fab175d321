"""The objectives by name: which loss, which form of it, and which optimizers can minimize it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dam.config import (
    AdamConfig,
    AUCMarginConfig,
    AUCSquareConfig,
    CrossEntropyConfig,
    FocalConfig,
    LossConfig,
    OptimizerConfig,
    PESGConfig,
    SGDConfig,
)
from dam.objectives.auc_margin import AUCMarginLoss, AUCSquareLoss
from dam.objectives.cross_entropy import CrossEntropyLoss, FocalLoss
from dam.objectives.pesg import PESG

_PLAIN = ("adam", "adamw", "sgd")

Form = Literal["prior", "class_mean"]


@dataclass(frozen=True)
class Objective:
    """One line of the registry.

    Attributes:
        name, summary: what ``dam list`` shows.
        config: its class in ``dam.config``.
        family: "auc" (scores, class forms) or "likelihood" (logits).
        build: (cfg, num_labels, training prior (K,), form) -> loss module.
        optimizers: names that can minimize it. AUC losses with inner="learned" take pesg alone: see
            ``legal_optimizers``.
    """

    name: str
    summary: str
    config: type[LossConfig]
    family: Literal["auc", "likelihood"]
    build: Callable[[Any, int, Tensor, Form], nn.Module]
    optimizers: tuple[str, ...]


def _build_auc(kind: type[AUCMarginLoss] | type[AUCSquareLoss]) -> Callable[[Any, int, Tensor, Form], nn.Module]:
    def build(cfg: AUCSquareConfig, num_labels: int, train_prior: Tensor, form: Form) -> nn.Module:
        prior: float | Tensor | None = None
        if form == "prior" and cfg.inner == "learned" and cfg.prior != "batch":
            prior = train_prior if isinstance(cfg.prior, str) else cfg.prior
        return kind(cfg.margin, prior, form, num_labels, cfg.inner)

    return build


def _build_ce(cfg: CrossEntropyConfig, num_labels: int, train_prior: Tensor, form: Form) -> nn.Module:
    return CrossEntropyLoss()


def _build_focal(cfg: FocalConfig, num_labels: int, train_prior: Tensor, form: Form) -> nn.Module:
    return FocalLoss(cfg.alpha, cfg.gamma)


OBJECTIVES: dict[str, Objective] = {
    record.name: record
    for record in (
        Objective("ce", "binary cross-entropy on logits", CrossEntropyConfig, "likelihood", _build_ce, _PLAIN),
        Objective(
            "focal", "focal loss, alpha-balanced (Lin et al. 2017)", FocalConfig, "likelihood", _build_focal, _PLAIN
        ),
        Objective(
            "auc_margin",
            "AUC margin loss, AUC-M (Yuan et al. 2021)",
            AUCMarginConfig,
            "auc",
            _build_auc(AUCMarginLoss),
            ("pesg", *_PLAIN),
        ),
        Objective(
            "auc_square",
            "AUC square loss, AUC-S (Ying et al. 2016)",
            AUCSquareConfig,
            "auc",
            _build_auc(AUCSquareLoss),
            ("pesg", *_PLAIN),
        ),
    )
}


def resolve_form(
    cfg_form: str,
    sampler_name: str,
    prior_setting: float | str,
    inner: str = "learned",
    sampling_rate: float | None = None,
) -> Form:
    """The form of an AUC loss that estimates the population's objective under the sampler's batches.

    Eq. (8) with the training prior is right only for batches drawn at the natural rate. Rebalanced batches need the
    class-mean form, or p = r, the share of positives in a batch, as the published recipes have it.

    Args:
        cfg_form: "auto", "prior" or "class_mean".
        sampler_name: "shuffle" (natural rate) or "two_class" (rebalanced).
        prior_setting: "train" (the training set's prior), "batch" (each batch's own ratio) or a number.
        inner: "learned", or "batch" for the direct form, which is a class-mean form.
        sampling_rate: r of the two_class sampler, to which a number given as prior must be equal.

    Raises:
        ValueError: settings that contradict one another, in one sentence that names the way out.
    """
    if cfg_form not in ("auto", "prior", "class_mean"):
        raise ValueError(f"unknown form {cfg_form!r}; choose one of auto, prior, class_mean")
    if sampler_name not in ("shuffle", "two_class"):
        raise ValueError(f"unknown sampler {sampler_name!r}; choose one of shuffle, two_class")
    number = None if isinstance(prior_setting, str) else float(prior_setting)
    if inner == "batch" or cfg_form == "class_mean":
        _refuse_prior("inner=batch" if inner == "batch" else "form=class_mean", number)
        if cfg_form == "prior":
            raise ValueError("inner=batch has no prior form: set form=auto, or inner=learned to keep form=prior")
        return "class_mean"
    if sampler_name == "shuffle":
        if prior_setting == "batch":
            raise ValueError(
                "prior=batch with the shuffle sampler makes batches without positives teach nothing: set prior=train"
            )
        return "prior"
    if prior_setting == "batch":
        return "prior"
    if number is not None:
        if sampling_rate is not None and math.isclose(number, sampling_rate, abs_tol=1e-9):
            return "prior"
        raise ValueError(
            f"prior={number:g} contradicts the two_class sampler, whose batches have another share of positives: set "
            "prior=batch, prior equal to sampling_rate, or form=class_mean with prior=train"
        )
    if cfg_form == "prior":
        raise ValueError(
            "form=prior with the training set's prior is wrong for batches rebalanced by the two_class sampler: set "
            "form=auto, prior=batch, or the sampler to shuffle"
        )
    return "class_mean"


def _refuse_prior(setting: str, number: float | None) -> None:
    if number is not None:
        raise ValueError(f"{setting} has no prior, so prior={number:g} would have no effect: set prior=train")


def legal_optimizers(cfg: LossConfig) -> tuple[str, ...]:
    """Names of the optimizers that can minimize the loss of ``cfg``."""
    if isinstance(cfg, AUCSquareConfig) and cfg.inner == "learned":
        return ("pesg",)
    return OBJECTIVES[cfg.name].optimizers


def make_loss(cfg: LossConfig, num_labels: int, prior: Tensor, form: str) -> nn.Module:
    """The loss of ``cfg``.

    Args:
        num_labels: K.
        prior: (K,) share of positives among the known targets of the training set.
        form: "prior" or "class_mean" as ``resolve_form`` says; other losses than AUC's do not look at it.

    Raises:
        ValueError: an unknown name or form, or values out of range.
    """
    if cfg.name not in OBJECTIVES:
        raise ValueError(f"unknown loss {cfg.name!r}; choose one of {', '.join(OBJECTIVES)}")
    record = OBJECTIVES[cfg.name]
    if record.family == "auc" and form not in ("prior", "class_mean"):
        raise ValueError(f"form must be resolved to 'prior' or 'class_mean' first, not {form!r}")
    return record.build(cfg, num_labels, prior, "class_mean" if form == "class_mean" else "prior")


def make_optimizer(
    cfg: OptimizerConfig, lr: float, groups: list[dict[str, Any]], loss: nn.Module
) -> torch.optim.Optimizer:
    """The optimizer of ``cfg`` over ``groups`` (param groups of the model) and, for PESG, the loss's a, b, alpha.

    Every group gets ``initial_lr``, its rate before any schedule.

    Raises:
        ValueError: an optimizer that cannot minimize the loss: PESG for a likelihood, or another than PESG for an AUC
            loss with learned a, b, alpha (plain descent would minimize over alpha too).
    """
    if cfg.name != "pesg" and isinstance(getattr(loss, "alpha", None), nn.Parameter):
        raise ValueError(
            f"{cfg.name} cannot train {type(loss).__name__} with inner=learned, which is maximized over alpha: "
            "set optimizer=pesg, or inner=batch"
        )
    optimizer = _make(cfg, lr, groups, loss)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def _make(cfg: OptimizerConfig, lr: float, groups: list[dict[str, Any]], loss: nn.Module) -> torch.optim.Optimizer:
    decay = cfg.weight_decay
    if isinstance(cfg, PESGConfig):
        return PESG(groups, loss, lr, cfg.gamma, decay, cfg.momentum, cfg.clip, cfg.mode, cfg.variant)
    if isinstance(cfg, AdamConfig) and cfg.name in ("adam", "adamw"):
        kind = torch.optim.Adam if cfg.name == "adam" else torch.optim.AdamW
        return kind(groups, lr=lr, betas=(cfg.betas[0], cfg.betas[1]), weight_decay=decay)
    if isinstance(cfg, SGDConfig):
        return torch.optim.SGD(groups, lr=lr, momentum=cfg.momentum, nesterov=cfg.nesterov, weight_decay=decay)
    raise ValueError(f"unknown optimizer {cfg.name!r}; choose one of pesg, {', '.join(_PLAIN)}")
