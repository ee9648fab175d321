"""Curves and distributions of the scores of one label: ROC with a band and a zoom, precision-recall, histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dam.evaluation.auc import roc_curve
from dam.evaluation.curves import average_precision, pr_curve
from dam.evaluation.rows import ReaderRow
from dam.report import style
from dam.report.plots.thinning import thin
from dam.report.style import Drawn
from dam.report.tables import JudgedSplit, main_models, number, share, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40
BAND_REPLICATES = 400  # enough for a band that is looked at
ZOOM = 0.2  # largest false positive rate of the zoomed panel


def cases(split: JudgedSplit, label: str, model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, scores and patient codes of the known cases of one label and model."""
    k = split.units.labels.index(label)
    targets = split.units.targets[:, k]
    known = ~np.isnan(targets)
    return targets[known], split.units.scores[model][known, k], split.units.patients[known]


def counts_note(split: JudgedSplit, label: str) -> str:
    """ "test: 107 positive of 350"."""
    row = split.row(label, split.models[0])
    return f"{split.title}: {row.n_pos} positive of {row.n}"


# ---------------------------------------------------------------- ROC


def roc(split: JudgedSplit, label: str, models: Sequence[str], name: str) -> Drawn:
    """Empirical ROC of every model with the band of the headline model; inset: the region of few false positives."""
    shown = [m for m in models if not math.isnan(split.row(label, m).auc)]
    readers = _readers(split, label)
    figure, axes = style.tile(
        style.short(label), counts_note(split, label), below=len(shown) + bool(readers), height=2.9
    )
    inset = axes.inset_axes((0.47, 0.08, 0.5, 0.5))
    data: list[dict[str, Any]] = []
    handles = []
    for model in shown:
        targets, scores, patients = cases(split, label, model)
        curve = roc_curve(targets, scores)
        x, y = thin(curve.fpr, curve.tpr)
        data += [{"model": model, "what": "curve", "fpr": a, "tpr": b} for a, b in zip(x, y, strict=True)]
        colour = style.colour(model, split.models)
        if model == main_models(shown)[0]:
            data += _band(axes, inset, (targets, scores, patients), colour, model)
        look: dict[str, Any] = {"color": colour, "linestyle": style.line(model)}
        look["linewidth"] = 1.9 if model == "auc" else 1.5
        near = int(np.searchsorted(x, ZOOM, side="right")) + 1
        inset.plot(x[:near], y[:near], **look)
        lines = axes.plot(x, y, **look)
        handles += lines
    data += _reader_points(axes, inset, readers, handles)
    style.plain(axes, "1 − specificity", "sensitivity")
    for panel, end in ((axes, 1.0), (inset, ZOOM)):
        panel.plot([0, end], [0, end], color=style.FAINT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    style.unit_ticks(axes.xaxis, axes.yaxis)
    _dress_inset(inset)
    rows = [split.row(label, m) for m in shown]
    names = [f"{r.model}  {with_interval(r.auc, r.ci_low, r.ci_high)}" for r in rows] + (["readers"] if readers else [])
    style.legend_below(figure, handles, names)
    best = main_models(shown)[0]
    text = f"ROC of {label} on {split.title}; band: 95 % of {best}, pointwise; inset: at most 20 % false positives."
    alt = f"{text} AUC: " + "; ".join(f"{r.model} {with_interval(r.auc, r.ci_low, r.ci_high)}" for r in rows) + "."
    return Drawn(name, "ROC curves", text, alt, figure, data)


def _dress_inset(inset: Axes) -> None:
    style.plain(inset)
    inset.set_xlim(0, ZOOM)
    inset.set_ylim(0, 1.01)
    inset.set_xticks([0, 0.1, 0.2], ["0", ".1", ".2"])
    inset.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
    inset.tick_params(labelsize=style.SMALL, length=2, pad=1.5)
    inset.spines[["top", "right"]].set_visible(True)
    for spine in inset.spines.values():
        spine.set_color(style.FAINT)
        spine.set_linewidth(0.6)


def _band(
    axes: Axes, inset: Axes, known: tuple[np.ndarray, np.ndarray, np.ndarray], colour: str, model: str
) -> list[dict[str, Any]]:
    from dam.evaluation.resampled import roc_band

    band = roc_band(*known, replicates=BAND_REPLICATES)
    if np.isnan(band.low).all():
        return []
    for panel in (axes, inset):
        panel.fill_between(band.fpr, band.low, band.high, color=colour, alpha=0.16, linewidth=0)
    points = zip(band.fpr, band.low, band.high, strict=True)
    return [{"model": model, "what": "band", "fpr": x, "tpr": "", "low": a, "high": b} for x, a, b in points]


def _readers(split: JudgedSplit, label: str) -> list[ReaderRow]:
    """One row a reader: their points do not depend on the model."""
    if split.assessment is None:
        return []
    rows = [r for r in split.assessment.readers if r.label == label and not math.isnan(r.sensitivity)]
    return list({r.reader: r for r in rows}.values())


def _reader_points(axes: Axes, inset: Axes, readers: Sequence[ReaderRow], handles: list[Any]) -> list[dict[str, Any]]:
    if not readers:
        return []
    for panel in (axes, inset):
        drawn = panel.plot(
            [r.fpr for r in readers],
            [r.sensitivity for r in readers],
            "D",
            color=style.INK,
            markersize=4.5,
            markeredgecolor=style.PAPER,
            markeredgewidth=0.7,
            zorder=5,
        )
    handles += drawn
    return [{"model": r.reader, "what": "reader", "fpr": r.fpr, "tpr": r.sensitivity} for r in readers]


# ---------------------------------------------------------------- precision-recall


def precision_recall(split: JudgedSplit, label: str, models: Sequence[str], name: str) -> Drawn:
    """Precision-recall curves (step form) with the prevalence as baseline."""
    shown = [m for m in models if not math.isnan(split.row(label, m).auc)]
    figure, axes = style.tile(style.short(label), counts_note(split, label), below=len(shown) + 1, height=2.5)
    data: list[dict[str, Any]] = []
    handles, names = [], []
    prevalence = math.nan
    for model in shown:
        targets, scores, _ = cases(split, label, model)
        prevalence = float(targets.mean())
        curve = pr_curve(targets, scores)
        x, y = thin(np.append(0.0, curve.recall), np.append(curve.precision[0], curve.precision))
        data += [{"model": model, "recall": a, "precision": b} for a, b in zip(x, y, strict=True)]
        handles += axes.step(
            x, y, where="pre", color=style.colour(model, split.models), linestyle=style.line(model), linewidth=1.5
        )
        names.append(f"{model}  AP {_ap(split, label, model, average_precision(targets, scores))}")
    handles += axes.plot([0, 1], [prevalence] * 2, color=style.INK, linewidth=0.9, linestyle=(0, (2, 2)))
    names.append(f"prevalence {share(prevalence)} (what chance scores)")
    data.append({"model": "prevalence", "recall": "", "precision": prevalence})
    style.plain(axes, "recall (sensitivity)", "precision (PPV)")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    style.unit_ticks(axes.xaxis, axes.yaxis)
    style.legend_below(figure, handles, names)
    text = f"Precision and recall of {label} on {split.title}; dashed: prevalence {share(prevalence)}."
    return Drawn(name, "Precision-recall curves", text, f"{text} {'; '.join(names[:-1])}.", figure, data)


def _ap(split: JudgedSplit, label: str, model: str, value: float) -> str:
    rows = split.assessment.performance if split.assessment is not None else ()
    row = next((r for r in rows if (r.label, r.model) == (label, model)), None)
    return number(value) if row is None else with_interval(row.ap, row.ap_low, row.ap_high)


# ---------------------------------------------------------------- histograms


def histograms(split: JudgedSplit, label: str, models: Sequence[str], name: str) -> Drawn:
    """One panel a model, below one another: the scores of positives and negatives, each as shares of its class."""
    shown = [m for m in models if not math.isnan(split.row(label, m).auc)]
    panel, gap, top, foot = 0.82, 0.5, 0.7, 0.66
    height = top + foot + panel * len(shown) + gap * (len(shown) - 1)
    figure, first = style.tile(style.short(label), counts_note(split, label), height=1.0)
    first.remove()
    figure.set_size_inches(style.WIDTH, height)
    for said, offset in zip(figure.texts, (0.06, 0.255), strict=True):
        said.set_y(1 - offset / height)
    data: list[dict[str, Any]] = []
    for i, model in enumerate(shown):
        above = top + i * (panel + gap)
        axes = style.place(figure, 0.5, 0.12, above, height - above - panel)
        targets, scores, _ = cases(split, label, model)
        data += _histogram(axes, targets, scores, model)
        style.plain(axes, title=f"{model}, AUC {number(split.row(label, model).auc)}")
        if i == len(shown) - 1:
            axes.set_xlabel("score", fontsize=style.NORMAL, labelpad=2, color=style.INK)
    row = split.row(label, shown[0])
    handles = axes.get_legend_handles_labels()[0]
    style.legend_below(figure, handles, [f"{row.n - row.n_pos} negatives", f"{row.n_pos} positives"], columns=2)
    text = f"Scores of {label} on {split.title} by reference standard, as shares of each class."
    return Drawn(name, "Score distributions", text, f"{text} Models: {', '.join(shown)}.", figure, data)


def _histogram(axes: Axes, targets: np.ndarray, scores: np.ndarray, model: str) -> list[dict[str, Any]]:
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _bins(int(targets.sum()), len(targets)) + 1)
    data = []
    for value, colour in ((0, style.NEGATIVE), (1, style.POSITIVE)):
        count = max(1, int(np.sum(targets == value)))
        heights = np.histogram(scores[targets == value], bins=edges)[0] / count
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.25, linewidth=0)
        dash = "-" if value else (0, (3, 1))
        axes.stairs(heights, edges, color=colour, linewidth=1.3, linestyle=dash, label=str(value))
        cells = zip(edges[:-1], edges[1:], heights, strict=True)
        data += [{"model": model, "class": value, "from": a, "to": b, "share": h} for a, b, h in cells]
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=3)
    return data


def _bins(positives: int, n: int) -> int:
    """Few enough that the smaller class is not a comb."""
    return min(BINS, max(10, int(2.5 * math.sqrt(min(positives, n - positives)))))
