"""``dam study``: the cells that are not finished, one run each through Hydra's launchers; then the report.

A cell is finished once its own run directory says so. One that was begun is resumed, one that failed is tried again,
and whatever happens in one ends in its record ``cells/<name>.json`` and stops no other.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from dam import __version__
from dam.compose import compose, with_value
from dam.config import Config
from dam.errors import UserError
from dam.files import atomic_write_text
from dam.studies.plan import NOTES, Plan, make_plan, read_notes
from dam.studies.study import Study
from dam.sweep import multirun
from dam.sweep_resume import held

State = Literal["not run", "running", "done", "failed", "interrupted"]


@dataclass
class Record:
    """How a cell ended the last time it was run."""

    cell: str
    state: State = "not run"
    error: str = ""
    mean_val_auc: float | None = None
    seconds: float | None = None

    def write(self, folder: Path) -> None:
        """To ``<folder>/cells/<cell>.json``, atomically."""
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / "cells" / f"{self.cell}.json", json.dumps(asdict(self), indent=2) + "\n")


def run_study(study: Study, words: Sequence[str]) -> int:
    """Run what is left of a study and write its report; 0 done, 1 if a cell failed, 130 if interrupted.

    Raises ``UserError`` before anything was started.
    """
    plan = make_plan(study, words)
    left = [name for name in plan.chosen if not is_finished(plan.folder / name)]
    if plan.dry_run:
        check_before({name: plan.chosen[name] for name in left}, plan.folder)
        print(_as_plan(plan, left))
        return 0
    command = ["dam", "study", study.name, *words]
    if left:
        check_before({name: plan.chosen[name] for name in left}, plan.folder)
    plan.folder.mkdir(parents=True, exist_ok=True)
    with held(plan.folder, alone=True, what="study"):
        _write_notes(plan, command)
        done = len(plan.chosen) - len(left)
        print(f"study {study.name}: {len(left)} of {len(plan.chosen)} cells to run, {done} finished, in {plan.folder}")
        code = _launch(plan, left) if left else 0
        if code == 130:
            print(f"interrupted; go on with: {' '.join(map(quote, command))}", file=sys.stderr)
            return code
        return max(code, _end(plan, command))


def is_finished(run_dir: Path) -> bool:
    """Whether a cell's run has come to its end, report included."""
    from dam.training.rundir import RunDirectory

    return (run_dir / "config.yaml").is_file() and RunDirectory(run_dir).finished()


def check_before(configs: Mapping[str, Config], folder: Path) -> None:
    """What a run checks before it makes its directory, once for all cells that differ in their fold or seeds only."""
    from dam.errors import in_a_line
    from dam.training import crossval, single

    seen: list[Config] = []
    for name, config in configs.items():
        alike = replace(config, run_dir=None, seed=0, data=replace(config.data, fold=None, split_seed=0))
        if alike in seen or (folder / name / "config.yaml").is_file():
            continue
        seen.append(alike)
        try:
            (crossval if config.data.fold == "all" else single).checked(config)
        except UserError as error:
            raise UserError(f"cell {name}: {in_a_line(error)}") from error


def _write_notes(plan: Plan, command: list[str]) -> None:
    """``study.json``: what this folder holds, and the words of every cell that was ever asked for here."""
    before = read_notes(plan.folder) or {}
    notes = {
        "study": plan.study.name,
        "dam": __version__,
        "command": command,
        "pid": os.getpid(),
        "moving": list(plan.moving),
        "cells": {**before.get("cells", {}), **plan.words},
    }
    atomic_write_text(plan.folder / NOTES, json.dumps(notes, indent=2) + "\n")


def _as_plan(plan: Plan, left: Sequence[str]) -> str:
    lines = [f"{name}: {'to run' if name in left else 'finished'}" for name in plan.chosen]
    return "\n".join([*lines, f"{len(left)} of {len(plan.chosen)} cells to run in {plan.folder}; nothing was written"])


# ---------------------------------------------------------------- the cells


