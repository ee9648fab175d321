"""The figures of a report: drawn from judged tables, written as PNG and SVG with the numbers behind each as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from dam.report.run_files import RunFiles
from dam.report.style import Drawn
from dam.report.tables import JudgedSplit, main_models, shown_models


def draw_all(run: RunFiles, judged: Sequence[JudgedSplit], folder: Path) -> list[Drawn]:
    """Draw every figure of the headline split (``judged[0]``) into ``folder``; returns them in the report's order.

    Files: NAME.png, NAME.svg, data/NAME.csv. Files of an earlier report that are no longer drawn are removed.
    """
    from dam.files import atomic_write_text
    from dam.report import style
    from dam.report.frames import csv_text

    (folder / "data").mkdir(parents=True, exist_ok=True)
    drawn = []
    for item in _all(run, judged[0]):
        style.save(item.figure, folder, item.name)
        atomic_write_text(folder / "data" / f"{item.name}.csv", csv_text(item.data))
        drawn.append(item)
    names = {item.name for item in drawn}
    for kind in ("*.png", "*.svg", "data/*.csv"):
        for file in folder.glob(kind):
            if file.stem not in names:
                file.unlink()
    return drawn


def _all(run: RunFiles, split: JudgedSplit) -> Iterator[Drawn]:
    from dam.files import slugs
    from dam.report.plots.bars import auc_bars
    from dam.report.plots.training import draw_training

    names = slugs(run.labels)
    models = shown_models(split.models)
    defined = [k for k in split.units.labels if not all(math.isnan(split.row(k, m).auc) for m in models)]
    yield auc_bars(split, models)
    yield from _of_scores(split, defined, models, names)
    yield from _of_assessment(split, defined, models, names)
    yield from draw_training(run, names)


def _of_scores(
    split: JudgedSplit, labels: Sequence[str], models: Sequence[str], names: dict[str, str]
) -> Iterator[Drawn]:
    from dam.report.plots import scores

    for label in labels:
        yield scores.roc(split, label, models, f"roc_{names[label]}")
    for label in labels:
        yield scores.precision_recall(split, label, models, f"pr_{names[label]}")
    for label in labels:
        yield scores.histograms(split, label, models, f"scores_{names[label]}")


def _of_assessment(
    split: JudgedSplit, labels: Sequence[str], models: Sequence[str], names: dict[str, str]
) -> Iterator[Drawn]:
    from dam.report.plots import groups, probabilities

    found = split.assessment
    if found is None:
        return
    model = main_models(models)[0]
    for label in labels:
        if any((r.label, r.model) == (label, model) for r in found.calibration):
            yield probabilities.calibration(split, found, label, model, f"calibration_{names[label]}")
    for label in labels:
        made = [
            probabilities.decision(split, found, label, models, f"decision_{names[label]}"),
            probabilities.trust(split, found, label, models, f"trust_{names[label]}"),
            groups.subgroups(split, found, label, model, f"subgroups_{names[label]}"),
        ]
        yield from (item for item in made if item is not None)
