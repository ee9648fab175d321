"""The figures of a study of one label: AUC bars, trust density and spectrum, a forest of paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dam.evaluation.trust import trust_density
from dam.report import style
from dam.report.style import Drawn
from dam.report.tables import number, with_interval
from dam.studies.measures import Arm
from dam.studies.paired import Paired
from dam.studies.tables import title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#e69f00", "#d55e00", "#56b4e9", "#0072b2", "#009e73", "#cc79a7", "#7a7a7a", "#8c6d1f")
DASHES: tuple[Any, ...] = ((0, (4, 1.5)), "-", (0, (1, 1.2)), (0, (6, 1, 1, 1)))
WIDE = 2 * style.WIDTH


def draw(arms: Mapping[str, Arm], names: Sequence[str], differences: Sequence[Paired]) -> tuple[Drawn, ...]:
    """All figures of what is finished; an arm keeps its colour and line whatever else is there."""
    looks = {name: (COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]) for i, name in enumerate(names)}
    return tuple(_all(arms, looks, differences))


def _all(arms: Mapping[str, Arm], looks: Mapping[str, Any], differences: Sequence[Paired]) -> Iterator[Drawn]:
    yield auc_bars(arms, looks)
    yield density(arms, looks)
    yield spectrum(arms, looks)
    shown = [row for row in differences if not math.isnan(row.difference)]
    if shown:
        yield forest(shown)


def auc_bars(arms: Mapping[str, Arm], looks: Mapping[str, Any]) -> Drawn:
    """The paper's figure: mean AUC with its standard deviation over folds; the folds and the patients' interval too."""
    head, foot, step = 0.34, 0.62, 0.46
    figure = style.new_figure(WIDE, head + foot + step * len(arms))
    axes = style.place(figure, 1.75, 1.95, head, foot)
    rows, data = list(arms.values()), []
    ends = [x for arm in rows for x in (*arm.values("auc"), arm.interval("auc").low) if not math.isnan(x)]
    low = max(0.0, math.floor(min([0.5, *ends]) * 20 - 0.2) / 20)  # the bars themselves begin at chance
    for i, arm in enumerate(rows):
        mean, sd, (left, right) = arm.mean("auc"), arm.sd("auc"), _ends(arm)
        axes.barh(i, mean - 0.5, left=0.5, height=0.5, color=looks[arm.name][0], linewidth=0)
        axes.errorbar(mean, i - 0.1, xerr=0 if math.isnan(sd) else sd, color=style.INK, capsize=3, linewidth=1.1)
        if not math.isnan(left):
            axes.plot([left, right], [i + 0.34, i + 0.34], color=style.FAINT, linewidth=1.6, solid_capstyle="butt")
        axes.plot(arm.values("auc"), np.full(len(arm.judged), i + 0.12), "o", markersize=3, color=style.PAPER,
                  markeredgecolor=style.INK, markeredgewidth=0.7)  # fmt: skip
        told = with_interval(mean, left, right) + ("" if math.isnan(sd) else f" ± {number(sd)}")
        axes.annotate(told, (1.0, i), xycoords=axes.get_yaxis_transform(), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=style.SMALL + 0.5, color=style.INK)  # fmt: skip
        data += [{"arm": arm.name, "fold": j.replicate, "auc": j.values["auc"]} for j in arm.judged]
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(low, 1.0)
    axes.axvline(0.5, color=style.INK, linewidth=0.9)
    axes.xaxis.set_major_formatter(lambda x, _: "1" if x > 0.999 else number(x)[:-1])
    style.plain(axes, "AUC on test (whiskers: ± SD over folds; dots: folds; gray line: 95 % over patients)")
    axes.set_yticks(range(len(rows)), [arm.name for arm in rows])
    axes.grid(False, axis="y")
    text = (
        "AUC on the test set, mean over folds with its standard deviation (whiskers, as in the paper's figure), every "
        "fold (dots), and the 95 % interval of the mean over test patients (gray). The paper gives no numbers of it."
    )
    return Drawn("auc_bars", "auc", text, text, figure, data, wide=True)


def _ends(arm: Arm) -> tuple[float, float]:
    interval = arm.interval("auc")
    return interval.low, interval.high


def density(arms: Mapping[str, Arm], looks: Mapping[str, Any]) -> Drawn:
    """Trust density of positives and of negatives, the mean of the folds' densities."""
    figure, panels = _two_panels(len(arms))
    data: list[dict[str, Any]] = []
    handles: list[Any] = []
    for oracle, axes in zip((1, 0), panels, strict=True):
        for arm in arms.values():
            curves = [trust_density(_trusts(judged, oracle)) for judged in arm.judged]
            x, y = curves[0][0], np.mean([curve[1] for curve in curves], axis=0)
            colour, dash = looks[arm.name]
            handles += axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.5)
            data += [{"arm": arm.name, "oracle": oracle, "trust": a, "density": b} for a, b in zip(x, y, strict=True)]
        name = "positives" if oracle else "negatives"
        style.plain(axes, "question-answer trust", "density" if oracle else "", f"reference standard: {name}")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
    style.legend_below(figure, handles[: len(arms)], list(arms), columns=2)
    text = "Trust density by reference standard, scores as they are (mean of the folds' densities)."
    return Drawn("trust_density", "trust", text, f"{text} Lines: {', '.join(arms)}.", figure, data, wide=True)


def _trusts(judged: Any, oracle: int) -> np.ndarray:
    """With alpha = beta = 1: p of a positive, 1 - p of a negative."""
    from scipy.special import expit

    logits = judged.logits[judged.targets == oracle]
    trusts: np.ndarray = expit(logits if oracle else -logits)
    return trusts


