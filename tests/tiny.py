"""A run of seconds: forty phantom patients, 32 pixels, a ResNet of 74 thousand weights."""

from __future__ import annotations

from pathlib import Path

from dam.compose import compose
from dam.config import Config

WORDS = (
    "data=phantom",
    "data.patients=60",
    "data.phantom_size=48",
    "data.labels=[Cardiomegaly,Edema,Pleural Effusion]",
    "augment=chest",
    "model=timm",
    "model.name=resnet8_cifar",
    "model.weights=null",
    "image_size=32",
    "batch_size=16",
    "device=cpu",
    "workers=1",
    "warm_start.steps=6",
    "auc.steps=6",
    "auc.eval_every=0.5",
    "checkpoint.every=2",
    "checkpoint.minutes=null",
    "evaluation.replicates=100",
)


def words(run_dir: Path | str, *more: str) -> list[str]:
    off = tuple(f"{part}." for part in ("auc", "warm_start") if f"{part}=none" in more)
    return [*(word for word in WORDS if not word.startswith(off)), f"run_dir={run_dir}", *more]


def tiny(run_dir: Path | str, *more: str) -> Config:
    return compose(words(run_dir, *more))


def contents(run_dir: Path) -> dict[str, bytes]:
    """All that a resume must leave equal to the last bit: weights, metrics, predictions, the report's numbers."""
    patterns = ("**/*.safetensors", "**/metrics.csv", "predictions/**/*", "report/auc.csv", "report/auc.json")
    found = sorted({path for pattern in patterns for path in run_dir.glob(pattern) if path.is_file()})
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in found}
