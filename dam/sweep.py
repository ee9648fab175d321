"""``dam train -m``: one run for each combination of values, through Hydra's sweepers and launchers.

Every job is checked before the first one starts (with a sweeper that draws its values, every job when it starts).
A job composes its config exactly as the same run alone would; whatever happens in it ends in its record, so that one
failing job stops no other. Hydra's own files stay in the sweep's directory.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from dam.compose import compose, examine_settings, with_value
from dam.config import Config
from dam.config_files import LAYERS, config_dir
from dam.errors import UserError
from dam.files import atomic_write_text
from dam.overrides import Setting, open_parent, read
from dam.schema import ConfigError, Fault
from dam.sweep_table import Record, as_plan, as_text, mean_aucs, read_records, write_csv

LAUNCHERS = {
    "basic": "",
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
}
SWEEPERS = {"basic": "", "optuna": "hydra_plugins.hydra_optuna_sweeper"}


@dataclass(frozen=True)
class Plan:
    """A sweep that has been checked: its overrides, its jobs (none if the sweeper draws them), its directory."""

    settings: list[Setting]
    jobs: list[dict[str, str]]
    folder: Path
    sweeper: str
    dry_run: bool


def run_sweep(words: list[str], start: Callable[..., Any] | None = None) -> int:
    """Run the sweep that ``words`` describe; 0 if all jobs are done, 1 if one failed, 130 if interrupted.

    ``start`` stands in for ``dam.training.run.start`` in tests. Raises ``UserError`` before anything was started.
    """
    plan = make_plan(words)
    if plan.dry_run:
        with tempfile.TemporaryDirectory(prefix="dam-dry-run-") as folder:
            code, records = _run_jobs(replace(plan, folder=Path(folder)), words, start)
        print(f"\n{as_plan(records)}")
    else:
        print(f"sweep: {len(plan.jobs) or 'drawn'} runs in {_shown(plan.folder)}", flush=True)
        code, records = _run_jobs(plan, words, start)
        print(f"\n{as_text(records)}\n\nsweep: {_shown(write_csv(plan.folder, records))}")
    return code or int(any(record.state != "done" for record in records))


def _run_jobs(plan: Plan, words: list[str], start: Callable[..., Any] | None) -> tuple[int, list[Record]]:
    """Run the jobs into ``plan.folder``: the exit code of the launcher and what each job left."""
    swept = [_shown_key(setting) for setting in plan.settings if setting.sweep is not None]
    notes = {
        "pid": os.getpid(),
        "command": ["dam", "train", "-m", *words],
        "swept": swept,
        "jobs": plan.jobs,
        "sweeper": plan.sweeper,
        "dry_run": plan.dry_run,
    }
    plan.folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(plan.folder / "sweep.json", json.dumps(notes, indent=2) + "\n")
    code = 0
    try:
        _hydra_multirun(plan, partial(job, start=start))
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # a launcher's own failure: the records still say what became of the jobs
        atomic_write_text(plan.folder / "launcher_error.txt", traceback.format_exc())
        print(f"the launcher stopped: {type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    return code, read_records(plan.folder, plan.jobs)


# ---------------------------------------------------------------- before the first job


def make_plan(words: list[str]) -> Plan:
    """Read, expand and check a sweep, and make its directory (none for ``dry_run=true``).

    Raises ``ConfigError`` with all faults of all jobs.
    """
    settings, faults = read(words)
    grids = [setting for setting in settings if setting.key == "sweep"]
    if grids:
        typed = [word for word in words if not re.match(r"\+*sweep=", word)]
        settings, faults = read([*_grid(grids[0]), *typed])
    hydra = {setting.key: setting for setting in settings if setting.kind == "hydra"}
    sweeper = str(hydra["hydra/sweeper"].value) if "hydra/sweeper" in hydra else "basic"
    faults += [*_plugin("hydra/sweeper", hydra, SWEEPERS), *_plugin("hydra/launcher", hydra, LAUNCHERS)]
    parent = next((setting for setting in settings if setting.key == "run_dir"), None)
    if parent is not None and parent.sweep is not None:
        faults.append(Fault("run_dir", "run_dir is the parent of the jobs' directories under -m: give one"))
    if any(setting.key == "dry_run" and setting.sweep is not None for setting in settings):
        faults.append(Fault("dry_run", "dry_run is for the whole sweep: give it one value"))
    tasks = [setting for setting in settings if setting.kind != "hydra" and setting.key != "run_dir"]
    combinations, more = _combinations(tasks, sweeper)
    config, found = _check_jobs(combinations)
    faults = [*faults, *found]
    faults += [fault for fault in more if fault.key != "-m" or not faults]  # an axis may only be misspelt
    if faults or config is None:
        raise ConfigError(faults)
    folder = _folder(config.name, parent or hydra.get("hydra.sweep.dir"), make=not config.dry_run)
    swept = {_shown_key(task) for task in tasks if task.sweep is not None}
    jobs = [
        {_shown_key(task): _shown_text(task) for task in combination if _shown_key(task) in swept}
        for combination in combinations
    ]
    dropped = ["run_dir", "hydra.sweep.dir"]
    if config.dry_run:  # planned in this process: other machines do not see its temporary folder
        dropped += ["hydra/launcher", "hydra.launcher."]
    kept = [setting for setting in settings if not setting.key.startswith(tuple(dropped))]
    return Plan(kept, jobs if sweeper == "basic" else [], folder, sweeper, config.dry_run)


def _grid(setting: Setting) -> list[str]:
    """The overrides of a file of ``configs/sweep/``: its ``hydra.sweeper.params``."""
    import yaml

    path = config_dir() / "sweep" / f"{setting.value}.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    params = tree.get("hydra", {}).get("sweeper", {}).get("params") if isinstance(tree, dict) else None
    if not isinstance(params, dict) or tree != {"hydra": {"sweeper": {"params": params}}}:
        raise UserError(f"{path} must hold hydra.sweeper.params (key: values) and nothing else")
    return [f"{key}={value}" for key, value in params.items()]


def _plugin(key: str, hydra: dict[str, Setting], known: dict[str, str]) -> list[Fault]:
    name = str(hydra[key].value) if key in hydra else "basic"
    if name not in known:
        return [Fault(key, f"{key}={name} is not one of {', '.join(known)}")]
    if known[name] and importlib.util.find_spec(known[name]) is None:
        extra = name.partition("_")[0]
        wanted = {"submitit": "hydra-submitit-launcher"}.get(extra, f'"dam[{extra}]"')
        return [Fault(key, f"{key}={name} is not installed: pip install {wanted}")]
    return []


def _combinations(tasks: list[Setting], sweeper: str) -> tuple[list[list[Setting]], list[Fault]]:
    """The settings of every job; for a sweeper that draws values, one job to check the keys with."""
    faults = []
    axes = []
    for task in tasks:
        if task.sweep == ():
            if sweeper == "basic":
                faults.append(Fault(task.key, f"{task.key}={task.text}: an interval needs hydra/sweeper=optuna"))
            continue
        texts = task.sweep if task.sweep is not None else (None,)
        axes.append([task if text is None else task.at(text) for text in texts])
    if sweeper != "basic":
        axes = [axis[:1] for axis in axes]
    elif not faults and all(len(axis) == 1 for axis in axes):
        faults.append(
            Fault("-m", "-m needs a key with several values, such as auc.loss.margin=0.3,1.0, or +sweep=NAME")
        )
    return [list(combination) for combination in itertools.product(*axes)], faults


def _check_jobs(combinations: list[list[Setting]]) -> tuple[Config | None, list[Fault]]:
    first: Config | None = None
    faults: list[Fault] = []
    for combination in combinations:
        config, found = examine_settings(combination)
        faults += [fault for fault in found if fault not in faults]
        first = first or config
    return first, faults


def _folder(name: str, given: Setting | None, make: bool) -> Path:
    if given is not None:
        folder = Path(str(given.value)).expanduser().absolute()
        for file, what in (("sweep.json", "a sweep"), ("config.yaml", "a run")):
            if (folder / file).exists():
                raise UserError(f"{folder} already holds {what}; name another with {given.key}=PATH")
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        return folder
    sweeps = Path("outputs", name, "sweeps").absolute()
    if not make:
        return sweeps
    sweeps.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for suffix in itertools.count():
        folder = sweeps / (f"{stamp}_{suffix}" if suffix else stamp)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _hydra_multirun(plan: Plan, task: Callable[[Any], float]) -> None:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    words = [setting.hydra for setting in plan.settings]
    escaped = str(plan.folder).replace("\\", "\\\\").replace("'", "\\'")
    words += [f"hydra.sweep.dir='{escaped}'", "hydra.sweep.subdir=."]
    if plan.sweeper == "optuna":
        given = {setting.key for setting in plan.settings}
        words += ["hydra.sweeper.direction=maximize"] if "hydra.sweeper.direction" not in given else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), job_name="dam", version_base="1.3"):
        hydra: Any = GlobalHydra.instance().hydra
        hydra.multirun(config_name="train", task_function=task, overrides=words, with_log_configuration=False)


# ---------------------------------------------------------------- one job


def job(_config: Any, start: Callable[..., Any] | None = None) -> float:
    """One job, called by Hydra's launcher, maybe in another process: its mean validation AUC, NaN without one."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir)
    words = [str(word) for word in hydra.overrides.task]
    notes = _notes(folder)
    settings, _ = read(words)
    swept = {_shown_key(setting): setting for setting in settings if _shown_key(setting) in notes["swept"]}
    record = Record(int(hydra.job.num), {key: _shown_text(setting) for key, setting in swept.items()}, "running")
    record.run_dir = str(folder / _slug(record))
    of = f"/{len(notes['jobs'])}" if notes["jobs"] else ""
    told = " ".join(f"{key}={text}" for key, text in record.overrides.items())
    print(f"\n[{record.num + 1}{of}] {told}", flush=True)
    record.write(folder)
    interrupted = _run(record, words, folder, start)
    record.write(folder)
    if record.state != "done":
        print(f"[{record.num + 1}{of}] {record.state}: {record.error}", flush=True)
    if interrupted and os.getpid() == notes["pid"]:
        raise KeyboardInterrupt
    if record.mean_val_auc is not None:
        return record.mean_val_auc
    return 0.0 if notes["sweeper"] == "optuna" else math.nan  # its sweeper stops the whole study at a NaN


