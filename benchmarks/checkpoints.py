"""What a checkpoint costs the loop, and what is written and verified beside it: `python -m benchmarks.checkpoints`.

A state with Adam's averages and a weight average, as a stage saves it; wall seconds, the median of eight.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch

from dam.training.checkpoint import NEWEST, Writer

ROUNDS, MINUTES = 8, 5  # checkpoint.minutes


def state_of(name: str) -> dict[str, object]:
    model = timm.create_model(name, num_classes=1)
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    network = model.state_dict()
    return {"step": 1, "network": network, "optimizer": optimizer.state_dict(), "ema": network}


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| state of | file | the loop waits | written and read back beside it | of 5 minutes |\n|---|---|---|---|---|"
    )
    for name in ("resnet18", "densenet121", "resnet50"):
        state = state_of(name)
        waits, writes = [], []
        with tempfile.TemporaryDirectory() as folder:
            writer = Writer(Path(folder))
            for _ in range(ROUNDS):
                began = time.perf_counter()
                writer.save(state)
                waits.append(time.perf_counter() - began)
                writer.wait()
                writes.append(time.perf_counter() - began)
            size = (Path(folder) / NEWEST).stat().st_size / 1e6
            writer.close()
        wait, write = statistics.median(waits), statistics.median(writes)
        print(f"| {name} | {size:.0f} MB | {wait * 1e3:.0f} ms | {write:.1f} s | {wait / (60 * MINUTES):.3%} |")


if __name__ == "__main__":
    main()
