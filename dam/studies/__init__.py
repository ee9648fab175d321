"""The papers' tables and figures as matrices of runs, our numbers beside theirs.

A study is one small file: a list of cells (overrides of ``dam train``), a reducer from what the finished cells left to
tables and figures, and the paper's numbers. ``STUDIES`` names the files; each holds a ``STUDY``.
"""

from __future__ import annotations

STUDIES = {
    "covid_trust": "COVIDx8B: supervised or self-supervised start, cross-entropy or deep AUC, five folds (Tables 2-4)",
    "dam_benchmarks": "DAM, ICCV 2021, Table 1: CE, focal, AUC-S, AUC-M at 1 % positives, five training sets",
    "two_stage_chexpert": "CheXpert in two stages: cross-entropy, then deep AUC a disease, on four backbones",
}