def _run(record: Record, words: list[str], folder: Path, start: Callable[..., Any] | None) -> bool:
    """Run one job and fill its record; True if the user interrupted it."""
    try:
        config = with_value(compose(words), "run_dir", record.run_dir)
        if start is None:
            from dam.training import run

            start = run.start
        command = ["dam", "train", *words, f"run_dir={record.run_dir}"]
        result = start(config, command, shared_warm_starts=folder / "warm_starts")
    except KeyboardInterrupt:
        record.state, record.error = "interrupted", "stopped by the user"
        return True
    except UserError as error:
        record.state, record.error = "failed", str(error)
    except (Exception, SystemExit) as error:  # a job may fail in any way; the others go on
        log = folder / "jobs" / f"{record.num}.log"
        atomic_write_text(log, traceback.format_exc())
        record.state, record.error = "failed", f"{type(error).__name__}: {error}"
        if not _notes(folder)["dry_run"]:
            record.error += f" (traceback: {_shown(log)})"
    else:
        if result.table:
            print(result.table, flush=True)
        if result.exit_code == 130:
            record.state, record.error = "interrupted", f"go on with: dam train {quote(f'resume={record.run_dir}')}"
            return True
        record.state = "failed" if result.exit_code else "done"
        record.error = f"exit code {result.exit_code}, see {record.run_dir}" if result.exit_code else ""
        record.mean_val_auc = None if math.isnan(result.mean_val_auc) else float(result.mean_val_auc)
        record.auc = mean_aucs(Path(record.run_dir))
    return False


def _notes(folder: Path) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    return notes


def _slug(record: Record) -> str:
    parts = [f"{key.rpartition('.')[2]}-{text}" for key, text in record.overrides.items()]
    safe = re.sub(r"[^\w.]+", "-", "_".join(parts)).strip("-.")[:80]
    return f"{record.num}_{safe}" if safe else str(record.num)


def _shown_key(setting: Setting) -> str:
    return (open_parent(setting.key) if setting.kind == "value" else None) or setting.key


def _shown_text(setting: Setting) -> str:
    if setting.kind == "choice" or setting.key in LAYERS:
        return str(setting.value)
    parent = open_parent(setting.key)
    return f"{{{setting.key[len(parent) + 1 :]}:{setting.text}}}" if parent else setting.text


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
