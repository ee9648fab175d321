"""``dam train -m``: one run for each combination of values, through Hydra's sweepers and launchers.

Every job is checked before the first one starts (with a sweeper that draws its values, every job when it starts).
A job composes its config exactly as the same run alone would; whatever happens in it ends in its record, so that one
failing job stops no other. With ``sweep.resume=true`` jobs that are done keep their records, and those that stopped go
on in their own directories. Hydra's own files stay in the sweep's directory.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import re
import shutil
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
from dam.sweep_resume import (
    KEY as RESUME,
    command,
    find_sweep,
    held,
    how_to_complete,
    identity,
    read_notes,
)
from dam.sweep_table import Record, as_plan, as_text, mean_aucs, read_record, read_records, write_csv

__all__ = ["how_to_complete", "make_plan", "multirun", "plugin_faults", "run_sweep"]

LAUNCHERS = {
    "basic": "",
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
}
SWEEPERS = {"basic": "", "optuna": "hydra_plugins.hydra_optuna_sweeper"}


@dataclass(frozen=True)
class Plan:
    """A sweep that has been checked: its overrides, its jobs (none if the sweeper draws them), its directory.

    ``identity`` tells the configs of its jobs from others; ``resumed``: it goes on in a directory that it has.
    """

    settings: list[Setting]
    jobs: list[dict[str, str]]
    folder: Path
    sweeper: str
    dry_run: bool
    identity: str
    resumed: bool


def run_sweep(
    words: list[str], start: Callable[..., Any] | None = None, resume: Callable[..., Any] | None = None
) -> int:
    """Run the sweep that ``words`` describe; 0 if all jobs are done, 1 if one failed, 130 if interrupted.

    ``start`` and ``resume`` stand in for those of ``dam.training.run`` in tests. Raises ``UserError`` before anything
    was started.
    """
    task = partial(job, start=start, resume=resume)
    plan = make_plan(words)
    if plan.dry_run:
        with tempfile.TemporaryDirectory(prefix="dam-dry-run-") as folder:
            code, records = _run_jobs(replace(plan, folder=Path(folder)), words, task)
        print(f"\n{as_plan(records)}")
    else:
        print(f"sweep: {len(plan.jobs) or 'drawn'} runs in {_shown(plan.folder)}", flush=True)
        with held(plan.folder, alone=True):
            code, records = _run_jobs(plan, words, task)
        print(f"\n{as_text(records)}\n\nsweep: {_shown(write_csv(plan.folder, records))}")
        if plan.jobs and any(record.state != "done" for record in records):
            print(f"to complete it: {command(plan.folder)}")
    return code or int(any(record.state != "done" for record in records))


def _run_jobs(plan: Plan, words: list[str], task: Callable[[Any], float]) -> tuple[int, list[Record]]:
    """Run the jobs into ``plan.folder``: the exit code of the launcher and what each job left."""
    swept = [_shown_key(setting) for setting in plan.settings if setting.sweep is not None]
    notes = {
        "pid": os.getpid(),
        "command": ["dam", "train", "-m", *words],
        "swept": swept,
        "jobs": plan.jobs,
        "sweeper": plan.sweeper,
        "dry_run": plan.dry_run,
        "identity": plan.identity,
    }
    plan.folder.mkdir(parents=True, exist_ok=True)
    if plan.resumed:
        read_records(plan.folder, plan.jobs)  # a damaged record stops it before a job goes on
        (plan.folder / "launcher_error.txt").unlink(missing_ok=True)
    atomic_write_text(plan.folder / "sweep.json", json.dumps(notes, indent=2) + "\n")
    code = 0
    try:
        multirun(plan.folder, _hydra_words(plan), task)
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
    faults += [*plugin_faults("hydra/sweeper", hydra, SWEEPERS), *plugin_faults("hydra/launcher", hydra, LAUNCHERS)]
    parent = next((setting for setting in settings if setting.key == "run_dir"), None)
    if parent is not None and parent.sweep is not None:
        faults.append(Fault("run_dir", "run_dir is the parent of the jobs' directories under -m: give one"))
    if any(setting.key == "dry_run" and setting.sweep is not None for setting in settings):
        faults.append(Fault("dry_run", "dry_run is for the whole sweep: give it one value"))
    going_on = next((setting for setting in settings if setting.key == RESUME), None)
    faults += _resume_faults(going_on, sweeper, settings) if going_on is not None else []
    resumed = going_on is not None and going_on.value is True
    tasks = [setting for setting in settings if setting.kind != "hydra" and setting.key not in ("run_dir", RESUME)]
    combinations, more = _combinations(tasks, sweeper)
    configs, found = _check_jobs(combinations)
    faults = [*faults, *found]
    faults += [fault for fault in more if fault.key != "-m" or not faults]  # an axis may only be misspelt
    if faults or not configs:
        raise ConfigError(faults)
    config, known, given = configs[0], identity(configs), parent or hydra.get("hydra.sweep.dir")
    if resumed:
        folder = find_sweep(config.name, _given_path(given) if given else None, known, words)
    else:
        folder = _folder(config.name, given, make=not config.dry_run)
    swept = {_shown_key(task) for task in tasks if task.sweep is not None}
    jobs = [
        {_shown_key(task): _shown_text(task) for task in combination if _shown_key(task) in swept}
        for combination in combinations
    ]
    dropped = ["run_dir", "hydra.sweep.dir", RESUME]
    if config.dry_run:  # planned in this process: other machines do not see its temporary folder
        dropped += ["hydra/launcher", "hydra.launcher."]
    kept = [setting for setting in settings if not setting.key.startswith(tuple(dropped))]
    return Plan(kept, jobs if sweeper == "basic" else [], folder, sweeper, config.dry_run, known, resumed)


def _resume_faults(setting: Setting, sweeper: str, settings: list[Setting]) -> list[Fault]:
    if not isinstance(setting.value, bool):
        return [Fault(RESUME, f"{RESUME} must be true or false, got {setting.text}")]
    if setting.value and sweeper != "basic":
        return [Fault(RESUME, f"{RESUME}=true cannot go on with hydra/sweeper={sweeper}, which draws its jobs anew; "
                      "resume its open runs one by one: `dam runs` says how")]  # fmt: skip
    if setting.value and any(other.key == "dry_run" and other.value is True for other in settings):
        return [Fault(RESUME, f"{RESUME}=true goes on with a sweep that was started: leave out dry_run=true")]
    return []


def _grid(setting: Setting) -> list[str]:
    """The overrides of a file of ``configs/sweep/``: its ``hydra.sweeper.params``."""
    import yaml

    path = config_dir() / "sweep" / f"{setting.value}.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    params = tree.get("hydra", {}).get("sweeper", {}).get("params") if isinstance(tree, dict) else None
    if not isinstance(params, dict) or tree != {"hydra": {"sweeper": {"params": params}}}:
        raise UserError(f"{path} must hold hydra.sweeper.params (key: values) and nothing else")
    return [f"{key}={value}" for key, value in params.items()]


def plugin_faults(key: str, hydra: dict[str, Setting], known: dict[str, str]) -> list[Fault]:
    """What is wrong with the launcher or sweeper that ``hydra[key]`` names, of those ``known``."""
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


def _check_jobs(combinations: list[list[Setting]]) -> tuple[list[Config], list[Fault]]:
    configs: list[Config] = []
    faults: list[Fault] = []
    for combination in combinations:
        config, found = examine_settings(combination)
        faults += [fault for fault in found if fault not in faults]
        configs += [config] if config is not None else []
    return configs, faults


def _given_path(given: Setting) -> Path:
    return Path(str(given.value)).expanduser().absolute()


def _folder(name: str, given: Setting | None, make: bool) -> Path:
    if given is not None:
        folder = _given_path(given)
        for file, way in (("sweep.json", f" a sweep; go on with it by {RESUME}=true, or"), ("config.yaml", " a run;")):
            if (folder / file).exists():
                raise UserError(f"{folder} already holds{way} name another with {given.key}=PATH")
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


def _hydra_words(plan: Plan) -> list[str]:
    words = [setting.hydra for setting in plan.settings]
    if plan.sweeper == "optuna":
        given = {setting.key for setting in plan.settings}
        words += ["hydra.sweeper.direction=maximize"] if "hydra.sweeper.direction" not in given else []
    return words


def multirun(folder: Path, words: list[str], task: Callable[[Any], float]) -> None:
    """Call ``task`` once for each combination of ``words``, through Hydra's sweeper and launcher; its files stay in
    ``folder``."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    escaped = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    words = [*words, f"hydra.sweep.dir='{escaped}'", "hydra.sweep.subdir=."]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), job_name="dam", version_base="1.3"):
        hydra: Any = GlobalHydra.instance().hydra
        hydra.multirun(config_name="train", task_function=task, overrides=words, with_log_configuration=False)


