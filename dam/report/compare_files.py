"""What `dam compare` shows and writes: lines on screen, compare.csv, compare.json, compare.md, a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dam.errors import UserError
from dam.evaluation.judge import ComparisonRow
from dam.evaluation.predictions import MEAN
from dam.files import atomic_write_text
from dam.report import style
from dam.report.compare import Comparison, SpreadRow
from dam.report.frames import clean, csv_text
from dam.report.tables import number, p_text, plural, with_interval

FILES = ("compare.csv", "compare.json", "compare.md", "differences.png", "differences.svg")
_EXPLAINED = (
    "Differences are of AUCs on the same images, other - first, with 95 % intervals. The mean over labels is the "
    "primary test; labels are adjusted by Holm within a comparison, the means by Holm over the comparisons. A tie is "
    "an interval that holds 0."
)


def judged_on(found: Comparison) -> str:
    """ "350 studies of 350 patients (mean score of 360 images), test"."""
    text = plural(found.units, found.unit)
    if found.unit != "patient" and found.patients < found.units:
        text += f" of {plural(found.patients, 'patient')}"
    if found.unit != "image":
        text += f" ({found.merge} score of {plural(found.images, 'image')})"
    return text


def lines(found: Comparison) -> list[str]:
    """The comparison as it stands on screen."""
    first = found.names[0]
    head = f"AUC on {found.split} [95 % interval], {judged_on(found)}"
    if found.split == "val":
        head += "; validation was used for choice and is optimistic"
    result = [head, ""]
    result += _aligned([[*_spread_header(found)], *[_spread_cells(row) for row in found.spread]])
    for name in found.names[1:]:
        rows = [row for row in found.rows if row.a == name]
        table = [["", f"{name} - {first}", "p", "p (Holm)"], *[_cells(row, len(found.names)) for row in rows]]
        result += ["", *_aligned(table)]
    result += ["", *[f"verdict: {verdict.text}" for verdict in found.verdicts]]
    return result + [f"note: {note}" for note in found.notes]


def _cells(row: ComparisonRow, contestants: int) -> list[str]:
    text = with_interval(row.difference, row.ci_low, row.ci_high, sign=True, dash="-")
    adjusted = "" if row.label == MEAN and contestants == 2 else p_text(row.p_holm, "-")
    return [row.label, text if not math.isnan(row.ci_low) else f"{text} {row.test}", p_text(row.p_value, "-"), adjusted]


def _spread_header(found: Comparison) -> list[str]:
    head = ["", "model", "mean AUC"]
    return [*head, "SD over seeds", "lowest", "highest", "seeds"] if found.spread[0].seeds > 1 else head


def _spread_cells(row: SpreadRow) -> list[str]:
    cells = [row.name, row.model, number(row.mean, dash="-")]
    if row.seeds == 1:
        return cells
    return [
        *cells,
        number(row.sd, dash="-"),
        number(row.lowest, dash="-"),
        number(row.highest, dash="-"),
        str(row.seeds),
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


# ---------------------------------------------------------------- files


def check_out(folder: Path) -> Path:
    """``folder`` where a comparison may go: new, empty, or with nothing but an earlier comparison in it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give a new or empty directory")
    foreign = [p.name for p in folder.iterdir() if p.name not in FILES] if folder.is_dir() else []
    if foreign:
        raise UserError(
            f"--out {folder} holds {foreign[0]}, which is no comparison's: nothing is written over; give a new or "
            "empty directory"
        )
    return folder


