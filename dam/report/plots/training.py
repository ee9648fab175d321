"""Training curves from metrics.csv: loss, validation AUC, and the parameters of the AUC loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dam.report import style
from dam.report.run_files import RunFiles, Stage
from dam.report.style import Drawn

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

INNER = {
    "a": ("#d55e00", "a, mean score of positives", "-"),
    "b": ("#0072b2", "b, mean score of negatives", "-"),
    "alpha": ("#009e73", "alpha, multiplier of the margin", (0, (4, 1.5))),
    "distance": ("#cc79a7", "margin reached: distance of the class means", (0, (1, 1.2))),
}
DOTS = (0, (1, 2))
LOGGED = ("train_loss", "val_loss", "val_auc", "val_auc_smoothed", *INNER)
Panel = Callable[["Axes"], None]


def draw_training(run: RunFiles, slugs: Mapping[str, str]) -> Iterator[Drawn]:
    """The warm start and every disease's second part, those that were logged."""
    logged = [s for s in run.stages if s.metrics is not None and len(s.metrics)]
    warm = [s for s in logged if s.part == "warm_start"]
    for stage in warm:
        panels: list[Panel] = [partial(_warm_auc, stage=stage), partial(_losses, stages=[stage])]
        yield _drawn("warm_start_training", "Warm start", "Training of the warm start", panels, [stage])
    second = [s for s in logged if s.part in ("auc", "control")]
    metadata = [s for s in logged if s.part.startswith("metadata/")]
    for kind, some in (("", second), ("metadata", metadata)):
        for label in dict.fromkeys(s.label for s in some):
            stages = [s for s in some if s.label == label]
            panels = [partial(_second_auc, stages=stages, warm=None if kind else _warm_value(warm, label))]
            panels += [partial(_losses, stages=[s]) for s in stages]
            name = "_".join(filter(None, ("training", kind, slugs.get(label, label))))
            text = f"Training of the {f'{kind} networks' if kind else 'second part'}: {label}"
            yield _drawn(name, f"{label} {kind}".strip(), text, panels, stages)
    for stage in second:
        if _has(stage.metrics, "a"):
            name = slugs.get(stage.label, stage.label)
            text = f"Parameters of the AUC loss while {stage.label} was trained: a, b, alpha and the margin reached"
            yield _drawn(f"inner_{name}", stage.label, text, [partial(_inner, stage=stage)], [stage], "Loss parameters")


def _drawn(
    name: str, title: str, text: str, panels: Sequence[Panel], stages: Sequence[Stage], section: str = "Training curves"
) -> Drawn:
    """Panels below one another in one tile, each with its own legend beneath."""
    panel, foot, top = 1.3, (1.02 if section == "Loss parameters" else 0.88), 0.46
    height = top + len(panels) * (panel + foot)
    figure = style.new_figure(style.WIDTH, height)
    figure.text(
        0.06 / style.WIDTH,
        1 - 0.06 / height,
        style.short(title),
        fontsize=style.TITLE,
        color=style.INK,
        va="top",
        weight="bold",
    )
    for i, draw in enumerate(panels):
        above = top + i * (panel + foot)
        axes = style.place(figure, 0.5, 0.12, above, height - above - panel)
        draw(axes)
        axes.locator_params(axis="x", integer=True, nbins=6)
        _legend(axes)
    data: list[dict[str, Any]] = []
    for stage in stages:
        if stage.metrics is not None:
            names = [c for c in ("step", *LOGGED) if c in stage.metrics.columns]
            rows = stage.metrics[names].to_dict("records")
            data += [{"model": _model(stage)} | {str(k): v for k, v in row.items()} for row in rows]
    return Drawn(name, section, f"{text}.", f"{text}. Models: {', '.join(_model(s) for s in stages)}.", figure, data)


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
        axes.axvline(step, color=style.colour(model, tuple(steps)), linewidth=1.1, linestyle=DOTS, label=name)


def _losses(axes: Axes, stages: Sequence[Stage]) -> None:
    stage = stages[0]
    colour = style.colour(_model(stage), (_model(stage),))
    _line(axes, stage.metrics, "train_loss", color=colour, linewidth=1.6, label="train")
    objective = stage.facts.get("objective", _model(stage))
    # val_loss is cross-entropy in every stage; beside another training loss it must be called so.
    name = "validation" if objective == "ce" else "validation, cross-entropy"
    _line(axes, stage.metrics, "val_loss", color=style.INK, linewidth=1.2, linestyle=(0, (4, 1.5)), label=name)
    style.plain(axes, "step", "", _loss_title(stage, objective))


def _loss_title(stage: Stage, objective: object) -> str:
    model = _model(stage)
    return f"loss of {model}" if objective == model else f"loss of {model} ({objective})"


def _warm_auc(axes: Axes, stage: Stage) -> None:
    metrics = stage.metrics
    if metrics is None:
        return
    labels = [c for c in metrics.columns if c.startswith("val_auc/")]
    for i, column in enumerate(labels):
        _line(axes, metrics, column, color="#6b6b6b", alpha=0.5, linewidth=0.8, label="each label" if i == 0 else "_")
    _line(axes, metrics, "val_auc", color=style.COLOURS["auc"], linewidth=1.9, label="mean" if labels else "val AUC")
    _chosen(axes, [stage])
    style.plain(axes, "step", "", "validation AUC")


def _second_auc(axes: Axes, stages: Sequence[Stage], warm: float | None) -> None:
    models = tuple(map(_model, stages))
    for stage, model in zip(stages, models, strict=True):
        colour = style.colour(model, models)
        _line(axes, stage.metrics, "val_auc", color=colour, linewidth=0.8, alpha=0.55, label="_")
        smoothed = "val_auc_smoothed" if _has(stage.metrics, "val_auc_smoothed") else "val_auc"
        name = f"{model}, mean of 3" if smoothed != "val_auc" else model
        _line(axes, stage.metrics, smoothed, color=colour, linewidth=1.8, linestyle=style.line(model), label=name)
    _chosen(axes, stages)
    if warm is not None:
        axes.axhline(warm, color=style.COLOURS["warm_start"], linewidth=1, label="end of the warm start")
    style.plain(axes, "step", "", "validation AUC (thin: each evaluation)")


def _inner(axes: Axes, stage: Stage) -> None:
    for column, (colour, name, dash) in INNER.items():
        _line(axes, stage.metrics, column, color=colour, linewidth=1.4, linestyle=dash, label=name)
    style.plain(axes, "step", "", "parameters of the AUC loss")


def _warm_value(warm: Sequence[Stage], label: str) -> float | None:
    """The warm start's last validation AUC of this label (its mean for joint heads), where it was logged."""
    for stage in warm:
        for column in (f"val_auc/{label}", "val_auc"):
            if stage.metrics is not None and _has(stage.metrics, column):
                value = float(stage.metrics[column].dropna().iloc[-1])
                return value if np.isfinite(value) else None
    return None


def _legend(axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    axes.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.25),
        ncols=2 if max(map(len, names)) < 26 else 1,
        fontsize=style.SMALL,
        frameon=False,
        handlelength=2.2,
        labelspacing=0.2,
        columnspacing=1.2,
        borderpad=0,
        labelcolor=style.INK,
    )
