"""Figures of calibrated probabilities: reliability before and after, decision curve, trust density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from dam.evaluation.rows import Assessment
from dam.report import style
from dam.report.plots.scores import cases, counts_note
from dam.report.style import Drawn
from dam.report.tables import JudgedSplit, main_models, number, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = ("before", "after")


def calibration(split: JudgedSplit, assessment: Assessment, label: str, model: str, name: str) -> Drawn:
    """Reliability diagram before and after: bins with intervals, smoothed curve, diagonal, and where the scores lie."""
    rows = {r.stage: r for r in assessment.calibration if (r.label, r.model) == (label, model)}
    stages = [s for s in STAGES if s in rows]
    note = f"{model}, {counts_note(split, label)}"
    figure, left = style.tile(style.short(label), note, below=1, height=1.95)
    left.remove()
    data: list[dict[str, Any]] = []
    handles: list[Any] = []
    for i, stage in enumerate(stages):
        axes = style.place(figure, 0.5 + 1.78 * i, 0.12 + 1.78 * (1 - i), 0.68, 0.62)
        bins = [b for b in assessment.reliability if (b.label, b.model, b.stage) == (label, model, stage)]
        colour = style.NEGATIVE if stage == "after" else style.FAINT
        handles = _reliability(axes, bins, colour)
        p = _probabilities(split, assessment, label, model, stage)
        data += [{"stage": stage, "what": "bin", **_bin(b)} for b in bins]
        if p is not None:
            targets, _, patients = cases(split, label, model)
            data += _smoothed(axes, (targets, p, patients), colour, stage, handles)
            _rug(axes, p)
        style.plain(axes, "predicted", "observed" if i == 0 else "")
        axes.set_title(
            f"{stage}: ECE {number(rows[stage].ece)}", fontsize=style.NORMAL, color=style.INK, loc="left", pad=3
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([0, 0.5, 1], ["0", ".5", "1"])
        if i:
            axes.tick_params(labelleft=False)
    style.legend_below(figure, handles, ["bins, 95 %", "smoothed"][: len(handles)], columns=2)
    text = f"Calibration of {model}, {label}, on {split.title}: predicted probability against observed rate."
    said = "; ".join(f"{s}: slope {rounded(rows[s].cal_slope, 2)}, Brier {number(rows[s].brier)}" for s in stages)
    return Drawn(name, "Calibration", text, f"{text} {said}.", figure, data)


def _bin(row: Any) -> dict[str, Any]:
    return {"predicted": row.mean_p, "observed": row.rate, "low": row.low, "high": row.high, "n": row.n}


def _reliability(axes: Axes, bins: Sequence[Any], colour: str) -> list[Any]:
    axes.plot([0, 1], [0, 1], color=style.FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    if not bins:
        return []
    x, y = [b.mean_p for b in bins], np.array([b.rate for b in bins])
    around = np.abs(np.array([[b.low for b in bins], [b.high for b in bins]]) - y)
    return [axes.errorbar(x, y, yerr=around, fmt="o", color=colour, markersize=3.2, linewidth=0.9)]


def _probabilities(split: JudgedSplit, assessment: Assessment, label: str, model: str, stage: str) -> np.ndarray | None:
    """Probabilities of the known cases: the sigmoid of the score before, those of the assessment after."""
    targets, scores, _ = cases(split, label, model)
    if stage == "before":
        return np.asarray(expit(scores))
    found = assessment.probabilities.get(model)
    if found is None:
        return None
    k = split.units.labels.index(label)
    p = np.asarray(found, dtype=np.float64)[~np.isnan(split.units.targets[:, k]), k]
    return p if len(p) == len(targets) and not np.isnan(p).any() else None


def _smoothed(
    axes: Axes, known: tuple[np.ndarray, np.ndarray, np.ndarray], colour: str, stage: str, handles: list[Any]
) -> list[dict[str, Any]]:
    from dam.evaluation.agreement import smooth_calibration

    curve = smooth_calibration(*known)
    drawn = axes.plot(curve.p, curve.rate, color=colour, linewidth=1.5)
    axes.fill_between(curve.p, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
    if len(handles) < 2:
        handles += drawn
    points = zip(curve.p, curve.rate, curve.low, curve.high, strict=True)
    names = ("predicted", "observed", "low", "high")
    return [{"stage": stage, "what": "smoothed", **dict(zip(names, point, strict=True))} for point in points]


def _rug(axes: Axes, p: np.ndarray) -> None:
    """Where the predictions lie, as a small histogram on the bottom of the panel."""
    heights, edges = np.histogram(p, bins=30, range=(0, 1))
    if heights.max():
        axes.stairs(
            heights / heights.max() * 0.16 - 0.02, edges, baseline=-0.02, fill=True, color=style.FAINT, alpha=0.3
        )


# ---------------------------------------------------------------- decision curve


def decision(split: JudgedSplit, assessment: Assessment, label: str, models: Sequence[str], name: str) -> Drawn | None:
    """Net benefit of the calibrated models beside treating everybody and nobody."""
    rows = [r for r in assessment.net_benefit if r.label == label and r.model in models and not math.isnan(r.model_nb)]
    if not rows:
        return None
    shown = [m for m in models if any(r.model == m for r in rows)]
    figure, axes = style.tile(
        style.short(label), counts_note(split, label), below=math.ceil((len(shown) + 2) / 2), height=2.2
    )
    handles = []
    for model in shown:
        mine = [r for r in rows if r.model == model]
        look: dict[str, Any] = {"color": style.colour(model, split.models), "linestyle": style.line(model)}
        handles += axes.plot([r.threshold for r in mine], [r.model_nb for r in mine], linewidth=1.5, **look)
    everybody = [r for r in rows if r.model == shown[0]]
    x, y = [r.threshold for r in everybody], [r.all_nb for r in everybody]
    handles += axes.plot(x, y, color=style.FAINT, linewidth=1, linestyle=(0, (3, 1, 1, 1)))
    handles += axes.plot([min(x), max(x)], [0, 0], color=style.INK, linewidth=1)
    highest = max([r.model_nb for r in rows] + y)
    axes.set_ylim(-0.25 * highest, 1.1 * highest)
    axes.set_xlim(0, max(x))
    style.plain(axes, "probability at which one would act", "net benefit")
    style.legend_below(figure, handles, [*shown, "act on all", "act on none"], columns=2)
    text = f"Decision curve of {label} on {split.title}, calibrated probabilities: higher is better."
    data = [
        {"model": r.model, "threshold": r.threshold, "net_benefit": r.model_nb, "all": r.all_nb, "none": 0.0}
        for r in rows
    ]
    return Drawn(name, "Decision curves", text, f"{text} Lines: {', '.join(shown)}, all, none.", figure, data)


# ---------------------------------------------------------------- trust


def trust(split: JudgedSplit, assessment: Assessment, label: str, models: Sequence[str], name: str) -> Drawn | None:
    """Trust densities after calibration: how much the given answers can be trusted, by reference standard."""
    shown = [m for m in main_models(models) if m in models]
    rows = [r for r in assessment.trust_density if r.label == label and r.model in shown and r.stage == "after"]
    if not rows:
        return None
    figure, axes = style.tile(
        style.short(label), f"{counts_note(split, label)}, after calibration", below=len(shown), height=2.0
    )
    handles, names = [], []
    for model in shown:
        for oracle in (1, 0):
            mine = [r for r in rows if r.model == model and r.oracle == oracle]
            if mine:
                look: Any = {"linestyle": "-" if oracle else (0, (4, 1.5)), "color": style.colour(model, split.models)}
                handles += axes.plot([r.x for r in mine], [r.density for r in mine], linewidth=1.5, **look)
                names.append(f"{model}, {'positives' if oracle else 'negatives'}")
    style.plain(axes, "question-answer trust", "density")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    style.legend_below(figure, handles, names, columns=2)
    text = f"Trust density of {label} on {split.title}, after calibration, by reference standard."
    data = [{"model": r.model, "oracle": r.oracle, "trust": r.x, "density": r.density} for r in rows]
    return Drawn(name, "Trust", text, f"{text} Lines: {'; '.join(names)}.", figure, data)
