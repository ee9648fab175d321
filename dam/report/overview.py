"""What became of the runs under a folder: their state, their mean AUCs and verdict, from small files alone.

Only config.yaml, progress.json, environment.json, report/auc.json and timing.csv are opened, so hundreds of runs take
seconds. A file that is damaged is named in its run's row and stops nothing.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from dam.report.run_files import EVALUATION

MODELS = ("auc", "focal", "ce", "warm_start")  # the first that is there is the run's AUC
CONFIG, PROGRESS, SWEEP = "config.yaml", "progress.json", "sweep.json"
OPEN = ("stopped", "failed", "not begun")  # states that `dam train resume=` goes on from
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is there


@dataclass(frozen=True)
class Mean:
    """A mean AUC over labels with its 95 % interval; NaN where there is none."""

    auc: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class RunRow:
    """One run directory.

    ``state``: done, running (its lock is held), stopped, failed, not begun, damaged. ``where``: the stage it stands
    at, with its steps; ``reason``: why it failed, or which file is damaged. ``group``: the sweep or cross-validation
    that it is part of, None for a run of its own; ``kind``: run, job, fold or evaluation. ``seconds`` of training.
    """

    path: Path
    kind: str = "run"
    group: Path | None = None
    experiment: str = ""
    when: str = ""  # ISO, local to the machine that ran it
    state: str = "done"
    where: str = ""
    reason: str = ""
    model: str = ""
    val: Mean = Mean()
    test: Mean = Mean()
    pair: str = ""
    verdict: str = ""
    difference: float = math.nan
    seconds: float = math.nan
    folds: int = 0  # of an outer run: how many there are
    config: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def resume(self) -> str:
        """What to type to go on with it; "" where there is nothing to go on with. A fold is its outer run's."""
        if self.state not in OPEN or self.kind in ("fold", "evaluation"):
            return ""
        return f"dam train resume={quote(str(self.path))}"

    def setting(self, key: str) -> Any:
        """A value of its config by a dotted key, None where there is none."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node


def find_runs(folder: Path) -> Iterator[tuple[Path, str, Path | None]]:
    """(directory, kind, group) of every run at or under ``folder``, sweeps' jobs and folds included, in order."""
    yield from _walk(folder, None)


def _walk(folder: Path, sweep: Path | None) -> Iterator[tuple[Path, str, Path | None]]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    names = {entry.name for entry in entries}
    if EVALUATION in names and _is_evaluation(folder):
        yield folder, "evaluation", None
        return
    if CONFIG in names:
        yield folder, "job" if sweep else "run", sweep
        for entry in entries:
            if entry.name.startswith("fold_") and entry.is_dir() and (Path(entry.path) / CONFIG).is_file():
                yield Path(entry.path), "fold", folder
        return
    sweep = folder if SWEEP in names else sweep
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _walk(Path(entry.path), sweep)


def _is_evaluation(folder: Path) -> bool:
    try:
        return "source" in _json(folder / EVALUATION)
    except ValueError:
        return False


def read_row(path: Path, kind: str = "run", group: Path | None = None) -> RunRow:
    """The row of one run directory; what is damaged is said in it."""
    facts: dict[str, Any] = {"path": path, "kind": kind, "group": group}
    broken: list[str] = []

    def tried(name: str) -> dict[str, Any]:
        try:
            return _json(path / name)
        except ValueError as error:
            broken.append(f"{name} {error}")
            return {}

    config, progress, environment = tried(CONFIG), tried(PROGRESS), tried("environment.json")
    evaluation = tried(EVALUATION) if kind == "evaluation" else {}
    report = tried("report/auc.json")
    facts["config"] = config
    facts["experiment"] = str(config.get("name") or evaluation.get("name") or "")
    facts["when"] = _when(path, environment)
    facts["seconds"] = _seconds(path)
    if kind != "fold":
        facts["folds"] = sum(1 for fold in path.glob("fold_*") if (fold / CONFIG).is_file())
    facts["state"], facts["where"], facts["reason"] = _state(path, kind, progress)
    try:
        facts |= _results(report)
    except (KeyError, TypeError, ValueError, AttributeError):
        broken.append("report/auc.json is not what dam writes")
    if CONFIG not in (p.partition(" ")[0] for p in broken) and kind != "evaluation" and not config:
        broken.append(f"{CONFIG} is empty")
    if broken:
        facts |= {"state": "damaged", "reason": "; ".join(broken)}
    return RunRow(**facts)


