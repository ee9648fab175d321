"""How every figure looks: one colour and line a model, safe for the colour-blind; tiles of one size; saving."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dam.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER = "#222222", "#6b6b6b", "#e4e4e4", "#ffffff"
# Okabe and Ito's palette; line styles differ too, for print in gray. ``svg.DARK`` knows each for dark pages.
COLOURS = {"warm_start": "#7a7a7a", "ce": "#e69f00", "focal": "#cc79a7", "auc": "#0072b2", "blend": "#009e73"}
LINES = {
    "warm_start": (0, (1, 1.2)),
    "ce": (0, (5, 1.5)),
    "focal": (0, (3, 1, 1, 1)),
    "auc": "-",
    "blend": (0, (6, 1, 1, 1)),
}
OTHERS = ("#d55e00", "#56b4e9", "#8c6d1f", "#5e4fa2")
POSITIVE, NEGATIVE = "#d55e00", "#0072b2"
DPI = 140
WIDTH = 3.9  # inches of a tile: on a phone one fills the page, and its type is still about 10 pixels high
SMALL, NORMAL, TITLE = 7.5, 8.5, 9.5  # points


@dataclass(frozen=True)
class Drawn:
    """A figure and what belongs to it: file name without ending, heading, caption, alternative text, its numbers."""

    name: str
    section: str
    caption: str
    alt: str
    figure: Figure
    data: list[dict[str, Any]] = field(default_factory=list)
    wide: bool = False


def colour(model: str, models: tuple[str, ...]) -> str:
    """The colour of a model; unknown names take what is left of the palette, in order."""
    if model in COLOURS:
        return COLOURS[model]
    others = [m for m in models if m not in COLOURS]
    return OTHERS[others.index(model) % len(OTHERS)]


def line(model: str) -> Any:
    """The line style of a model."""
    return LINES.get(model, "-")


def short(label: str, length: int = 34) -> str:
    """A label that fits into a tile, with dollar signs that matplotlib does not take for formulae."""
    return (label if len(label) <= length else label[: length - 1] + "…").replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` x ``height`` inches that belongs to no window and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def place(figure: Figure, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes with margins in inches, so that tiles side by side line up."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))


def tile(title: str, note: str = "", below: int = 0, height: float = 2.35) -> tuple[Figure, Axes]:
    """A figure of one tile: title, a note in small type below it, room for ``below`` lines of legend under the axes.

    ``height`` is that of the axes in inches.
    """
    top, bottom = 0.5 if note else 0.32, 0.46 + 0.165 * below
    figure = new_figure(WIDTH, height + top + bottom)
    axes = place(figure, 0.5, 0.12, top, bottom)
    total = height + top + bottom
    figure.text(0.06 / WIDTH, 1 - 0.06 / total, title, fontsize=TITLE, color=INK, va="top", weight="bold")
    if note:
        figure.text(0.06 / WIDTH, 1 - 0.255 / total, note, fontsize=SMALL, color=FAINT, va="top")
    return figure, axes


def plain(axes: Axes, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    """Two spines, a faint grid, one type size."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelcolor=INK, labelsize=NORMAL, length=3, color=FAINT, pad=2.5)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_facecolor(PAPER)
    axes.set_xlabel(xlabel, fontsize=NORMAL, color=INK, labelpad=3)
    axes.set_ylabel(ylabel, fontsize=NORMAL, color=INK, labelpad=3)
    if title:
        axes.set_title(title, fontsize=NORMAL, color=INK, loc="left")


def unit_ticks(*axes_of: Any) -> None:
    """Ticks 0, .2, ... 1 on an x or y axis of shares."""
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    for axis in axes_of:
        axis.set_ticks(ticks, ["0", ".2", ".4", ".6", ".8", "1"])


def legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str], columns: int = 1) -> None:
    """A legend under the axes, flush left."""
    found = figure.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        ncols=columns,
        frameon=False,
        fontsize=SMALL + 0.5,
        handlelength=2.4,
        labelspacing=0.25,
        columnspacing=1.4,
        borderpad=0.15,
    )
    for text in found.get_texts():
        text.set_color(INK)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write NAME.png and NAME.svg atomically, without date or version in them, so equal figures are equal files."""
    import matplotlib as mpl

    with warnings.catch_warnings(), atomic_path(folder / f"{name}.png") as temporary:
        # a script that DejaVu Sans lacks becomes boxes in the PNG; the SVG keeps the text and takes the reader's font
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(temporary, format="png", metadata={"Software": None})
    # text stays text: smaller, selectable, and the reader's own sans serif is no wider than DejaVu's
    look: Any = {"svg.fonttype": "none", "svg.hashsalt": "dam", "font.family": ["DejaVu Sans", "Verdana", "sans-serif"]}
    with warnings.catch_warnings(), mpl.rc_context(look), atomic_path(folder / f"{name}.svg") as temporary:
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
