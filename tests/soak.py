"""Hours of training with kills at random moments: are memory and open files flat?

    python tests/soak.py --minutes 25 --seed 0

One training is left alone for half of the time, then killed every minute or two and resumed, and at last asked to stop.
Beside it another process makes run after run. Once a second both are looked at (/proc).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fault_harness import WORDS, Scene, child, ended, prepare, standing, workplace
from tiny import words


@dataclass
class Trace:
    """Resident memory (MB), open files and threads of one process over its seconds."""

    title: str
    samples: list[tuple[float, float, int, int]] = field(default_factory=list)

    def look(self, number: int, seconds: float) -> None:
        try:
            status = Path(f"/proc/{number}/status").read_text()
            files = len(list(Path(f"/proc/{number}/fd").iterdir()))
        except OSError:
            return
        found = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
        if found:
            self.samples.append((seconds, int(found["VmRSS"]) / 1024, files, int(found["Threads"])))

    def line(self, warm_up: float) -> str:
        """A row of the table: means of the first and last tenth after ``warm_up`` seconds, and the line through all."""
        import numpy as np

        kept = np.array([sample for sample in self.samples if sample[0] >= warm_up])
        if len(kept) < 20:
            return f"| {self.title} | {self.samples[-1][0] if self.samples else 0:.0f} | too short | | | |"
        tenth = max(1, len(kept) // 10)
        first, last = kept[:tenth, 1].mean(), kept[-tenth:, 1].mean()
        long = kept[-1, 0] - kept[0, 0] > 300  # a line through less is noise
        slope = f"{np.polyfit(kept[:, 0], kept[:, 1], 1)[0] * 3600:+.1f}" if long else ""
        files = f"{kept[:, 2].min():.0f} to {kept[:, 2].max():.0f}"
        threads = f"{kept[:, 3].min():.0f} to {kept[:, 3].max():.0f}"
        cells = (f"{self.samples[-1][0]:.0f}", f"{first:.1f}", f"{last:.1f}", slope, files, threads)
        return f"| {self.title} | {' | '.join(cells)} |"


LONG = (
    "auc=none",
    "warm_start.steps=100000000",
    "warm_start.eval_every=8",
    "warm_start.ema=0.9",
    "checkpoint.every=40",
)


def soak(folder: Path, minutes: float, seed: int, say: Callable[[str], None]) -> None:
    """Train in ``folder`` as the module says and print a table, a row a process."""
    draw, until = random.Random(seed), time.monotonic() + 60 * minutes
    long, many = Scene(folder / "long"), Scene(folder / "many")
    beside, trace_beside = child(many, partial(run_after_run, many)), Trace("run after run in one process")
    began_beside = time.monotonic()
    traces: list[Trace] = []
    while time.monotonic() < until:
        left = until - time.monotonic()
        length = min(left, 30 * minutes if not traces else draw.uniform(40, 120))
        number = child(long, partial(train_long, long))
        began = time.monotonic()
        traces.append(Trace(f"one training, process {len(traces) + 1}"))
        while time.monotonic() < began + length and ended(number) is None:
            traces[-1].look(number, time.monotonic() - began)
            trace_beside.look(beside, time.monotonic() - began_beside)
            time.sleep(1)
        os.kill(number, signal.SIGKILL if time.monotonic() < until - 1 else signal.SIGTERM)
        code = ended(number, 60)
        say(f"{traces[-1].title}: {standing(long.run).get('step')} steps, ended with {code}")
    os.kill(beside, signal.SIGKILL)
    ended(beside, 60)
    say("| | seconds | MB at first | MB at last | MB an hour | open files | threads |\n|---|---|---|---|---|---|---|")
    for trace in (*traces, trace_beside):
        say(trace.line(warm_up=30))
    say(f"runs made in one process: {len((many.folder / 'runs.txt').read_text().splitlines())}")


def train_long(scene: Scene) -> int:
    """One training that does not end by itself, or its resume."""
    from dam.cli import main

    resumed = (scene.run / "config.yaml").exists()
    return main(["train", f"resume={scene.run}"] if resumed else ["train", *words(scene.run, *LONG)])


def run_after_run(scene: Scene) -> int:
    """Whole runs, each removed when it is done; every fifth one with figures."""
    from dam import report
    from dam.cli import main

    plain = report.build_report
    for number in range(1_000_000):
        report.build_report = plain if number % 5 else partial(plain.func, figures=True)
        shutil.rmtree(scene.run, ignore_errors=True)
        if code := main(["train", *words(scene.run, *WORDS)]):
            return code
        with open(scene.folder / "runs.txt", "a") as file:
            file.write(f"{number}\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="work here and leave everything; otherwise a temporary folder")
    given = parser.parse_args()
    prepare()
    with workplace(given.folder) as folder:
        soak(folder, given.minutes, given.seed, partial(print, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
