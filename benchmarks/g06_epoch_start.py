"""Goal 6: what starting the iterator of an epoch costs beyond the batches themselves, against one training step."""

from __future__ import annotations

import itertools
from contextlib import closing

import torch

from benchmarks.measure import Line, Report, Rounds, line_of, milliseconds, profile_of
from benchmarks.workload import CIFAR, bare_of, one_stage
from dam.training.stage import Stage

BOUND = 0.1
BATCHES = 4


def run(quick: bool) -> Report:
    """Many short epochs against one as long: their difference is what the starts cost."""
    batch, epochs = (16, 4) if quick else (128, 20)
    stage = one_stage((*CIFAR, "workers=2"), batch, 3, BATCHES * epochs)
    bare = bare_of(stage)
    found = Rounds(
        {
            "short": lambda: _read(stage, epochs, BATCHES),
            "long": lambda: _read(stage, 1, BATCHES * epochs),
            "step": lambda: bare(2) / batch,
        }
    ).run(3 if quick else 15)
    starts = [
        (short - long) * epochs / (epochs - 1)
        for short, long in zip(found.seconds["short"], found.seconds["long"], strict=True)
    ]
    ratios = [start / step for start, step in zip(starts, found.seconds["step"], strict=True)]
    note = f"{milliseconds(sorted(starts)[len(starts) // 2])} against a step of {milliseconds(found.median('step'))}"
    report = Report([line_of(ratios, "iterator of two threads, ResNet-20, batch 128", BOUND, note=note)])
    report.lines.append(_forked(batch, 1 if quick else 3, found.median("step")))
    if report.lines[0].missed:
        report.profile = profile_of(lambda: _read(stage, 4, BATCHES))
    return report


def _read(stage: Stage, epochs: int, batches: int) -> int:
    """Seconds are counted an epoch of ``BATCHES`` batches."""
    for epoch in range(epochs):
        draws = itertools.chain.from_iterable(stage.sampler.epoch(number) for number in itertools.count(epoch))
        with closing(stage.loader.batches(itertools.islice(draws, batches))) as reading:
            for _ in reading:
                pass
    return epochs * batches // BATCHES


class _Tensors(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, count: int) -> None:
        self._images = torch.zeros(count, 3, 32, 32, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self._images[row]


def _forked(batch: int, rounds: int, step: float) -> Line:
    """The usual way: torch's DataLoader with two forked workers, whose datasets cost nothing themselves."""
    loader = torch.utils.data.DataLoader(_Tensors(batch * BATCHES), batch, num_workers=2)

    def epoch() -> None:
        for _ in loader:
            pass

    found = Rounds({"forked": epoch}).run(rounds)
    note = f"{milliseconds(found.median('forked'))} an epoch of {BATCHES} batches that are ready in memory"
    return line_of(
        [seconds / step for seconds in found.seconds["forked"]], "peer: DataLoader, two forked workers", note=note
    )
