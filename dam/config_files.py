"""Where the YAML files of ``configs/`` are, which choices each group has, and what their first comment says.

Imports nothing heavy: help texts and shell completion use it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from dam.errors import UserError

# `group=choice`, mounted under the same name
GROUPS = ("data", "augment", "model", "warm_start", "auc", "control", "metadata", "pretrain", "tta", "evaluation")
STAGES = ("warm_start", "auc", "control")
CAN_BE_NONE = (*STAGES, "metadata", "pretrain")  # `group=none` makes the node null
PARTS = ("loss", "optimizer", "schedule", "sampler")  # mounted in every stage: `stage.part=choice`
PRETRAIN_PARTS = ("optimizer", "schedule")  # mounted in pretrain, whose loss and sampler are its own
ELSEWHERE = {"tta.augment": "augment"}  # a group that may be mounted a second time: `tta.augment=dermoscopy`
LAYERS = ("experiment", "sweep")  # files laid over the rest: `+experiment=choice`


@cache
def config_dir() -> Path:
    """The folder of YAML files: ``dam/configs`` in an installed wheel, the checkout's ``configs/`` otherwise."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"the configs/ folder was not found beside {package}; reinstall dam with `pip install dam`")


@cache
def choices(group: str) -> tuple[str, ...]:
    """Names that ``group=`` accepts, sorted. ``base.yaml`` is only for others to start from."""
    return tuple(sorted(path.stem for path in (config_dir() / group).glob("*.yaml") if path.stem != "base"))


def summary(group: str, choice: str) -> str:
    """The first comment line of a file of ``configs/``, without a full stop at its end."""
    for line in (config_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ").rstrip(" .")
    return ""


def group_of(key: str) -> str | None:
    """The group folder that a key chooses from: ``auc`` -> ``auc``, ``auc.optimizer`` -> ``optimizer``, else None."""
    if key in GROUPS or key in LAYERS:
        return key
    if key in ELSEWHERE:
        return ELSEWHERE[key]
    stage, _, part = key.partition(".")
    return part if part in (PARTS if stage in STAGES else PRETRAIN_PARTS if stage == "pretrain" else ()) else None


def mounts() -> tuple[str, ...]:
    """Every key that is chosen and not typed: ``data``, ..., ``auc``, ``auc.loss``, ``auc.optimizer``, ..."""
    inner = (f"{stage}.{part}" for stage in STAGES for part in PARTS)
    return (*GROUPS, *ELSEWHERE, *inner, *(f"pretrain.{part}" for part in PRETRAIN_PARTS))
