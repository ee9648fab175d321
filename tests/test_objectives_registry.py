"""The registry: forms resolved, losses and optimizers made, contradictions refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from dam.config import (
    LOSSES,
    OPTIMIZERS,
    AdamConfig,
    AUCMarginConfig,
    AUCSquareConfig,
    CrossEntropyConfig,
    FocalConfig,
    LossConfig,
    PESGConfig,
    SGDConfig,
)
from dam.objectives import (
    OBJECTIVES,
    PESG,
    AUCMarginLoss,
    AUCSquareLoss,
    CrossEntropyLoss,
    FocalLoss,
    legal_optimizers,
    make_loss,
    make_optimizer,
    resolve_form,
)

torch.set_num_threads(1)
PRIOR = torch.tensor([0.1, 0.3])


def auc(kind=AUCMarginConfig, name="auc_margin", prior="train", inner="learned"):
    return kind(name=name, margin=0.6, form="auto", prior=prior, inner=inner, score="sigmoid", init="zeros")


PESG_CONFIG = PESGConfig("pesg", 0.1, 1e-4, 2e-3, 0.9, None, "sgd", "paper")
ADAM = AdamConfig("adam", 1e-3, 0.0, [0.9, 0.99])
ADAMW = AdamConfig("adamw", 1e-3, 0.1, [0.9, 0.99])
SGD = SGDConfig("sgd", 0.1, 0.0, 0.9, True)


def test_registry_covers_the_config():
    assert set(OBJECTIVES) == set(LOSSES)
    for name, record in OBJECTIVES.items():
        assert record.name == name
        assert record.config is LOSSES[name]
        assert record.summary
        assert set(record.optimizers) <= set(OPTIMIZERS)


@pytest.mark.parametrize(
    "form, sampler, prior, expected",
    [
        ("auto", "shuffle", "train", "prior"),
        ("auto", "two_class", "train", "class_mean"),
        ("auto", "two_class", "batch", "prior"),
        ("prior", "shuffle", "train", "prior"),
        ("prior", "shuffle", 0.2, "prior"),
        ("prior", "two_class", "batch", "prior"),
        ("prior", "two_class", 0.25, "prior"),
        ("class_mean", "shuffle", "train", "class_mean"),
        ("class_mean", "two_class", "train", "class_mean"),
    ],
)
def test_form_follows_the_sampler(form, sampler, prior, expected):
    assert resolve_form(form, sampler, prior, sampling_rate=0.25) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("prior", "two_class", "train"), "form=prior with the training set's prior is wrong"),
        (("prior", "two_class", 0.1), "prior=0.1 contradicts the two_class sampler"),
        (("auto", "two_class", 0.1), "prior=0.1 contradicts the two_class sampler"),
        (("class_mean", "two_class", 0.1), "form=class_mean has no prior"),
        (("auto", "two_class", 0.1, "batch"), "inner=batch has no prior"),
        (("prior", "two_class", "train", "batch"), "inner=batch has no prior form"),
        (("v1", "shuffle", "train"), "unknown form"),
        (("auto", "shuffle", "batch"), "teach nothing"),
        (("auto", "weighted", "train"), "unknown sampler"),
    ],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        resolve_form(*arguments, sampling_rate=0.25)


def test_direct_form_is_a_class_mean_form():
    assert resolve_form("auto", "shuffle", "train", "batch") == "class_mean"


def test_losses_are_made_as_configured():
    loss = make_loss(auc(), 2, PRIOR, "prior")
    assert type(loss) is AUCMarginLoss
    assert loss.margin == 0.6
    assert loss.prior == pytest.approx((0.1, 0.3))
    assert make_loss(auc(prior="batch"), 2, PRIOR, "prior").prior is None
    assert make_loss(auc(prior=0.5), 2, PRIOR, "prior").prior == (0.5, 0.5)
    square = make_loss(auc(AUCSquareConfig, "auc_square"), 2, PRIOR, "class_mean")
    assert type(square) is AUCSquareLoss
    assert square.form == "class_mean"
    assert square.prior is None
    assert make_loss(auc(inner="batch"), 2, PRIOR, "class_mean").inner == "batch"
    assert type(make_loss(CrossEntropyConfig("ce"), 2, PRIOR, "")) is CrossEntropyLoss
    focal = make_loss(FocalConfig("focal", 0.25, 2.0), 2, PRIOR, "")
    assert type(focal) is FocalLoss
    assert (focal.alpha, focal.gamma) == (0.25, 2.0)
    with pytest.raises(ValueError, match="choose one of ce, focal"):
        make_loss(LossConfig("hinge"), 2, PRIOR, "")
    with pytest.raises(ValueError, match="form must be resolved"):
        make_loss(auc(), 2, PRIOR, "auto")


def groups(net: nn.Module) -> list[dict]:
    return [{"params": [net.weight], "lr": 0.05}, {"params": [net.bias], "weight_decay": 0.0}]


def test_optimizers_are_made_with_the_rates_of_their_groups():
    net, loss = nn.Linear(3, 2), make_loss(auc(), 2, PRIOR, "prior")
    pesg = make_optimizer(PESG_CONFIG, 0.2, groups(net), loss)
    assert isinstance(pesg, PESG)
    assert [group["initial_lr"] for group in pesg.param_groups] == [0.05, 0.2, 0.2, 0.2]
    assert [group["weight_decay"] for group in pesg.param_groups[:3]] == [1e-4, 0.0, 1e-4]
    for cfg, kind in ((ADAM, torch.optim.Adam), (ADAMW, torch.optim.AdamW), (SGD, torch.optim.SGD)):
        for legal in (CrossEntropyLoss(), make_loss(auc(inner="batch"), 2, PRIOR, "class_mean")):
            optimizer = make_optimizer(cfg, 0.2, groups(net), legal)
            assert type(optimizer) is kind
            assert [group["initial_lr"] for group in optimizer.param_groups] == [0.05, 0.2]
    assert optimizer.param_groups[0]["nesterov"]
    assert make_optimizer(ADAMW, 0.2, groups(net), CrossEntropyLoss()).param_groups[0]["betas"] == (0.9, 0.99)


def test_an_objective_comes_with_an_optimizer_that_can_minimize_it():
    net = nn.Linear(3, 2)
    for cfg in (ADAM, ADAMW, SGD):
        with pytest.raises(ValueError, match="set optimizer=pesg, or inner=batch"):
            make_optimizer(cfg, 0.1, groups(net), make_loss(auc(), 2, PRIOR, "prior"))
    with pytest.raises(ValueError, match="use it with AUCMarginLoss"):
        make_optimizer(PESG_CONFIG, 0.1, groups(net), CrossEntropyLoss())
    assert isinstance(make_optimizer(PESG_CONFIG, 0.1, groups(net), AUCMarginLoss(inner="batch")), PESG)
    assert legal_optimizers(auc()) == ("pesg",)
    assert set(legal_optimizers(auc(inner="batch"))) == {"pesg", "adam", "adamw", "sgd"}
    assert "pesg" not in legal_optimizers(CrossEntropyConfig("ce"))
    with pytest.raises(ValueError, match="unknown optimizer"):
        make_optimizer(AdamConfig("lion", 0.1, 0.0, [0.9, 0.99]), 0.1, groups(net), CrossEntropyLoss())


def test_the_room_is_pure_torch():
    code = (
        "import sys, dam.objectives; others = 'pandas', 'timm', 'hydra', 'sklearn', 'albumentations', 'torchvision'; "
        "print([name for name in others if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
