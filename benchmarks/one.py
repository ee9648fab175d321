"""One goal in a process of its own: ``python -m benchmarks.one KEY OUT [--quick] [--core N]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from dataclasses import replace
from pathlib import Path

from benchmarks.goals import find


def main() -> None:
    """Pin first, then import what is measured: thread pools are as large as the cores that a process sees."""
    parser = argparse.ArgumentParser()
    parser.add_argument("key")
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--core", type=int)
    arguments = parser.parse_args()
    (goal,) = find([arguments.key])
    if goal.key != "gpu":  # on a GPU the loader's threads are part of what is measured
        os.sched_setaffinity(0, {arguments.core if arguments.core is not None else max(os.sched_getaffinity(0))})
        import torch

        torch.set_num_threads(1)
    report = importlib.import_module(f"benchmarks.{goal.module}").run(arguments.quick)
    if arguments.quick:  # small sizes say nothing about the bounds
        report.lines = [replace(line, bound=None) for line in report.lines]
        report.profile = ""
    arguments.out.write_text(json.dumps(report.as_dict()), encoding="utf-8")


if __name__ == "__main__":
    main()
