"""Goal 1: CPU seconds an image of the product's training step with its loader, against forward and backward alone."""

from __future__ import annotations

from benchmarks.measure import Report, Rounds, milliseconds, profile_of
from benchmarks.workload import CHEST, CIFAR, bare_of, one_stage, train

BOUND = 1.03


def run(quick: bool) -> Report:
    """ResNet-20 at 32 pixels, where an image costs least; DenseNet-121 at 224 in bf16, where it costs most."""
    report = Report()
    _compare(report, "ResNet-20, 32 x 32 RGB, batch 64", CIFAR, 3, 16 if quick else 64, 2 if quick else 10, 20, 6)
    size = 64 if quick else 224
    words = (*CHEST, f"image_size={size}", "precision=bf16")
    batch, steps, bare_steps = (4, 4, 2) if quick else (8, 20, 4)
    what = f"DenseNet-121, {size} x {size} gray, bf16, batch {batch}"
    _compare(report, what, words, 1, batch, 2 if quick else 10, steps, bare_steps)
    return report


def _compare(report: Report, what: str, words: tuple[str, ...], channels: int, batch: int, rounds: int,
             steps: int, bare_steps: int) -> None:  # fmt: skip
    stage = one_stage(words, batch, channels, steps)
    bare = bare_of(stage)
    found = Rounds({"dam": lambda: train(stage, steps), "bare": lambda: bare(bare_steps)}).run(rounds)
    note = f"{milliseconds(found.median('dam'))} against {milliseconds(found.median('bare'))} an image"
    line = found.line("dam", "bare", what, BOUND, note=note)
    report.lines.append(line)
    if line.missed:
        report.profile += f"{what}\n{profile_of(lambda: train(stage, min(steps, 8)))}\n"