def _launch(plan: Plan, names: Sequence[str]) -> int:
    """Run the cells through Hydra's launcher: one job for each value of ``name``."""
    words = [*(setting.hydra for setting in plan.launcher), "++name=" + ",".join(names)]
    task = partial(cell_job, folder=str(plan.folder), names=tuple(names))
    try:
        multirun(plan.folder, words, task)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # a launcher's own failure: the records still say what became of the cells
        atomic_write_text(plan.folder / "launcher_error.txt", traceback.format_exc())
        print(f"the launcher stopped: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        (plan.folder / "multirun.yaml").unlink(missing_ok=True)  # of Hydra's, it says nothing that study.json does not
    return 0


def cell_job(config: Any, folder: str, names: tuple[str, ...]) -> float:
    """One cell, called by Hydra's launcher, maybe in another process: its mean validation AUC, NaN without one."""
    name = str(config.name)
    print(f"\n[{names.index(name) + 1}/{len(names)}] {name}", flush=True)
    with held(Path(folder)):  # a worker whose parent was killed still holds the study until its cell has ended
        record = run_cell(Path(folder), name)
    if record.state != "done":
        print(f"{name} {record.state}: {record.error}", flush=True)
    if record.state == "interrupted" and os.getpid() == (read_notes(Path(folder)) or {}).get("pid"):
        raise KeyboardInterrupt
    return math.nan if record.mean_val_auc is None else record.mean_val_auc


def run_cell(folder: Path, name: str) -> Record:
    """Start or resume one cell of the study in ``folder``, and leave its record."""
    from dam.training import run

    notes = read_notes(folder) or {}
    run_dir, words, began = folder / name, notes["cells"][name], time.monotonic()
    record = Record(name, "running")
    record.write(folder)
    command = ["dam", "train", *words, f"run_dir={run_dir}"]
    try:
        if (run_dir / "config.yaml").is_file():
            result = run.resume(run_dir, notes["moving"], command)
        else:
            if run_dir.is_dir() and all(path.name.startswith(".") for path in run_dir.iterdir()):
                shutil.rmtree(run_dir)  # killed while it was made: nothing but a lock and half a file
            result = run.start(with_value(compose(words), "run_dir", str(run_dir)), command)
    except KeyboardInterrupt:
        record.state, record.error = "interrupted", "stopped by the user"
    except UserError as error:
        record.state, record.error = "failed", str(error)
    except (Exception, SystemExit) as error:  # a cell may fail in any way; the others go on
        log = folder / "cells" / f"{name}.log"
        atomic_write_text(log, traceback.format_exc())
        record.state, record.error = "failed", f"{type(error).__name__}: {error} (traceback: {log})"
    else:
        record.state = {0: "done", 130: "interrupted"}.get(result.exit_code, "failed")  # type: ignore[assignment]
        record.error = "" if record.state == "done" else f"exit code {result.exit_code}"
        record.mean_val_auc = None if math.isnan(result.mean_val_auc) else float(result.mean_val_auc)
    record.seconds = round(time.monotonic() - began, 1)
    record.write(folder)
    return record


# ---------------------------------------------------------------- the end


def _end(plan: Plan, command: Sequence[str]) -> int:
    """The report of all finished cells, a line for each that did not end well, and the exit code."""
    from dam.studies.report import write_report
    from dam.studies.results import read_results

    results = read_results(plan.study, plan.folder, plan.cells)
    if results.found:
        print("\n".join(["", *write_report(results, plan.folder, list(command))]))
    bad = [name for name in plan.chosen if not is_finished(plan.folder / name)]
    for name in bad:
        print(f"{name} failed: {_why(plan.folder, name)}", file=sys.stderr)
    if bad:
        print(f"{len(bad)} of {len(plan.chosen)} cells failed; the same command runs these alone", file=sys.stderr)
    return int(bool(bad))


def _why(folder: Path, name: str) -> str:
    try:
        record = json.loads((folder / "cells" / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "it was not begun"
    if record["state"] == "running":
        return "its process ended without a word (out of memory, or killed)"
    return str(record["error"] or record["state"])
