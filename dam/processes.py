"""Which of how many processes this is, as torchrun or srun tell it. Imports nothing heavy, starts nothing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Process ``rank`` of ``world``, the ``local_rank``-th on its machine; ``url`` is where they all meet."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    url: str = ""


def place() -> Place:
    """From the environment: torchrun's variables, else those of an srun step with several tasks, else one process.

    The number of tasks is that of the step, not of the job: a command in a batch script without srun is one process.
    """
    if _number("WORLD_SIZE", 1) > 1 and "RANK" in os.environ:
        return Place(_number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK"), "env://")
    if _number("SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PROCID" in os.environ:
        host = os.environ.get("MASTER_ADDR") or first_host(os.environ.get("SLURM_STEP_NODELIST", ""))
        port = _number("MASTER_PORT") or 20_000 + (_number("SLURM_JOB_ID") * 7 + _number("SLURM_STEP_ID")) % 12_000
        url = f"tcp://{host}:{port}"
        return Place(_number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_LOCALID"), url)
    return Place()


def first_host(nodes: str) -> str:
    """The first machine of a SLURM list such as ``gpu[03-05,9],big1``; this machine for an empty one."""
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    return match[1] + (match[2] or "") if match else "127.0.0.1"


def _number(name: str, otherwise: int = 0) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else otherwise