# ---------------------------------------------------------------- one job


def job(_config: Any, start: Callable[..., Any] | None = None, resume: Callable[..., Any] | None = None) -> float:
    """One job, called by Hydra's launcher, maybe in another process: its mean validation AUC, NaN without one."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    words = [str(word) for word in hydra.overrides.task]
    return run_job(Path(hydra.sweep.dir), int(hydra.job.num), words, start, resume)


def run_job(
    folder: Path,
    num: int,
    words: list[str],
    start: Callable[..., Any] | None = None,
    resume: Callable[..., Any] | None = None,
) -> float:
    """Job ``num`` of the sweep in ``folder``: begun, gone on with, or left as it is where its record says done."""
    notes = read_notes(folder)
    settings, _ = read(words)
    swept = {_shown_key(setting): setting for setting in settings if _shown_key(setting) in notes["swept"]}
    record = Record(num, {key: _shown_text(setting) for key, setting in swept.items()}, "running")
    record.run_dir = str(folder / _slug(record))
    of = f"/{len(notes['jobs'])}" if notes["jobs"] else ""
    told = " ".join(f"{key}={text}" for key, text in record.overrides.items())
    before = read_record(folder, record.num)
    if before is not None and before.state == "done" and Path(record.run_dir, "config.yaml").is_file():
        print(f"\n[{record.num + 1}{of}] {told}: done before", flush=True)
        return math.nan if before.mean_val_auc is None else before.mean_val_auc
    print(f"\n[{record.num + 1}{of}] {told}", flush=True)
    with held(folder):
        record.write(folder)
        interrupted = _run(record, words, folder, (start, resume))
        record.write(folder)
    if record.state != "done":
        print(f"[{record.num + 1}{of}] {record.state}: {record.error}", flush=True)
    if interrupted and os.getpid() == notes["pid"]:
        raise KeyboardInterrupt
    if record.mean_val_auc is not None:
        return record.mean_val_auc
    return 0.0 if notes["sweeper"] == "optuna" else math.nan  # its sweeper stops the whole study at a NaN


def _run(record: Record, words: list[str], folder: Path, stand_ins: tuple[Any, Any]) -> bool:
    """Run one job, or go on with it, and fill its record; True if the user interrupted it."""
    try:
        result = _result(record, words, folder, *stand_ins)
    except KeyboardInterrupt:
        record.state, record.error = "interrupted", "stopped by the user"
        return True
    except UserError as error:
        record.state, record.error = "failed", str(error)
    except (Exception, SystemExit) as error:  # a job may fail in any way; the others go on
        log = folder / "jobs" / f"{record.num}.log"
        atomic_write_text(log, traceback.format_exc())
        record.state, record.error = "failed", f"{type(error).__name__}: {error}"
        if not read_notes(folder)["dry_run"]:
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


def _result(record: Record, words: list[str], folder: Path, start: Any, resume: Any) -> Any:
    """The ``RunResult`` of a job that begins, or goes on where its directory is a run already."""
    if start is None:
        from dam.training import run

        start, resume = run.start, run.resume
    path, shared = Path(record.run_dir), folder / "warm_starts"
    command = ["dam", "train", *words, f"run_dir={path}"]
    if (path / "config.yaml").is_file():
        return resume(path, [], command, shared_warm_starts=shared)
    if path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir()):
        shutil.rmtree(path)  # killed while it was made: nothing but a lock and half a file
    return start(with_value(compose(words), "run_dir", record.run_dir), command, shared_warm_starts=shared)


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
