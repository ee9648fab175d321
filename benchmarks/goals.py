"""What is measured: number or name, module, title, and the packages without which it is skipped."""

from __future__ import annotations

from typing import NamedTuple


class Goal(NamedTuple):
    """``key`` is what the command line takes; numbers are those of docs/performance.md."""

    key: str
    module: str
    title: str
    needs: tuple[str, ...] = ()


GOALS = (
    Goal("1", "g01_step", "training step with loader, against forward and backward on data in memory"),
    Goal("2", "g02_item", "one training item, against the usual PIL and torchvision item", ("torchvision",)),
    Goal("3", "g03_pesg", "PESG step of DenseNet-121, against fused SGD with momentum"),
    Goal("4", "g04_diseases", "second part for 5 diseases, against 5 times the bare step"),
    Goal("5", "g05_layout", "best layout and precision, against float32 in the default layout"),
    Goal("6", "g06_epoch_start", "fixed cost of starting an epoch, against one training step"),
    Goal("7", "g07_auc", "exact AUC with ties of a million cases, against scikit-learn", ("sklearn",)),
    Goal("8", "g08_intervals", "DeLong interval and bootstrap, against scikit-learn", ("sklearn",)),
    Goal("9", "g09_cold_rows", "random rows of a cold store, against indexing a memory map"),
    Goal("10", "g10_startup", "`dam --help`, against importing torch"),
    Goal("11", "g11_memory", "peak memory of a run, one disease at a time, against that of the bare step"),
    Goal("12", "g12_metrics", "all metrics of 14 labels and 25,000 images, against the inference behind them"),
    Goal("13", "g13_loss", "AUC-M loss of 14 labels, forward and backward, against BCE with logits"),
    Goal("growth", "growth", "time and memory against images, labels, diseases and processes"),
    Goal("beyond_memory", "beyond_memory", "training from stores of growing size: resident memory stays"),
    Goal(
        "same_work", "same_work", "the same training by dam and by LibAUC's loop", ("libauc", "sklearn", "torchvision")
    ),
    Goal("gpu", "gpu", "images a second, busy share and memory of a GPU", ("cuda",)),
)


def find(keys: list[str]) -> list[Goal]:
    """The goals named, in their order; all of them for an empty list. Raises ``SystemExit`` for unknown ones."""
    known = {goal.key: goal for goal in GOALS}
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return [goal for goal in GOALS if not keys or goal.key in keys]
