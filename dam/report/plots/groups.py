"""AUC by subgroup, as a forest plot."""

from __future__ import annotations

import math
from typing import Any

from dam.evaluation.rows import Assessment, SubgroupRow
from dam.report import style
from dam.report.style import Drawn
from dam.report.tables import JudgedSplit, number, with_interval

LINE = 0.2  # inches of a row


def subgroups(split: JudgedSplit, assessment: Assessment, label: str, model: str, name: str) -> Drawn | None:
    """One row a group with its AUC and interval; groups too small for a test are hollow."""
    rows = [r for r in assessment.subgroups if (r.label, r.model) == (label, model)]
    if not rows:
        return None
    columns = list(dict.fromkeys(r.column for r in rows))
    lines: list[tuple[str, SubgroupRow | None]] = []
    for column in columns:
        lines.append((column, None))
        lines += [(r.group, r) for r in rows if r.column == column]
    top, bottom = 0.5, 0.46
    figure = style.new_figure(style.WIDTH, top + bottom + LINE * len(lines))
    height = figure.get_size_inches()[1]
    figure.text(
        0.06 / style.WIDTH,
        1 - 0.06 / height,
        style.short(label),
        fontsize=style.TITLE,
        color=style.INK,
        va="top",
        weight="bold",
    )
    figure.text(
        0.06 / style.WIDTH,
        1 - 0.255 / height,
        f"{model} on {split.title}",
        fontsize=style.SMALL,
        color=style.FAINT,
        va="top",
    )
    axes = style.place(figure, 1.42, 1.12, top, bottom)
    overall = split.row(label, model).auc
    axes.axvline(overall, color=style.FAINT, linewidth=0.9, linestyle=(0, (2, 2)))
    for y, (text, row) in enumerate(lines):
        _line(axes, y, text, row)
    style.plain(axes, "AUC (dashed: all)")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(len(lines) - 0.5, -0.6)
    # intervals of groups too small for a test may run out of the panel: they would squeeze all others
    ends = [x for r in rows for x in (r.low if r.test else r.auc, r.auc) if not math.isnan(x)]
    axes.set_xlim(max(0.0, math.floor(min([0.5, *ends]) * 10) / 10), 1.0)
    axes.xaxis.set_major_formatter(lambda x, _: "1" if x > 0.999 else number(x)[:-1])
    text = f"AUC of {model} for {label} by subgroup on {split.title}; hollow: too few for a test."
    alt = text + " " + "; ".join(f"{r.column} {r.group}: {with_interval(r.auc, r.low, r.high)}" for r in rows) + "."
    return Drawn(name, "Subgroups", text, alt, figure, [_record(r) for r in rows])


def _line(axes: Any, y: int, text: str, row: SubgroupRow | None) -> None:
    left: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "va": "center"}
    left |= {"annotation_clip": False}
    if row is None:
        axes.annotate(
            style.short(text, 20), (0, y), xytext=(-98, 0), fontsize=style.SMALL, color=style.INK, weight="bold", **left
        )
        return
    axes.annotate(style.short(text, 15), (0, y), xytext=(-92, 0), fontsize=style.SMALL, color=style.INK, **left)
    count = f"{row.n_pos}/{row.n}"
    axes.annotate(count, (0, y), xytext=(-4, 0), fontsize=style.SMALL, color=style.FAINT, ha="right", **left)
    if not math.isnan(row.auc):
        colour = style.NEGATIVE if row.test else style.FAINT
        if not math.isnan(row.low):
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=1.2)
        inside = colour if row.test else style.PAPER
        axes.plot(row.auc, y, "o", markersize=4.2, color=colour, markerfacecolor=inside)
    value = with_interval(row.auc, row.low, row.high)
    axes.annotate(value, (1, y), xytext=(5, 0), fontsize=style.SMALL, color=style.INK, **left)


def _record(row: SubgroupRow) -> dict[str, Any]:
    names = ("column", "group", "n", "n_pos", "auc", "low", "high", "difference_to_rest", "p_holm", "note")
    return {name: getattr(row, name) for name in names}
