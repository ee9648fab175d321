"""The figures of a report: ROC and score histograms a disease, AUC bars, training curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dam.evaluation.auc import roc_curve
from dam.evaluation.judge import AucRow
from dam.evaluation.predictions import MEAN
from dam.report import style
from dam.report.curves import draw_training
from dam.report.markdown import FigureFile
from dam.report.run_files import RunFiles
from dam.report.tables import JudgedSplit, judged_on, number, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 40


def draw_all(run: RunFiles, judged: Sequence[JudgedSplit], folder: Path) -> list[FigureFile]:
    """Draw every figure of the headline split (``judged[0]``) into ``folder``; returns them in the report's order."""
    from dam.files import slugs

    folder.mkdir(parents=True, exist_ok=True)
    split = judged[0]
    drawn: list[tuple[FigureFile, Figure]] = []
    text = f"AUC of every label on {split.split} with 95 % intervals, {judged_on(split)}"
    drawn.append((FigureFile("auc_bars.png", "AUC by label", text), auc_bars(split)))
    defined = [label for label in split.units.labels if not math.isnan(_best(split, label))]
    names = slugs(run.labels)
    for label in defined:
        text = f"ROC of {label} on {split.split}"
        drawn.append((FigureFile(f"roc_{names[label]}.png", "ROC curves", text), roc(split, label)))
    for label in defined:
        text = f"Scores of {label} on {split.split} by reference standard, as shares of each class"
        drawn.append((FigureFile(f"scores_{names[label]}.png", "Score distributions", text), histograms(split, label)))
    for name, text, figure in draw_training(run, names):
        drawn.append((FigureFile(name, "Training curves", text), figure))
    for entry, figure in drawn:
        style.save(figure, folder / entry.file)
    return [entry for entry, _ in drawn]


def _best(split: JudgedSplit, label: str) -> float:
    values = [split.row(label, m).auc for m in split.models]
    return max((v for v in values if not math.isnan(v)), default=math.nan)


# ---------------------------------------------------------------- bars


def auc_bars(split: JudgedSplit) -> Figure:
    """Horizontal bars from chance (.5) to the AUC, whiskers for the interval, the numbers beside them."""
    labels, models = split.units.labels, split.models
    if len(labels) > 1:
        labels = (*labels, MEAN)
    thick = 0.32 if len(models) == 1 else 0.2 if len(labels) < 9 else 0.165
    gap = max(len(models) * thick + (0.26 if len(labels) < 9 else 0.16), 0.42)
    figure = style.new_figure(7.6, 1.25 + gap * len(labels))
    axes = figure.subplots()
    rows = [[split.row(label, model) for model in models] for label in labels]
    low, high = _limits([r for row in rows for r in row])
    for i, row in enumerate(rows):
        if all(math.isnan(r.auc) for r in row):  # one reason says it all
            _bar(axes, row[0], i * gap + (len(models) - 1) * thick / 2, thick, "none")
            continue
        for j, r in enumerate(row):
            _bar(axes, r, i * gap + j * thick, thick, style.colour(r.model, models))
    centres = [i * gap + (len(models) - 1) * thick / 2 for i in range(len(labels))]
    if len(labels) > 1:
        axes.axhline(centres[-1] - gap / 2, color=style.FAINT, linewidth=0.8)
    axes.axvline(0.5, color=style.INK, linewidth=0.9)
    style.plain(axes, xlabel=f"AUC on {split.split} (bars start at chance, .5; whiskers: 95 % interval)")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_yticks(centres, [_tick(split, label) for label in labels])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(centres[-1] + gap / 2 + 0.02, -gap / 2 + (len(models) - 1) * thick / 2)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(lambda x, _: number(x)[:-1] if x < 1 else "1")
    _legend_above(axes, models)
    return figure


def _limits(rows: Sequence[AucRow]) -> tuple[float, float]:
    ends = [x for r in rows for x in (r.ci_low, r.auc) if not math.isnan(x)]
    lowest = min([0.5, *ends])
    return max(0.0, math.floor(lowest * 20 - 0.2) / 20), 1.0


def _bar(axes: Axes, row: AucRow, y: float, thick: float, colour: str) -> None:
    side: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "left", "fontsize": 8}
    if math.isnan(row.auc):
        axes.text(1.015, y, row.interval, color=style.FAINT, style="italic", **side)
        return
    axes.barh(y, row.auc - 0.5, left=0.5, height=thick * 0.86, color=colour, linewidth=0)
    if not math.isnan(row.ci_low):
        axes.plot([row.ci_low, row.ci_high], [y, y], color=style.INK, linewidth=1.1, solid_capstyle="butt")
        axes.plot([row.ci_low, row.ci_high], [y, y], "|", color=style.INK, markersize=thick * 22, markeredgewidth=1.1)
    axes.text(1.015, y, with_interval(row.auc, row.ci_low, row.ci_high), color=style.INK, **side)


