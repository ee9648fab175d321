"""What the tests of predict share: a tiny run with every kind of column, and its test images as files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tiny import tiny

from dam.training.run import start

MORE = ("control=ce", "tta.copies=2", "metadata=mlp", "metadata.columns=[age,sex]", "metadata.epochs=1",
        "data.labels=[Cardiomegaly,Edema]", "warm_start.steps=2", "auc.steps=2")  # fmt: skip


def train(folder: Path, *more: str, bare: bool = False) -> Path:
    """A finished tiny run in ``folder``/run; ``bare``: without augmented copies and metadata."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAM_STORE", str(folder / "store"))
        patch.setattr("dam.report.plots.draw_all", lambda *_: [])
        words = tuple(w for w in MORE if not (bare and w.startswith(("tta", "metadata"))))
        start(tiny(folder / "run", *words, *more), ["dam", "train"])
    return folder / "run"


def test_images(run: Path) -> tuple[Path, list[str]]:
    """Root and names of the run's test images."""
    import json

    with open(run / "predictions" / "images.csv", encoding="utf-8", newline="") as file:
        names = [row["image"] for row in csv.DictReader(file) if row["split"] == "test"]
    return Path(json.loads((run / "data.json").read_text())["root"]), names


test_images.__test__ = False  # type: ignore[attr-defined]
