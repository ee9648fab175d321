"""The trust study on COVIDx8B: {supervised, self-supervised} start x {cross-entropy, deep AUC} x five folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dam.studies.study import Cell, Key, Outcome, Reference, Study, count, quoted, weights

if TYPE_CHECKING:
    from dam.studies.results import Results

STARTS = ("supervised", "self_supervised")
EXPERIMENT = ("+experiment=covidx8b_densenet121", "control=none")
# The experiment is the AUC run of 30 epochs; its rate drops at half of them, also where a user takes fewer.
OBJECTIVES = {
    "auc": ("AUC", ("auc.schedule.unit=fraction", "auc.schedule.at=[0.5]")),
    "ce": (
        "CE",
        (
            "auc=ce",
            "auc.optimizer=sgd",
            "auc.optimizer.lr=1e-3",
            "auc.optimizer.momentum=0.9",
            "auc.optimizer.weight_decay=1e-4",
            "auc.schedule=cosine",
            "auc.sampler=shuffle",
        ),
    ),
}
ROWS = {
    (start, loss): f"{start.replace('_', '-')}, {OBJECTIVES[loss][0]}" for loss in ("ce", "auc") for start in STARTS
}
PAIRS = (
    ("supervised, AUC", "supervised, CE"),
    ("self-supervised, AUC", "self-supervised, CE"),
    ("self-supervised, CE", "supervised, CE"),
    ("self-supervised, AUC", "supervised, AUC"),
)
CAPTIONS = {
    "Table 2: precision": ("precision_negative", "precision_positive"),
    "Table 3: sensitivity": ("sensitivity_negative", "sensitivity_positive"),
    "Table 4: trust of positives": ("trust_positive",),
}
# Mean and standard deviation over five folds on 200 + 200 test images; 1.000 is printed without one.
REFERENCES = {
    "precision_negative": {
        "supervised, CE": Reference(0.8960, 0.016),
        "self-supervised, CE": Reference(0.9295, 0.016),
        "supervised, AUC": Reference(0.9134, 0.014),
        "self-supervised, AUC": Reference(0.9251, 0.006),
    },
    "precision_positive": {
        "supervised, CE": Reference(0.9956, 0.004),
        "self-supervised, CE": Reference(0.9978, 0.004),
        "supervised, AUC": Reference(1.0),
        "self-supervised, AUC": Reference(1.0),
    },
    "sensitivity_negative": {
        "supervised, CE": Reference(0.9960, 0.003),
        "self-supervised, CE": Reference(0.9980, 0.004),
        "supervised, AUC": Reference(1.0),
        "self-supervised, AUC": Reference(1.0),
    },
    "sensitivity_positive": {
        "supervised, CE": Reference(0.8840, 0.021),
        "self-supervised, CE": Reference(0.9240, 0.019),
        "supervised, AUC": Reference(0.9050, 0.017),
        "self-supervised, AUC": Reference(0.9190, 0.007),
    },
    "trust_positive": {
        "supervised, CE": Reference(0.929, 0.009),
        "self-supervised, CE": Reference(0.879, 0.014),
        "supervised, AUC": Reference(0.938, 0.010),
        "self-supervised, AUC": Reference(0.937, 0.010),
    },
}
LACKS = (
    "study.{key} is not set: name the weights of the {start} start, study.{key}=WEIGHTS: a run of `dam pretrain`, a "
    "MoCo checkpoint such as CovidPrognosis' of MIMIC-CXR, or any file or run that model.weights takes; or leave its "
    "cells out with study.cells='{other}-*'"
)


def cells(values: Mapping[str, str | None]) -> list[Cell]:
    """Start x objective x fold."""
    folds = int(str(values["folds"]))
    found = []
    for (start, loss), arm in ROWS.items():
        begin, other = values[start], next(name for name in STARTS if name != start)
        lacks = "" if begin else LACKS.format(key=start, start=start.replace("_", "-"), other=other)
        for fold in range(folds):
            words = (
                *EXPERIMENT,
                *OBJECTIVES[loss][1],
                f"data.folds={folds}",
                f"data.fold={fold}",
                f"model.weights={quoted(begin)}",
            )
            found.append(Cell(f"{start}-{loss}-fold_{fold}", words, f"fold {fold}", {arm: loss}, lacks))
    return found


def reduce(results: Results) -> Outcome:
    """The paper's three tables and its figure, and what it does not have."""
    from dam.studies.binary import reduce as judged

    folds = len({cell.replicate for cell in results.cells})
    return judged(results, CAPTIONS, PAIRS, folds)


STUDY = Study(
    name="covid_trust",
    source="COVID-19 chest X-rays, MoCo and deep AUC maximization: the trust study on COVIDx8B, Tables 2 to 4",
    about="""
The protocol: 5 folds of the training list, both starts, both objectives, no warm start; DenseNet-121, 224 pixels,
centre crop, horizontal flips; AUC: AUC-M with PESG, rate .1, a tenth of it from half of 30 epochs on; CE: SGD, rate
.001, momentum .9, weight decay 1e-4, cosine, 30 epochs. Of every cell the weights of best validation accuracy at the
threshold of the largest F1 are kept with that threshold, and judged on the test list.

Open in the paper: batch size, gamma, margin and weight decay of the AUC run, how images were normalized, which of the
published MoCo weights it took. It cut its folds by image; here patients stay together. It numbers its tables in this
order as far as we know it: precision, sensitivity, trust of the positives; its AUC is a picture without numbers.

The paper's starts: ImageNet (study.supervised=timm) and CovidPrognosis' MoCo DenseNet-121 of MIMIC-CXR.
""",
    keys=(
        Key("supervised", "weights of the supervised start, as model.weights takes them", "timm", weights),
        Key(
            "self_supervised", "weights of the self-supervised start; a run of `dam pretrain` or a file", None, weights
        ),
        Key("folds", "into how many folds the training rows are cut; >= 2", "5", count(2)),
    ),
    fixed={
        "model.weights": "say study.supervised=WEIGHTS and study.self_supervised=WEIGHTS",
        "data.folds": "say study.folds=K",
        "data.fold": "choose folds by their cells, such as study.cells='*-fold_0'",
        "select": "it keeps the weights of best validation accuracy, as the paper did",
        "auc": "its cells are cross-entropy and AUC; '*-ce-*:auc.optimizer.lr=0.01' changes one of the two",
        "warm_start": "the paper had none",
        "warm_start.": "the paper had none",
        "control": "its cross-entropy cells are the control",
        "control.": "its cross-entropy cells are the control",
    },
    cells=cells,
    reduce=reduce,
    references=REFERENCES,
)
