"""Runs that a launcher started more than once: torchrun's restarts of the same command, and another number of
processes than before."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import zlib
from pathlib import Path
from typing import Any

import torch

from dam.config import Config
from dam.errors import UserError
from dam.files import atomic_write_text
from dam.training import distributed
from dam.training.rundir import RunDirectory

NOTE = "launch.json"  # in a run directory that the user named


def earlier_run(cfg: Config) -> Path | None:
    """The run that this launch has made already, before torchrun restarted its processes; None in a new launch.

    All processes of a torchrun launch come to it.
    """
    record = _record(cfg)
    if record is None:
        return None
    agents = launch()
    found: str | None = distributed.from_main(lambda: _read(record, agents))
    return Path(found) if found else None


def remember(cfg: Config, run: RunDirectory, agents: list[int]) -> None:
    """Note the run of this launch, whose ``agents`` ``launch`` gives, for ``earlier_run``."""
    record = _record(cfg)
    if record is not None and distributed.is_main():
        atomic_write_text(record, json.dumps({"run_dir": str(run.path.resolve()), "launch": agents}) + "\n")


def forget(cfg: Config, run_dir: Path) -> None:
    """Remove the notes of a run that has come to its end, also one that a launch left which was stopped before."""
    if distributed.is_main():
        for record in (_record(cfg), run_dir / NOTE):
            if record is not None:
                record.unlink(missing_ok=True)


def what_changes(run: RunDirectory) -> str | None:
    """What is not as before where a run goes on with another number of processes; None with the same."""
    before = next((facts["processes"] for facts in _descriptions(run) if "processes" in facts), 1)
    now = distributed.world()
    if before == now:
        return None
    return (
        f"this run was trained by {before} process{'es' * (before != 1)} and goes on with {now}: the batches stay the "
        "same; dropout masks, what BatchNorm averages over (unless sync_bn) and the rounding of sums change"
    )


def _descriptions(run: RunDirectory) -> list[dict[str, Any]]:
    """environment.json and what resumes have added, the latest first."""
    first = [run.read_json("environment.json")] if (run.path / "environment.json").exists() else []
    return [facts for facts in [*first, *run.read_list("resumed.json")][::-1] if isinstance(facts, dict)]


def _record(cfg: Config) -> Path | None:
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if not name:
        return None
    if cfg.run_dir is not None:
        return Path(cfg.run_dir) / NOTE
    # Launches without a name of their own are all called none.
    name = f"{socket.gethostname()}-{os.getppid()}" if name == "none" else re.sub(r"[^\w.-]", "_", name)
    return Path("outputs") / cfg.name / f".launch-{name}.json"


def launch() -> list[int]:
    """The agents of torchrun that this launch consists of; one that was replaced is no reason to start anew.

    With their command: in containers one launch after another has the same host and process number.
    """
    agent = zlib.crc32(f"{socket.gethostname()}:{os.getppid()}:{sys.argv[1:]}".encode())
    return sorted({int(one) for one in distributed.gathered(torch.tensor([agent]))})


def _read(record: Path, agents: list[int]) -> str | None:
    if not record.is_file():
        return None
    try:
        noted = json.loads(record.read_text(encoding="utf-8"))
        ours, run_dir = bool(set(noted["launch"]) & set(agents)), str(noted["run_dir"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{record} is damaged; remove it, and go on with the run by resume=") from error
    return run_dir if ours and (Path(run_dir) / "config.yaml").is_file() else None