def spectrum(arms: Mapping[str, Arm], looks: Mapping[str, Any]) -> Drawn:
    """Trust spectrum: mean trust by reference standard, before and after calibration, each fold a dot."""
    figure, panels = _two_panels(len(arms))
    data: list[dict[str, Any]] = []
    handles: dict[str, Any] = {}
    for axes, (suffix, stage) in zip(panels, (("", "scores as they are"), ("_calibrated", "calibrated")), strict=True):
        wide = 0.8 / len(arms)
        for i, arm in enumerate(arms.values()):
            for k, measure in enumerate(("trust_negative", "trust_positive")):
                values, place = arm.values(measure + suffix), k - 0.4 + (i + 0.5) * wide
                mean, sd = arm.mean(measure + suffix), arm.sd(measure + suffix)
                bar = axes.bar(place, 0 if math.isnan(mean) else mean, wide * 0.86, color=looks[arm.name][0])
                handles[arm.name] = bar
                if not math.isnan(sd):
                    axes.errorbar(place, mean, yerr=sd, color=style.INK, capsize=2, linewidth=1)
                axes.plot(np.full(len(values), place + wide * 0.2), values, "o", markersize=2.2, color=style.PAPER,
                          markeredgecolor=style.INK, markeredgewidth=0.6)  # fmt: skip
                data += [{"arm": arm.name, "stage": stage, "measure": measure, "fold": j.replicate, "trust": v}
                         for j, v in zip(arm.judged, values, strict=True)]  # fmt: skip
        style.plain(axes, "reference standard", "mean trust" if not suffix else "", stage)
        axes.set_xticks([0, 1], ["negative", "positive"])
        axes.set_xlim(-0.5, 1.5)
        axes.set_ylim(0, 1.03)
        axes.grid(False, axis="x")
        style.unit_ticks(axes.yaxis)
    style.legend_below(figure, list(handles.values()), list(handles), columns=2)
    text = (
        "Trust spectrum: mean trust of negatives and of positives, mean ± SD over folds (dots: folds), of the scores "
        "as they are and after Platt's scaling on the validation fold. A bar that is absent could not be calibrated."
    )
    return Drawn("trust_spectrum", "trust", text, text, figure, data, wide=True)


def _two_panels(names: int) -> tuple[Any, list[Axes]]:
    foot = 0.5 + 0.17 * math.ceil(names / 2)
    figure = style.new_figure(WIDE, 2.3 + 0.3 + foot)
    half = WIDE / 2
    return figure, [
        style.place(figure, 0.5, half + 0.1, 0.3, foot),
        style.place(figure, half + 0.4, 0.12, 0.3, foot),
    ]


def forest(rows: Sequence[Paired]) -> Drawn:
    """Every paired difference with its interval over patients (dark) and over folds (light), the paper's as a cross."""
    step, head, foot = 0.2, 0.12, 0.62
    groups = list(dict.fromkeys(row.measure for row in rows))
    lines = len(rows) + 1.3 * len(groups)
    figure = style.new_figure(WIDE, head + foot + step * lines)
    axes = style.place(figure, 2.75, 1.35, head, foot)
    reach = [abs(x) for r in rows for x in (r.low, r.high, r.fold_low, r.fold_high, r.paper) if not math.isnan(x)]
    limit = min(1.0, 1.06 * max([0.02, *reach]))
    y, ticks = 0.0, []
    for group in groups:
        axes.text(-limit, y + 0.35, title(group), fontsize=style.NORMAL, weight="bold", color=style.INK, va="center")
        y += 1.3
        for row in (r for r in rows if r.measure == group):
            ticks.append((y, f"{row.a} − {row.b}"))
            _whiskers(axes, row, y)
            y += 1
    axes.axvline(0, color=style.INK, linewidth=0.9)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(lines, -0.3)
    style.plain(axes, "difference a − b (dark: 95 % over patients, light: over folds, ×: the paper's)")
    axes.grid(False, axis="y")
    axes.set_yticks([tick[0] for tick in ticks], [tick[1] for tick in ticks], fontsize=style.SMALL)
    axes.xaxis.set_major_formatter(lambda x, _: number(x, sign=True))
    text = (
        "Paired differences with 95 % intervals over test patients (dark) and over folds (light); crosses: the "
        "paper's. An interval beyond the frame is cut off; a dot alone has none."
    )
    data = [vars(row) for row in rows]
    return Drawn("differences", "differences", text, text, figure, data, wide=True)


def _whiskers(axes: Axes, row: Paired, y: float) -> None:
    if not math.isnan(row.fold_low):
        axes.plot([row.fold_low, row.fold_high], [y + 0.22, y + 0.22], color="#56b4e9", linewidth=2.4,
                  solid_capstyle="butt")  # fmt: skip
    if not math.isnan(row.low):
        axes.plot([row.low, row.high], [y - 0.06, y - 0.06], color=style.INK, linewidth=1.5, solid_capstyle="butt")
    axes.plot([row.difference], [y - 0.06], "o", color=style.INK, markersize=3.8)
    if not math.isnan(row.paper):
        axes.plot([row.paper], [y - 0.06], "x", color=style.POSITIVE, markersize=5, markeredgewidth=1.4)
    axes.annotate(with_interval(row.difference, row.low, row.high, sign=True), (1, y),
                  xycoords=axes.get_yaxis_transform(), xytext=(5, 0), textcoords="offset points", va="center",
                  fontsize=style.SMALL, color=style.INK)  # fmt: skip
