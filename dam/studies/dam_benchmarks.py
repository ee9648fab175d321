"""Table 1 of DAM (Yuan et al., ICCV 2021): four losses at 1 % positives, five random training sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dam.studies.study import Cell, Key, Outcome, Reference, Study, choice, count

if TYPE_CHECKING:
    from dam.studies.results import Results

DATA = {"cats_dogs": "Cat&Dog", "cifar10": "CIFAR-10", "stl10": "STL-10", "cifar100": "CIFAR-100"}
NETWORKS = {"densenet121": "D", "resnet20": "R"}
SGD = ("auc.optimizer=sgd", "auc.optimizer.lr=0.1", "auc.optimizer.momentum=0.9", "auc.optimizer.weight_decay=1e-4")
LIKE_AUC = ("auc.schedule=step", "auc.sampler=shuffle")
SQUARE = ("auc.loss=auc_square", "auc.loss.margin=1.0", "auc.loss.form=prior", "auc.loss.prior=train")
LOSSES = {
    "ce": ("CE", "ce", ("auc=ce", *SGD, *LIKE_AUC)),
    "focal": ("Focal", "focal", ("auc=focal", *SGD, *LIKE_AUC)),
    "auc_s": ("AUC-S", "auc", (*SQUARE, "auc.loss.score=bsn")),
    "auc_m": ("AUC-M", "auc", ()),
}
# Mean and standard deviation over five training sets: CE, focal, AUC-S, AUC-M.
TABLE = {
    "Cat&Dog D": ((0.718, 0.018), (0.713, 0.009), (0.803, 0.018), (0.809, 0.016)),
    "CIFAR-10 D": ((0.698, 0.017), (0.700, 0.007), (0.745, 0.010), (0.760, 0.006)),
    "STL-10 D": ((0.641, 0.032), (0.660, 0.027), (0.669, 0.070), (0.703, 0.030)),
    "CIFAR-100 D": ((0.588, 0.011), (0.591, 0.017), (0.607, 0.010), (0.614, 0.016)),
    "Cat&Dog R": ((0.730, 0.028), (0.724, 0.020), (0.748, 0.007), (0.756, 0.017)),
    "CIFAR-10 R": ((0.690, 0.011), (0.681, 0.011), (0.702, 0.015), (0.715, 0.008)),
    "STL-10 R": ((0.641, 0.021), (0.634, 0.024), (0.645, 0.029), (0.659, 0.020)),
    "CIFAR-100 R": ((0.563, 0.015), (0.565, 0.022), (0.587, 0.017), (0.596, 0.016)),
}
REFERENCES = {
    f"{row}, {LOSSES[loss][0]}": Reference(*number)
    for row, numbers in TABLE.items()
    for loss, number in zip(LOSSES, numbers, strict=True)
}


def cells(values: Mapping[str, str | None]) -> list[Cell]:
    """Loss x training set, of one row of the table."""
    data, network = str(values["data"]), str(values["network"])
    row = f"{DATA[data]} {NETWORKS[network]}"
    return [
        Cell(
            f"{data}-{network}-{loss}-set_{seed}",
            (f"+experiment={data}_{network}", "control=none", *words, f"data.split_seed={seed}"),
            f"training set {seed}",
            {f"{row}, {title}": column},
        )
        for loss, (title, column, words) in LOSSES.items()
        for seed in range(int(str(values["sets"])))
    ]


def reduce(results: Results) -> Outcome:
    """The row of the table, AUC-M against the others."""
    from dam.studies.auc_table import reduce as judged

    last = results.arms[-1]
    return judged(results, [(last, arm) for arm in results.arms[:-1]])


STUDY = Study(
    name="dam_benchmarks",
    source="Yuan et al., Large-scale Robust Deep AUC Maximization, ICCV 2021 (arXiv 2012.03173), Table 1",
    about="""
One row of the table: CE, focal, AUC-S and AUC-M on one dataset with one network (ELU), trained from scratch for 100
epochs, 1 % positives in training, test untouched, five training sets that differ in which positives are left (and here
in which tenth of the rows is validation).

The paper chose margin, gamma, alpha and the focal gamma on validation; here they are fixed (margin .5, AUC-S 1, gamma
.002, focal .25 and 2) and any of them can be set: '*-auc_m-*:auc.loss.margin=0.3'. SGD with momentum .9 for CE and
focal and the crops and flips are ours, the paper leaves them open.
""",
    keys=(
        Key("data", f"which images: {', '.join(DATA)}", "cifar10", choice(*DATA)),
        Key("network", f"which network: {', '.join(NETWORKS)}", "resnet20", choice(*NETWORKS)),
        Key("sets", "how many training sets; >= 1", "5", count(1)),
    ),
    fixed={
        "data.split_seed": "it numbers the training sets: study.sets=N",
        "data": "say study.data=NAME",
        "auc": "the losses are its cells; choose some with study.cells='*-auc_m-*'",
        "auc.loss": "the losses are its cells",
        "control": "its cross-entropy cells are the control",
        "control.": "its cross-entropy cells are the control",
    },
    cells=cells,
    reduce=reduce,
    references={"auc": REFERENCES},
)
