"""The small report of a pretraining run, from its files alone: curves, a table, and what `dam runs` shows of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from dam.errors import UserError
from dam.files import atomic_write_text
from dam.report import style
from dam.report.run_files import PRETRAIN, read_mapping

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PANEL, _FOOT = 1.9, 0.95  # inches


def build_pretraining_report(run_dir: Path, figures: bool = True) -> list[str]:
    """Write report/ of a pretraining run: table.txt, auc.json and figures/pretrain.{png,svg} -> the lines to show.

    Raises ``UserError`` while it has measured nothing.
    """
    import pandas as pd

    file = run_dir / PRETRAIN / "metrics.csv"
    if not file.is_file():
        raise UserError(f"{run_dir} has measured nothing yet: go on with `dam train resume={quote(str(run_dir))}`")
    metrics, facts = pd.read_csv(file), read_mapping(run_dir / PRETRAIN / "stage.json")
    directory = run_dir / "report"
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    if figures:
        _draw(metrics, read_mapping(run_dir / "config.yaml")["pretrain"]["queue"], directory / "figures")
    lines = _lines(run_dir, metrics, facts)
    atomic_write_text(directory / "table.txt", "\n".join(lines) + "\n")
    atomic_write_text(directory / "auc.json", json.dumps(_auc_records(metrics, facts), indent=1) + "\n")
    return lines


def _lines(run_dir: Path, metrics: pd.DataFrame, facts: dict[str, Any]) -> list[str]:
    last = metrics.iloc[-1]
    lines = [f"{'':28}{'before':>8}{'best':>8}{'last':>8}"]
    names = {"probe_auc": "probe, AUC", "probe_accuracy": "probe, accuracy", "knn_auc": "nearest neighbours, AUC"}
    for column, name in names.items():
        values = metrics[column].dropna()
        if len(values):
            before = f"{values.iloc[0]:8.4f}" if metrics["step"].iloc[0] == 0 else " " * 8
            lines.append(f"{name:28}{before}{values.max():8.4f}{values.iloc[-1]:8.4f}")
    trained = metrics[metrics["step"] > 0]
    if len(trained):
        first = f"{trained['train_loss'].iloc[0]:8.4f}"
        lines.append(
            f"{'contrastive loss (first)':28}{first}{trained['train_loss'].min():8.4f}{last['train_loss']:8.4f}"
        )
        first = f"{trained['top1'].iloc[0]:8.4f}"
        lines.append(f"{'own key found (first)':28}{first}{trained['top1'].max():8.4f}{last['top1']:8.4f}")
    if facts.get("probe_labels"):
        fitted, judged = facts["probe_images"]
        lines.append(f"probe of frozen features: fitted on {fitted} training, judged on {judged} validation images")
    if facts:
        lines.append(f"weights of step {facts['chosen_step']}: dam train ... model.weights={quote(str(run_dir))}")
    lines.append(f"curves: {run_dir / 'report' / 'figures' / 'pretrain.png'}")
    return lines


def _auc_records(metrics: pd.DataFrame, facts: dict[str, Any]) -> dict[str, Any]:
    """The probe's AUC where `dam runs` looks for a run's validation AUC; it carries no interval."""
    value = facts.get("probe_auc")
    row = {"split": "val", "model": "probe", "label": "mean", "auc": value, "ci_low": None, "ci_high": None}
    return {"headline_split": "val", "auc": [] if value is None else [row], "comparisons": []}


# ---------------------------------------------------------------- the figure


def _draw(metrics: pd.DataFrame, queue: int, folder: Path) -> None:
    panels = [_draw_loss, _draw_found] + ([_draw_probe] if metrics["probe_auc"].notna().any() else [])
    height = 0.1 + len(panels) * (_PANEL + _FOOT)
    figure = style.new_figure(style.WIDTH, height)
    for number, draw in enumerate(panels):
        above = 0.3 + number * (_PANEL + _FOOT)
        draw(style.place(figure, 0.5, 0.12, above, height - above - _PANEL), metrics, queue)
    style.save(figure, folder, "pretrain")


def _draw_loss(axes: Axes, metrics: pd.DataFrame, queue: int) -> None:
    style.plain(axes, "step", title="Contrastive loss")
    axes.plot(metrics["step"], metrics["train_loss"], color=style.COLOURS["auc"], label="training")
    chance = math.log(queue + 1)
    axes.axhline(chance, color=style.FAINT, linestyle=(0, (1, 2)), label=f"no idea, ln(K + 1) = {chance:.2f}")
    _legend(axes)


def _draw_found(axes: Axes, metrics: pd.DataFrame, queue: int) -> None:
    style.plain(axes, "step", title=f"Own key found among {queue + 1}")
    axes.plot(metrics["step"], metrics["top1"], color=style.COLOURS["auc"])
    axes.set_ylim(bottom=0)


def _draw_probe(axes: Axes, metrics: pd.DataFrame, queue: int) -> None:
    style.plain(axes, "step", title="Validation AUC of frozen features")
    for column, name, model in (("probe_auc", "linear", "auc"), ("knn_auc", "nearest neighbours", "ce")):
        values = metrics[column]
        axes.plot(metrics["step"], values, color=style.COLOURS[model], linestyle=style.LINES[model], label=name)
        axes.axhline(values.iloc[0], color=style.COLOURS[model], linestyle=(0, (1, 2)))
    axes.plot([], [], color=style.FAINT, linestyle=(0, (1, 2)), label="before step 1")
    _legend(axes)


def _legend(axes: Axes) -> None:
    look = {"frameon": False, "fontsize": style.SMALL, "labelcolor": style.INK, "borderpad": 0, "columnspacing": 1.2}
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.19), ncols=3, **look)