def write(found: Comparison, folder: Path, sources: Sequence[Sequence[str]]) -> None:
    """Write FILES into ``folder``; ``sources``: the paths of every side."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [_record(row, found) for row in found.rows]
    atomic_write_text(folder / "compare.csv", csv_text(records))
    content = {
        "split": found.split,
        "unit": found.unit,
        "merge": found.merge,
        "units": found.units,
        "images": found.images,
        "patients": found.patients,
        "sides": [
            {"name": name, "model": model, "sources": list(paths)}
            for name, model, paths in zip(found.names, found.models, sources, strict=True)
        ],
        "spread": clean([asdict(row) for row in found.spread]),
        "auc": clean([asdict(row) for row in found.aucs]),
        "differences": clean(records),
        "verdicts": clean([asdict(verdict) for verdict in found.verdicts]),
        "notes": list(found.notes),
    }
    atomic_write_text(
        folder / "compare.json", json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    )
    figure = forest(found)
    style.save(figure, folder, "differences")
    atomic_write_text(folder / "compare.md", markdown(found))


def _record(row: ComparisonRow, found: Comparison) -> dict[str, Any]:
    aucs = {(r.label, r.model): r.auc for r in found.aucs}
    nan = math.nan
    return {**asdict(row), "auc_a": aucs.get((row.label, row.a), nan), "auc_b": aucs.get((row.label, row.b), nan)}


def markdown(found: Comparison) -> str:
    """compare.md."""
    first = found.names[0]
    parts = [f"# {' and '.join(found.names[1:])} against {first}", *[f"**{v.text}**" for v in found.verdicts]]
    where = f"{found.split}, {judged_on(found)}"
    if found.split == "val":
        where += " (validation was used for choice and is optimistic)"
    parts += [f"Judged on {where}.", _table(_spread_header(found), [_spread_cells(row) for row in found.spread])]
    for name in found.names[1:]:
        rows = [_cells(row, len(found.names)) for row in found.rows if row.a == name]
        parts += [f"## {name} - {first}", _table(["label", "difference", "p", "p (Holm)"], rows)]
    parts += ["![Differences with 95 % intervals](differences.png)", _EXPLAINED]
    if found.notes:
        parts.append("\n".join(f"- {note}" for note in found.notes))
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    all_rows = [header, [":--"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in all_rows)


def forest(found: Comparison) -> Any:
    """A forest plot: for every label, and last the mean, each contestant's difference to the first with interval."""
    from matplotlib.ticker import MaxNLocator

    labels = list(dict.fromkeys(row.label for row in found.rows))
    others = found.names[1:]
    step = 0.2
    heights = [0.26 + step * len(others) for _ in labels]
    head, foot = 0.3 + 0.18 * len(others), 0.62
    figure = style.new_figure(style.WIDTH + 0.8, head + foot + sum(heights))
    axes = style.place(figure, 0.12, 1.45, head, foot)
    axes.set_ylim(sum(heights), 0)
    low, high = _limits(found.rows)
    axes.set_xlim(low, high)
    style.plain(axes, f"difference of AUC to {style.short(found.names[0])} on {found.split}\n(whiskers 95 %)")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda x, _: number(x, sign=True))
    axes.axvline(0, color=style.INK, linewidth=0.9)
    top = 0.0
    for label, height in zip(labels, heights, strict=True):
        if label == MEAN:
            axes.axhline(top + 0.02, color=style.FAINT, linewidth=0.8)
        axes.text(
            low, top + 0.14, style.short(label), fontsize=style.NORMAL, color=style.INK, weight="bold", va="center"
        )
        for i, name in enumerate(others):
            row = next(r for r in found.rows if (r.label, r.a) == (label, name))
            _whisker(axes, row, top + 0.26 + (i + 0.4) * step, _colour(i))
        top += height
    for i, name in enumerate(others):
        y = 1 - (0.16 + 0.18 * i) / figure.get_size_inches()[1]
        figure.text(0.02, y, f"● {style.short(name)}", color=_colour(i), fontsize=style.NORMAL, va="center")
    return figure


def _colour(i: int) -> str:
    palette = ("#0072b2", *style.OTHERS)
    return palette[i % len(palette)]


def _limits(rows: Sequence[ComparisonRow]) -> tuple[float, float]:
    ends = [x for r in rows for x in (r.ci_low, r.ci_high, r.difference) if not math.isnan(x)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    margin = 0.06 * max(high - low, 0.01)
    return low - margin, high + margin


def _whisker(axes: Any, row: ComparisonRow, y: float, colour: str) -> None:
    if math.isnan(row.difference):
        axes.text(0, y, f" {row.test}", color=style.FAINT, style="italic", va="center", fontsize=style.SMALL)
        return
    if not math.isnan(row.ci_low):
        axes.plot([row.ci_low, row.ci_high], [y, y], color=colour, linewidth=1.4, solid_capstyle="butt")
    axes.plot([row.difference], [y], "o", color=colour, markersize=4.5)
    text = with_interval(row.difference, row.ci_low, row.ci_high, sign=True)
    axes.annotate(text, (1, y), xycoords=axes.get_yaxis_transform(), xytext=(5, 0), textcoords="offset points",
                  va="center", fontsize=style.SMALL, color=style.INK)  # fmt: skip
