"""Training curves from metrics.csv: loss, validation AUC, and the parameters of the AUC loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dam.report import style
from dam.report.run_files import RunFiles, Stage

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INNER = {"a": ("#D55E00", "a, mean score of positives"), "b": ("#0072B2", "b, mean score of negatives")}
INNER_DUAL = ("alpha", "#009E73", "alpha, multiplier of the margin")
DOTS = (0, (1, 2))
Panel = Callable[["Axes"], None]


def draw_training(run: RunFiles, slugs: Mapping[str, str]) -> Iterator[tuple[str, str, Figure]]:
    """(file name, caption, figure) of the warm start and of every disease's second part, those that were logged."""
    logged = [s for s in run.stages if s.metrics is not None and len(s.metrics)]
    warm = [s for s in logged if s.part == "warm_start"]
    for stage in warm:
        panels = [partial(_losses, stages=[stage]), partial(_warm_auc, stage=stage)]
        yield "warm_start_training.png", "Training of the warm start", _figure("warm start", panels)
    second = [s for s in logged if s.part != "warm_start"]
    for label in dict.fromkeys(s.label for s in second):
        stages = [s for s in second if s.label == label]
        panels = [partial(_second_auc, stages=stages, warm=_warm_value(warm, label))]
        panels += [partial(_losses, stages=[s]) for s in stages]
        panels += [partial(_inner, stage=s) for s in stages if _has(s.metrics, "a")]
        name = slugs.get(label, label)
        yield f"training_{name}.png", f"Training of the second part: {label}", _figure(label, panels)


def _figure(title: str, panels: Sequence[Panel]) -> Figure:
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = style.new_figure(3.9 * columns, 2.7 * rows + 0.35)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        panel(axes)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", color=style.INK)
    return figure


def _has(metrics: pd.DataFrame | None, column: str) -> bool:
    return metrics is not None and column in metrics and bool(metrics[column].notna().any())


def _model(stage: Stage) -> str:
    return str(stage.facts.get("column", "warm_start" if stage.part == "warm_start" else stage.part))


def _line(axes: Axes, metrics: pd.DataFrame | None, column: str, **look: object) -> None:
    if metrics is None or not _has(metrics, column):
        return
    known = metrics[metrics[column].notna()]
    marker = "o" if len(known) < 12 else None
    axes.plot(known["step"], known[column], marker=marker, markersize=3, **look)  # type: ignore[arg-type]


def _chosen(axes: Axes, stages: Sequence[Stage]) -> None:
    """A dotted line where the kept weights are from; one for all models where that is the same step."""
    steps = {_model(s): s.facts["chosen_step"] for s in stages if isinstance(s.facts.get("chosen_step"), int)}
    if len(steps) > 1 and len(set(steps.values())) == 1:
        axes.axvline(next(iter(steps.values())), color=style.INK, linewidth=1, linestyle=DOTS, label="kept weights")
        return
    for model, step in steps.items():
        name = f"{model}: kept weights" if len(steps) > 1 else "kept weights"
        axes.axvline(step, color=style.colour(model, (model,)), linewidth=1.1, linestyle=DOTS, label=name)


def _losses(axes: Axes, stages: Sequence[Stage]) -> None:
    stage = stages[0]
    colour = style.colour(_model(stage), (_model(stage),))
    _line(axes, stage.metrics, "train_loss", color=colour, linewidth=1.6, label="train")
    objective = stage.facts.get("objective", _model(stage))
    # val_loss is cross-entropy in every stage; beside another training loss it must be called so.
    name = "validation" if objective == "ce" else "validation, cross-entropy"
    _line(axes, stage.metrics, "val_loss", color=style.INK, linewidth=1.2, linestyle=(0, (4, 1.5)), label=name)
    style.plain(axes, "step", "", f"loss ({objective})")
    _legend(axes)


def _warm_auc(axes: Axes, stage: Stage) -> None:
    metrics = stage.metrics
    if metrics is None:
        return
    labels = [c for c in metrics.columns if c.startswith("val_auc/")]
    for i, column in enumerate(labels):
        _line(axes, metrics, column, color="#b9b9b9", linewidth=0.9, label="each label" if i == 0 else "_")
    _line(axes, metrics, "val_auc", color=style.COLOURS["auc"], linewidth=1.9, label="mean" if labels else "val AUC")
    _chosen(axes, [stage])
    style.plain(axes, "step", "", "validation AUC")
    _legend(axes)


def _second_auc(axes: Axes, stages: Sequence[Stage], warm: float | None) -> None:
    for stage in stages:
        model = _model(stage)
        colour = style.colour(model, (model,))
        _line(axes, stage.metrics, "val_auc", color=colour, linewidth=0.8, alpha=0.55, label="_")
        smoothed = "val_auc_smoothed" if _has(stage.metrics, "val_auc_smoothed") else "val_auc"
        name = f"{model}, mean of 3" if smoothed != "val_auc" else model
        _line(axes, stage.metrics, smoothed, color=colour, linewidth=1.8, linestyle=style.line(model), label=name)
    _chosen(axes, stages)
    if warm is not None:
        axes.axhline(warm, color=style.COLOURS["warm_start"], linewidth=1, label="end of the warm start")
    style.plain(axes, "step", "", "validation AUC (thin: each evaluation)")
    _legend(axes)


def _inner(axes: Axes, stage: Stage) -> None:
    for column, (colour, name) in INNER.items():
        _line(axes, stage.metrics, column, color=colour, linewidth=1.5, label=name)
    column, colour, name = INNER_DUAL
    _line(axes, stage.metrics, column, color=colour, linewidth=1.5, linestyle=(0, (4, 1.5)), label=name)
    style.plain(axes, "step", "", "parameters of the AUC loss")
    _legend(axes)


def _warm_value(warm: Sequence[Stage], label: str) -> float | None:
    """The warm start's last validation AUC of this label (its mean for joint heads), where it was logged."""
    for stage in warm:
        for column in (f"val_auc/{label}", "val_auc"):
            if stage.metrics is not None and _has(stage.metrics, column):
                value = float(stage.metrics[column].dropna().iloc[-1])
                return value if np.isfinite(value) else None
    return None


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, handlelength=2.2)