def _tick(split: JudgedSplit, label: str) -> str:
    if label == MEAN:
        return f"mean of {len(split.judgement.mean_labels)}"
    row = split.row(label, split.models[0])
    return f"{_short(label)}\n{row.n_pos} / {row.n}"


def _short(label: str, length: int = 28) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def _legend_above(axes: Axes, models: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=style.colour(m, tuple(models)), label=m) for m in models]
    axes.figure.legend(handles=handles, loc="outside upper left", ncols=len(models), frameon=False, fontsize=9)


# ---------------------------------------------------------------- ROC


def roc(split: JudgedSplit, label: str) -> Figure:
    """Empirical ROC of every model of one label."""
    figure = style.new_figure(5.2, 5.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=style.FAINT, linewidth=0.9, linestyle=(0, (2, 2)))
    k = split.units.labels.index(label)
    targets = split.units.targets[:, k]
    known = ~np.isnan(targets)
    for model in split.models:
        row = split.row(label, model)
        if math.isnan(row.auc):
            continue
        curve = roc_curve(targets[known], split.units.scores[model][known, k])
        name = f"{model}  {with_interval(row.auc, row.ci_low, row.ci_high)}"
        width = 2.0 if model == "auc" else 1.6
        colour = style.colour(model, split.models)
        axes.plot(curve.fpr, curve.tpr, color=colour, linestyle=style.line(model), linewidth=width, label=name)
    row = split.row(label, split.models[0])
    title = f"{_short(label, 40)}: {split.split}, {row.n_pos} positive of {row.n}"
    style.plain(axes, "1 - specificity", "sensitivity", title)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    legend = axes.legend(loc="lower right", fontsize=9, title="AUC [95 % interval]", title_fontsize=9, handlelength=2.6)
    legend.get_frame().set(edgecolor="none", alpha=0.85)
    return figure


# ---------------------------------------------------------------- score histograms


def histograms(split: JudgedSplit, label: str) -> Figure:
    """One panel a model: the scores of positives and of negatives, each as shares of its class."""
    k = split.units.labels.index(label)
    targets = split.units.targets[:, k]
    models = [m for m in split.models if not math.isnan(split.row(label, m).auc)]
    columns = 2 if len(models) in (2, 4) else min(3, len(models))
    lines = math.ceil(len(models) / columns)
    figure = style.new_figure(max(3.4 * columns, 4.6), 2.5 * lines + 0.65)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(models) :]:
        axes.set_visible(False)
    for axes, model in zip(grid.flat, models, strict=False):
        _histogram(axes, targets, split.units.scores[model][:, k])
        style.plain(axes, title=f"{model}, AUC {number(split.row(label, model).auc)}")
        axes.set_xlabel("score", fontsize=9)
    for row in grid:
        row[0].set_ylabel("share of the class", fontsize=9)
    positives, n = split.row(label, models[0]).n_pos, split.row(label, models[0]).n
    handles = grid[0][0].get_legend_handles_labels()[0]
    names = [f"{n - positives} negatives", f"{positives} positives"]
    title = f"{_short(label, 40)}: {split.split}"
    legend = figure.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, fontsize=9, title=title)
    legend.set_alignment("left")
    return figure


def _histogram(axes: Axes, targets: np.ndarray, scores: np.ndarray) -> None:
    known = ~np.isnan(targets)
    y, s = targets[known], scores[known]
    low, high = float(s.min()), float(s.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _bins(int(y.sum()), len(y)) + 1)
    for value, colour in ((0, style.NEGATIVE), (1, style.POSITIVE)):
        share = np.full(int(np.sum(y == value)), 1 / max(1, int(np.sum(y == value))))
        heights, _ = np.histogram(s[y == value], bins=edges, weights=share)
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.3, linewidth=0)
        axes.stairs(heights, edges, color=colour, linewidth=1.5, label=str(value))
    axes.set_ylim(bottom=0)


def _bins(positives: int, n: int) -> int:
    """Few enough that the smaller class is not a comb."""
    return min(BINS, max(10, int(2.5 * math.sqrt(min(positives, n - positives)))))
