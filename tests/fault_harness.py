"""Kill a tiny run with SIGKILL at random moments, go on until it is done, compare it bit by bit with one left alone.

    python tests/fault_harness.py --kills 200 --seed 0      where the kills fell; exit code 1 if one bit differs

The seed draws how many kills of each kind a run gets and how long after its cue each one comes; the machine's own
timing decides on which instruction it falls. Every process is a fork of one that has imported everything, and does what
the command line does (``dam.cli.main``).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tiny import contents, words

# Everything that a resume has to carry: average, momentum, dropout, drops of the rate, the choice by validation.
WORDS = (
    *("auc=auc_margin", "auc.schedule=step", "auc.schedule.unit=steps", "auc.schedule.at=[3]", "auc.ema=0.9"),
    *("auc.optimizer.momentum=0.5", "auc.eval_every=0.3", "select=best", "model.drop_rate=0.3", "warm_start.ema=0.9"),
    *("auc.labels=[Cardiomegaly,Edema]", "control=ce", "checkpoint.every=1", "workers=2", "on_non_finite=skip"),
)
SMALL = ("auc=none", "warm_start.steps=6", "data.patients=30", "batch_size=8", "select=best", "checkpoint.every=1")
STAGES = re.compile(r"(warm_start|auc|control)")


@dataclass
class Scene:
    """Where one run lies, with a store of its own, so that every run builds one."""

    folder: Path
    figures: bool = False
    words: tuple[str, ...] = WORDS

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def command(self) -> list[str]:
        """What a user would type next."""
        if (self.run / "config.yaml").exists():
            return ["train", f"resume={self.run}"]
        return ["train", *words(self.run, *self.words)]


@dataclass
class Tally:
    """Kills by the phase of the run and by the file that was being written."""

    phases: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    different: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        found = [
            f"{sum(self.phases.values())} kills in {self.runs} runs",
            "",
            "| where the run stood | kills |",
            "|---|---|",
        ]
        found += [f"| {phase} | {count} |" for phase, count in self.phases.most_common()]
        found += ["", "| inside the write of | kills |", "|---|---|"]
        found += [f"| {name} | {count} |" for name, count in self.writes.most_common()]
        said = f"{len(self.different)} runs differ: {'; '.join(self.different)}" if self.different else "0 runs differ"
        return [*found, "", f"{said} from the one left alone, bit by bit"]


# ---------------------------------------------------------------- processes


def prepare() -> None:
    """Import all that a run needs, once; a child then starts in no time."""
    import torch

    torch.set_num_threads(1)
    import albumentations  # noqa: F401
    import cv2
    import timm  # noqa: F401

    import dam.cli
    import dam.commands.train
    import dam.report.build
    import dam.report.plots
    import dam.training.run  # noqa: F401

    cv2.setNumThreads(0)


def child(scene: Scene, work: Callable[[], int]) -> int:
    """Start ``work`` in a fork; its process id."""
    scene.folder.mkdir(parents=True, exist_ok=True)
    number = os.fork()
    if number:
        return number
    code = 70
    try:
        log = os.open(scene.folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["DAM_STORE"] = str(scene.store)
        if not scene.figures:
            from dam import report

            report.build_report = partial(report.build_report, figures=False)
        code = work()
    finally:
        sys.stdout.flush()
        os._exit(code)


def dam(scene: Scene) -> int:
    """Start the next command of ``scene``; its process id."""
    from dam.cli import main

    return child(scene, partial(main, scene.command()))


def ended(number: int, patience: float = 0.0) -> int | None:
    """The exit code of a child (negative: the signal that ended it), or None if it still runs after ``patience``."""
    until = time.monotonic() + patience
    while True:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def run_to_end(scene: Scene) -> float:
    """Run ``scene`` alone; its seconds."""
    began = time.monotonic()
    code = ended(dam(scene), 600)
    if code != 0:
        raise SystemExit(f"the run ended with {code}: {(scene.folder / 'output.txt').read_text()[-2000:]}")
    return time.monotonic() - began


# ---------------------------------------------------------------- when to kill


def standing(run: Path) -> dict[str, object]:
    """What progress.json says, or nothing."""
    try:
        found = json.loads((run / "progress.json").read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def checkpoint_files(run: Path) -> list[Path]:
    """Files of a checkpoint that is being written."""
    return [*run.glob("**/.next.ckpt.*.tmp"), *run.glob("**/next.ckpt")]


def cue(kind: str, scene: Scene) -> bool:
    """Whether the moment has come from which a kill of this kind counts its delay."""
    if kind == "image store":
        return any(scene.store.glob("images-*/*.u8")) and not any(scene.store.glob("images-*/index.json"))
    if kind == "checkpoint":
        return bool(checkpoint_files(scene.run))
    if kind in ("predictions", "report"):
        return standing(scene.run).get("stage") == kind
    return True


def killed(scene: Scene, kind: str, draw: random.Random, seconds: float) -> tuple[int, float] | None:
    """Start the run and kill it; its process id and when it was started. None if it ended before its turn."""
    delay = {
        "image store": draw.uniform(0, 0.3),
        "checkpoint": draw.uniform(0, 0.006),
        "anywhere": draw.uniform(0, 0.7 * seconds),
        "predictions": draw.uniform(0, 0.15),
        "report": draw.uniform(0, 0.8 if not scene.figures else 5),
    }[kind]
    # A few checkpoints are let pass, so that kills fall into all of them.
    passing = draw.randrange(6) if kind == "checkpoint" else 0
    began, number = time.time(), dam(scene)
    at: float | None = None
    while True:
        if at is None and cue(kind, scene):
            if passing:
                passing -= 1
                while cue(kind, scene) and ended_code(number) is None:
                    pass
                continue
            at = time.monotonic() + delay
        if at is not None and time.monotonic() >= at:
            os.kill(number, signal.SIGKILL)
        if (code := ended(number)) is not None:
            if code == -signal.SIGKILL:
                return number, began
            if code != 0:
                raise SystemExit(f"the run ended with {code}: {(scene.folder / 'output.txt').read_text()[-3000:]}")
            return None
        time.sleep(0.0002)  # leave the processor to the run


def ended_code(number: int) -> int | None:
    """As ``ended``, but leaves the child to be waited for."""
    try:
        found = os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return None if found is None else 0


# ---------------------------------------------------------------- where it fell


def phase(scene: Scene, began: float) -> str:
    """Where the killed run stood, from what it left on disk."""
    if not (scene.run / "config.yaml").exists():
        if cue("image store", scene) or any(scene.store.glob("images-*/*.done")):
            return "image store being built"
        return "data set being made" if any(scene.store.glob("phantom/.*")) else "before anything was written"
    file = scene.run / "progress.json"
    if not file.exists():
        return "run directory just made"
    if file.stat().st_mtime < began:
        return "start of a resume, nothing done yet"
    where = standing(scene.run)
    stage = str(where.get("stage"))
    part = STAGES.match(stage)
    return {"warm_start": "warm start", "auc": "a disease (PESG)", "control": "its control"}[part[1]] if part else stage


def written(scene: Scene, number: int, began: float) -> str | None:
    """The file that the killed process was writing: a temporary name with its process id."""
    for folder in (scene.run, scene.store):
        for path in folder.rglob(f".*.{number}.tmp"):
            name = path.name.removeprefix(".").removesuffix(f".{number}.tmp")
            return "a checkpoint" if name == "next.ckpt" else f"{name}" if path.is_file() else "the data set"
    for path in scene.run.rglob("next.ckpt"):  # read back, not yet renamed
        if path.stat().st_mtime >= began:
            return "a checkpoint"
    for path in scene.run.rglob("previous.ckpt"):
        if not path.with_name("last.ckpt").exists():
            return "a checkpoint"
    return None


def kills_of_a_run(draw: random.Random) -> list[str]:
    """The kills one run gets, in the order of its phases."""
    middle = [draw.choice(("checkpoint", "anywhere")) for _ in range(draw.randint(3, 8))]
    ends = [kind for kind in ("predictions", "report") for _ in range(draw.randint(0, 2))]
    return ["image store"] * draw.randint(0, 2) + middle + ends


def everything(run: Path) -> dict[str, bytes]:
    """All of a run that has no clock in it."""
    tables = {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.glob("report/*.csv"))}
    return contents(run) | tables


def torture(folder: Path, kills: int, seed: int, chosen: tuple[str, ...], say: Callable[[str], None]) -> Tally:
    """Kill runs of ``chosen`` in ``folder`` until there were ``kills``, each resumed until it is done and compared."""
    draw, tally = random.Random(seed), Tally()
    alone = Scene(folder / "alone", words=chosen)
    seconds = run_to_end(alone)
    expected = everything(alone.run)
    say(f"a run left alone takes {seconds:.1f} s; {len(expected)} files are compared")
    while sum(tally.phases.values()) < kills:
        scene = Scene(folder / f"run_{tally.runs}", tally.runs % 6 == 5, chosen)
        for kind in kills_of_a_run(draw):
            if sum(tally.phases.values()) >= kills:
                break
            victim = killed(scene, kind, draw, seconds)
            if victim is None:  # it was faster and is done
                break
            tally.phases[phase(scene, victim[1])] += 1
            if (name := written(scene, *victim)) is not None:
                tally.writes[name] += 1
        run_to_end(scene)
        tally.runs += 1
        difference = compare(scene.run, expected)
        tally.different += [f"{scene.run.name}: {difference}"] if difference else []
        say(f"{sum(tally.phases.values())} kills, {tally.runs} runs; {difference or 'equal'}")
        (folder / "table.md").write_text("\n".join(tally.lines()) + "\n")  # so far
        if not difference:
            shutil.rmtree(scene.folder)
    return tally


def compare(run: Path, expected: dict[str, bytes]) -> str:
    """What differs from ``expected``, or what a resume has left behind; empty if nothing."""
    found = everything(run)
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    left = [str(path.relative_to(run)) for path in (*run.rglob("*.ckpt"), *run.rglob(".*.tmp"))]
    return ", ".join([*names, *(f"left behind: {name}" for name in left)])


@contextmanager
def workplace(kept: str | None) -> Iterator[Path]:
    """``kept``, or a temporary folder."""
    if kept is not None:
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield Path(kept)
        return
    with tempfile.TemporaryDirectory(prefix="dam-faults-") as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a run of one stage instead of five")
    parser.add_argument("--folder", help="work here and leave everything; otherwise a temporary folder")
    given = parser.parse_args()
    say = partial(print, flush=True)
    prepare()
    with workplace(given.folder) as folder:
        tally = torture(folder, given.kills, given.seed, SMALL if given.small else WORDS, say)
        say("\n".join(tally.lines()))
    return int(bool(tally.different))


if __name__ == "__main__":
    sys.exit(main())