def read_runs(folders: Sequence[Path]) -> list[RunRow]:
    """The rows of all runs under ``folders``, each once."""
    seen: dict[Path, RunRow] = {}
    for folder in folders:
        for path, kind, group in find_runs(folder):
            key = path.resolve()
            if key not in seen:
                seen[key] = read_row(path, kind, group)
    return list(seen.values())


def held(path: Path) -> bool:
    """Whether a process works on this run: its lock is held. Always False where a lock cannot be tried."""
    try:
        with open(path / ".lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _state(path: Path, kind: str, progress: dict[str, Any]) -> tuple[str, str, str]:
    state = str(progress.get("state", ""))
    if kind == "evaluation" or state == "done":
        return "done", "", ""
    where = _where(progress)
    if held(path):
        return "running", where, ""
    if state == "failed":
        return "failed", where, " ".join(str(progress.get("reason", "no reason given")).split())
    if not state:  # with a report it was never trained here: an ensemble
        return ("done" if (path / "report" / "auc.json").is_file() else "not begun"), "", ""
    return "stopped", where, "" if state == "interrupted" else "its process ended without a word"


def _where(progress: dict[str, Any]) -> str:
    stage = str(progress.get("stage", ""))
    if isinstance(progress.get("step"), int) and progress.get("steps"):
        return f"{stage} step {progress['step']}/{progress['steps']}"
    return f"{stage} ({progress['number']} of {progress['of']})" if progress.get("of") else stage


def _results(report: dict[str, Any]) -> dict[str, Any]:
    """Mean AUCs of the run's model on validation and test, and the word on its first comparison."""
    if not report:
        return {}
    means = {(row["split"], row["model"]): row for row in report["auc"] if row["label"] == "mean"}
    models = [model for _, model in means]
    model = next((m for m in MODELS if m in models), models[0] if models else "")
    found = {split: _mean(means.get((split, model), {})) for split in ("val", "test")}
    first = next(
        (c for c in report.get("comparisons", ()) if c["label"] == "mean" and c["split"] == report["headline_split"]),
        None,
    )
    said = {} if first is None else _verdict(first)
    return {"model": model, **found, **said}


def _mean(row: dict[str, Any]) -> Mean:
    return Mean(*(_number(row.get(key)) for key in ("auc", "ci_low", "ci_high")))


def _verdict(row: dict[str, Any]) -> dict[str, Any]:
    """The report's word: helps above 0, hurts below, tie where the interval holds 0."""
    low, high = _number(row.get("ci_low")), _number(row.get("ci_high"))
    word = "helps" if low > 0 else "hurts" if high < 0 else "tie"
    word = "not testable" if math.isnan(low) else word
    return {"pair": f"{row['a']} - {row['b']}", "verdict": word, "difference": _number(row.get("difference"))}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _when(path: Path, environment: dict[str, Any]) -> str:
    started = environment.get("started")
    if isinstance(started, str) and started:
        return started
    try:
        newest = (path / CONFIG if (path / CONFIG).is_file() else path).stat().st_mtime
    except OSError:
        return ""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(newest))


def _seconds(path: Path) -> float:
    """Seconds of training in all stages and folds: the last line of each timing.csv; NaN without any."""
    found = []
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if name not in ("report", "predictions", "export")]
        if "timing.csv" in names:
            try:
                lines = (Path(folder) / "timing.csv").read_text(encoding="utf-8").split()
                at = lines[0].split(",").index("seconds")
                found.append(float(lines[-1].split(",")[at]))
            except (OSError, ValueError, IndexError):
                continue
    return math.fsum(found) if found else math.nan


def _json(file: Path) -> dict[str, Any]:
    """A JSON or YAML file as a mapping, empty where there is none. Raises ``ValueError`` with the reason."""
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.load(text, Loader=_YAML)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError("is damaged") from error
    if not isinstance(content, dict):
        raise ValueError("is damaged: it should hold a mapping")
    return content
