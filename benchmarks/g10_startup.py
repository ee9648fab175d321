"""Goal 10: how long `dam --help` takes, against importing torch. Wall time."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.measure import Line, Report, Rounds, milliseconds

BOUND, SECONDS = 0.15, 0.3
HELP = [sys.executable, "-c", "import sys; from dam.cli import main; sys.exit(main(['--help']))"]
TORCH = [sys.executable, "-c", "import torch"]


def run(quick: bool) -> Report:
    """Both in a new interpreter; the first of each warms the disk's cache."""
    variants = {
        "help": lambda: _start(HELP),
        "torch": lambda: _start(TORCH),
        "bare": lambda: _start([sys.executable, "-c", ""]),
    }
    found = Rounds(variants, time.perf_counter).run(2 if quick else 10)
    note = f"{milliseconds(found.median('help'))} against {milliseconds(found.median('torch'))} (wall)"
    report = Report([found.line("help", "torch", "dam --help", BOUND, note=note)])
    report.lines.append(Line("dam --help, seconds", found.median("help"), SECONDS, rounds=len(found.seconds["help"])))
    report.facts["an interpreter that does nothing, seconds"] = found.median("bare")
    if any(line.missed for line in report.lines):
        done = subprocess.run([HELP[0], "-X", "importtime", *HELP[1:]], capture_output=True, text=True, check=False)
        slow = sorted(done.stderr.splitlines()[1:], key=lambda text: -int(text.split("|")[1]))
        report.profile = "\n".join(["import time: self [us] | cumulative | module", *slow[:25]])
    return report


def _start(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
