"""AUC of every label and model with intervals, as dots on a common scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dam.evaluation.judge import AucRow
from dam.evaluation.predictions import MEAN
from dam.report import style
from dam.report.style import Drawn
from dam.report.tables import JudgedSplit, auc_records, judged_on, number, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def auc_bars(split: JudgedSplit, models: Sequence[str]) -> Drawn:
    """Horizontal bars from chance (.5) to the AUC, whiskers for the interval, the numbers beside them."""
    from matplotlib.patches import Patch

    labels = (*split.units.labels, MEAN) if len(split.units.labels) > 1 else split.units.labels
    thick = 0.15 if len(models) > 1 else 0.24
    columns = max(1, min(4, len(models), 58 // (max(map(len, models)) + 4)))  # of the legend; some 58 letters fit
    head, foot = 0.3 + 0.18 * math.ceil(len(models) / columns), 0.62
    heights = [0.36 + thick * len(models) for _ in labels]
    figure = style.new_figure(style.WIDTH, head + foot + sum(heights))
    axes = style.place(figure, 0.12, 1.28, head, foot)
    rows = [split.row(label, model) for label in labels for model in models]
    low = _lowest(rows)
    axes.set_xlim(low, 1.0)
    axes.set_ylim(sum(heights), 0)
    style.plain(axes, f"AUC on {split.title}\n(bars from chance, .5; whiskers 95 %)")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(lambda x, _: "1" if x > 0.999 else number(x)[:-1])
    top = 0.0
    for label, height in zip(labels, heights, strict=True):
        _group(axes, split, label, models, top, thick)
        top += height
    handles = [Patch(color=style.colour(m, split.models), label=m) for m in models]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=style.NORMAL,
        handlelength=1.2,
        columnspacing=1.2,
        labelcolor=style.INK,
    )
    text = f"AUC of every label on {split.title} with 95 % intervals, {judged_on(split)}."
    if len(models) < len(split.models):
        text += f" Shown: {', '.join(models)}; the table has all."
    data = [r for r in auc_records([split]) if r["model"] in models]
    return Drawn("auc_bars", "AUC by label", text, f"{text} {_words(split, models)}", figure, data)


def _lowest(rows: Sequence[AucRow]) -> float:
    ends = [x for r in rows for x in (r.ci_low, r.auc) if not math.isnan(x)]
    return max(0.0, math.floor(min([0.5, *ends]) * 20 - 0.2) / 20)


def _group(axes: Axes, split: JudgedSplit, label: str, models: Sequence[str], top: float, thick: float) -> None:
    row = split.row(label, models[0])
    low = axes.get_xlim()[0]
    name = f"mean of {len(split.judgement.mean_labels)}" if label == MEAN else style.short(label, 26)
    count = "" if label == MEAN else f"  {row.n_pos} / {row.n}"
    if label == MEAN:
        axes.axhline(top + 0.03, color=style.FAINT, linewidth=0.8)
    axes.text(low, top + 0.2, name, fontsize=style.NORMAL, color=style.INK, weight="bold", va="center")
    axes.text(1.0, top + 0.2, count, fontsize=style.SMALL, color=style.FAINT, va="center", ha="right")
    found = [split.row(label, m) for m in models]
    if all(math.isnan(r.auc) for r in found):  # one reason says it all
        found = found[:1]
    first = top + 0.33
    axes.plot([0.5, 0.5], [first - 0.02, first + len(models) * thick + 0.02], color=style.INK, linewidth=0.9)
    for j, r in enumerate(found):
        _bar(axes, r, first + (j + 0.5) * thick, thick, style.colour(r.model, split.models))


def _bar(axes: Axes, row: AucRow, y: float, thick: float, colour: str) -> None:
    if math.isnan(row.auc):
        axes.text(0.5, y, f" {row.interval}", color=style.FAINT, style="italic", va="center", fontsize=style.SMALL)
        return
    axes.barh(y, row.auc - 0.5, left=0.5, height=thick * 0.84, color=colour, linewidth=0)
    if not math.isnan(row.ci_low):
        axes.plot([row.ci_low, row.ci_high], [y, y], color=style.INK, linewidth=1, solid_capstyle="butt")
        axes.plot([row.ci_low, row.ci_high], [y, y], "|", color=style.INK, markersize=thick * 24, markeredgewidth=1)
    text = with_interval(row.auc, row.ci_low, row.ci_high)
    axes.annotate(
        text,
        (1, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=style.SMALL,
        color=style.INK,
        annotation_clip=False,
    )


def _words(split: JudgedSplit, models: Sequence[str]) -> str:
    rows = [split.row(MEAN, m) for m in models]
    return "Means: " + "; ".join(f"{r.model} {with_interval(r.auc, r.ci_low, r.ci_high)}" for r in rows) + "."
