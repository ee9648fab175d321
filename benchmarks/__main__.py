"""``python -m benchmarks [KEY ...] [--quick] [--core N]``: measure, write results/<machine kind>.md and .json.

Exit code 1 where a bound is missed (they are named) or a script failed, else 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine, results
from benchmarks.goals import Goal, find

ROOT = Path(__file__).parent.parent
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def main(words: list[str] | None = None) -> int:
    """Measure what ``words`` name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("keys", nargs="*", metavar="KEY", help="goals by number or name; none: all")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, small sizes: does it run? Not kept as results"
    )
    parser.add_argument("--core", type=int, help="the core to pin to; default: the last one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args(words)
    goals = find(arguments.keys)
    if arguments.core is not None and arguments.core not in os.sched_getaffinity(0):
        parser.error(f"--core {arguments.core}: this process may use {sorted(os.sched_getaffinity(0))}")
    only_gpu = [goal.key for goal in goals] == ["gpu"] and _has_cuda()
    file = results.place(machine.kind("cuda" if only_gpu else "cpu"), arguments.out, arguments.quick)
    found: dict[str, dict[str, Any]] = {}
    for goal in goals:
        absent = [name for name in goal.needs if not _installed(name)]
        if absent:
            print(f"{goal.key:>13}  skipped: needs {', '.join(absent)}", flush=True)
            found[goal.key] = {"skipped": f"needs {', '.join(absent)}"}
            continue
        found[goal.key] = _measure(goal, arguments.quick, arguments.core)
        results.say(goal, found[goal.key])
        results.write(found, file)
    print(f"written: {results.write(found, file)}")
    failed = [key for key, one in found.items() if "failed" in one]
    missed = results.missed(found)
    for text in (*missed, *(f"goal {key} failed: {found[key]['failed']}" for key in failed)):
        print(f"MISSED  {text}")
    return 1 if missed or failed else 0


def _measure(goal: Goal, quick: bool, core: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="dam-benchmark-") as folder:
        out = Path(folder) / "report.json"
        command = [sys.executable, "-m", "benchmarks.one", goal.key, str(out)]
        command += ["--quick"] * quick + ([] if core is None else ["--core", str(core)])
        environment = {**os.environ, "DAM_STORE": folder, "TMPDIR": folder}
        if goal.key != "gpu":
            environment |= ONE_THREAD
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - began
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr, flush=True)  # not in the results, which name no place of a machine
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"failed": last.split(":")[0], "wall": wall}
        return {**json.loads(out.read_text(encoding="utf-8")), "wall": wall}


def _installed(name: str) -> bool:
    return _has_cuda() if name == "cuda" else importlib.util.find_spec(name) is not None


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
