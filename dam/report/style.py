"""How every figure looks: one colour, line and marker a model, safe for the colour-blind; saving to PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dam.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#222222", "#8a8a8a", "#e4e4e4"
# Okabe and Ito's palette; line styles differ too, for print in gray.
COLOURS = {"warm_start": "#7a7a7a", "ce": "#E69F00", "focal": "#CC79A7", "auc": "#0072B2", "blend": "#009E73"}
LINES = {
    "warm_start": (0, (1, 1.2)),
    "ce": (0, (5, 1.5)),
    "focal": (0, (3, 1, 1, 1)),
    "auc": "-",
    "blend": (0, (6, 1, 1, 1)),
}
OTHERS = ("#D55E00", "#56B4E9", "#000000", "#B8A200")
POSITIVE, NEGATIVE = "#D55E00", "#0072B2"
DPI = 130


def colour(model: str, models: tuple[str, ...]) -> str:
    """The colour of a model; unknown names take what is left of the palette, in order."""
    if model in COLOURS:
        return COLOURS[model]
    others = [m for m in models if m not in COLOURS]
    return OTHERS[others.index(model) % len(OTHERS)]


def line(model: str) -> object:
    """The line style of a model."""
    return LINES.get(model, "-")


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` x ``height`` inches that belongs to no window and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    """Two spines, a faint grid, one type size."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=FAINT)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, fontsize=9.5, color=INK)
    axes.set_ylabel(ylabel, fontsize=9.5, color=INK)
    if title:
        axes.set_title(title, fontsize=10.5, color=INK, loc="left")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, without date or version in it."""
    engine = figure.get_layout_engine()
    if engine is not None:  # lay out once here: savefig would do it twice
        engine.execute(figure)
        figure.set_layout_engine("none")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
