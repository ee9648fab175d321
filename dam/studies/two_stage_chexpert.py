"""Two stages on CheXpert (a practitioner's report, 2026): cross-entropy on all labels, then deep AUC a disease."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dam.studies.study import Cell, Outcome, Reference, Study

if TYPE_CHECKING:
    from dam.studies.results import Results

BACKBONES = {"convnext": "ConvNeXt", "densenet169": "DenseNet169", "swin": "Swin", "davit": "DaViT"}
# Mean AUC of the warm start and of the models a disease; of DaViT the report gives the second only.
TABLE = {"ConvNeXt": (0.877, 0.8943), "DenseNet169": (0.876, 0.9035), "Swin": (0.878, 0.9003)}
REFERENCES = {
    **{f"{name}, CE": Reference(numbers[0]) for name, numbers in TABLE.items()},
    **{f"{name}, deep AUC": Reference(numbers[1]) for name, numbers in TABLE.items()},
    "DaViT, deep AUC": Reference(0.8995),
}


def cells(values: Mapping[str, str | None]) -> list[Cell]:
    """A backbone is one run, whose two stages are two rows."""
    return [
        Cell(
            backbone,
            (f"+experiment=chexpert_{backbone}",),
            "one run",
            {f"{name}, CE": "warm_start", f"{name}, deep AUC": "auc"},
        )
        for backbone, name in BACKBONES.items()
    ]


def reduce(results: Results) -> Outcome:
    """Mean AUC of both stages of every backbone, and what the second adds."""
    from dam.studies.auc_table import reduce as judged

    return judged(results, [(f"{name}, deep AUC", f"{name}, CE") for name in BACKBONES.values()])


STUDY = Study(
    name="two_stage_chexpert",
    source="Two-stage ensembles on CheXpert (a practitioner's report, 2026), table of backbones",
    about="""
Two epochs of cross-entropy on all labels, then a model a disease by deep AUC for two more. The second stage has trained
longer than the first, so the difference is no fair comparison of the losses: `dam train ... control=ce` makes that.

The report gives one run each, without a spread, and neither sizes nor rates: those of the experiments chexpert_* are
ours.
""",
    keys=(),
    fixed={
        "warm_start": "it is the first of its two rows",
        "auc": "it is the second of its two rows",
        "model": "its backbones are its cells: study.cells=densenet169",
    },
    cells=cells,
    reduce=reduce,
    references={"auc": REFERENCES},
)
