"""Which images a report shows: for each label the most confident right and wrong answers.

Format, written by the training side and read by the report: ``predictions/examples.csv`` with columns ``image`` (as in
the predictions table), ``file`` (a PNG of at most 160 pixels a side in ``predictions/examples/``), ``kind`` (one of
``KINDS``), ``label``, ``split`` and ``model`` (whose scores chose it); one row an image and reason. Scores, predicted
labels and the reference standard are not repeated there: the report takes them from the predictions table.

``dam report --explain`` adds overlays: ``NN_explain.png`` beside ``NN.png`` (``NN_explain_2.png`` for a second label of
the same image) and their list ``explain.csv`` in the same folder, with the columns ``OVERLAY_COLUMNS``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dam.evaluation.predictions import Predictions

COLUMNS = ("image", "file", "kind", "label", "split", "model")
# kind -> what it means; ranks of scores decide, so no threshold and no calibration is needed
KINDS = {
    "found": "positives with the highest scores: most confident and right",
    "false alarm": "negatives with the highest scores: most confident and wrong",
    "missed": "positives with the lowest scores: most confident and wrong",
}
FOLDER = "examples"
# networks: whose maps were averaged, where there were several; method as dam.inference.explain_maps names them
OVERLAY_COLUMNS = ("image", "label", "file", "model", "networks", "method")
OVERLAYS = "explain.csv"
EXAMPLE = re.compile(r"\d+\.png")
OVERLAY = re.compile(r"\d+_explain(_\d+)?\.png")
MOST = 36  # images in all


def overlays(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """(image, label) -> row of ``explain.csv`` in ``folder``, for the overlays that are there."""
    file = folder / OVERLAYS
    if not file.is_file():
        return {}
    with open(file, encoding="utf-8", newline="") as lines:
        rows = [{name: row.get(name) or "" for name in OVERLAY_COLUMNS} for row in csv.DictReader(lines)]
    inside = [row for row in rows if OVERLAY.fullmatch(row["file"]) and not (folder / row["file"]).is_symlink()]
    there = [row for row in inside if (folder / row["file"]).is_file()]
    return {(row["image"], row["label"]): row for row in there}


def shown_model(models: Sequence[str]) -> str:
    """The model whose answers are shown: the AUC model, else its control, else the last column."""
    return next((m for m in ("auc", "ce", "focal") if m in models), models[-1])


def per_kind(labels: int) -> int:
    """Images for each label and kind such that all labels together stay below MOST (at least 1, at most 4)."""
    return max(1, min(4, MOST // (len(KINDS) * max(1, labels))))


def choose_examples(predictions: Predictions, labels: Sequence[str], per_kind: int) -> list[dict[str, str]]:
    """Rows ``image, kind, label, model`` of the images to show, in the order of ``labels`` and ``KINDS``.

    A pure function of the table: ties keep the table's order, an image comes at most once for a label, and kinds
    without a case are left out. At most MOST rows in all. Raises ``ValueError`` for a label that is not in the table.
    """
    model = shown_model(predictions.models)
    rows: list[dict[str, str]] = []
    for label in labels:
        if label not in predictions.labels:
            raise ValueError(f"there is no label {label!r} in the predictions")
        k = predictions.labels.index(label)
        target, score = predictions.targets[:, k], predictions.scores[model][:, k]
        used: set[int] = set()
        for kind in KINDS:
            cases = np.flatnonzero((target == (0 if kind == "false alarm" else 1)) & ~np.isnan(score))
            sign = 1 if kind == "missed" else -1
            order = cases[np.argsort(sign * score[cases], kind="stable")]
            chosen = [int(i) for i in order if int(i) not in used][:per_kind]
            used.update(chosen)
            rows += [
                {"image": str(predictions.images[i]), "kind": kind, "label": label, "model": model} for i in chosen
            ]
    return rows[:MOST]
