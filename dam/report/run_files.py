"""What a report reads: the files of one run directory, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dam.errors import UserError
from dam.evaluation.predictions import Predictions, read_predictions

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("test", "val")  # the first one that is there is the headline
MODELS = ("warm_start", "ce", "focal", "auc", "blend")  # the order of columns and colours; others follow
PARTS = ("warm_start", "auc", "control")


@dataclass(frozen=True)
class Stage:
    """One trained stage: ``part`` of PARTS, the facts of its stage.json and its metrics.csv."""

    part: str
    label: str  # "" for the warm start, the folder's name for joint heads
    facts: dict[str, Any]
    metrics: pd.DataFrame | None

    @property
    def steps(self) -> int | None:
        """Optimizer steps of this stage, from its facts or else its log."""
        if isinstance(self.facts.get("steps"), int):
            return int(self.facts["steps"])
        if self.metrics is None or "step" not in self.metrics or not len(self.metrics):
            return None
        return int(self.metrics["step"].max())


@dataclass(frozen=True)
class RunFiles:
    """A run directory, read."""

    path: Path
    config: dict[str, Any]
    data: dict[str, Any]
    environment: dict[str, Any]
    predictions: dict[str, Predictions]  # split -> table, headline split first, models in their fixed order
    stages: tuple[Stage, ...]

    def setting(self, *keys: str, default: Any = None) -> Any:
        """A value of config.yaml by its path of keys, or ``default`` where it is absent or null."""
        node: Any = self.config
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        return default if node is None else node

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of the run, in the order of its tables."""
        return tuple(dict.fromkeys(label for table in self.predictions.values() for label in table.labels))

    def stages_of(self, model: str) -> tuple[Stage, ...]:
        """The stages of the second part that made a model's scores; for the blend, those of its AUC model."""
        second = [s for s in self.stages if s.part != "warm_start"]
        column = "auc" if model == "blend" else model
        return tuple(s for s in second if s.facts.get("column", s.part) == column)


def read_run(path: Path) -> RunFiles:
    """Read a run directory. Raises ``UserError`` if it is none, holds no predictions, or a file in it is damaged."""
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path} is no run directory: it has no config.yaml; give the folder that `dam train` printed")
    found = [split for split in SPLITS if (path / "predictions" / f"{split}.csv").is_file()]
    if not found:
        raise UserError(
            f"{path} has no predictions/val.csv or test.csv yet: finish the run with `dam train resume={path}` first"
        )
    tables = {split: _ordered(read_predictions(path / "predictions" / f"{split}.csv")) for split in found}
    config = _mapping(path / "config.yaml")
    return RunFiles(
        path=path,
        config=config,
        data=_mapping(path / "data.json"),
        environment=_mapping(path / "environment.json"),
        predictions=tables,
        stages=tuple(_stages(path, next(iter(tables.values())).labels)),
    )


def _ordered(table: Predictions) -> Predictions:
    models = [m for m in MODELS if m in table.scores] + [m for m in table.scores if m not in MODELS]
    return Predictions(
        table.images,
        table.patients,
        table.studies,
        table.labels,
        table.targets,
        {model: table.scores[model] for model in models},
    )


def _mapping(file: Path) -> dict[str, Any]:
    """A JSON or YAML file as a dict; empty where there is no file."""
    if not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} is damaged and cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it should hold a mapping")
    return content


def _stages(path: Path, labels: tuple[str, ...]) -> list[Stage]:
    """Every stage with something in it: the warm start, then each part in the order of the labels."""
    stages = []
    if (path / "warm_start").is_dir():
        stages.append(_stage(path / "warm_start", "warm_start"))
    for part in PARTS[1:]:
        folders = sorted(f for f in (path / part).iterdir() if f.is_dir()) if (path / part).is_dir() else []
        found = [_stage(folder, part) for folder in folders]
        stages += sorted(found, key=lambda s: labels.index(s.label) if s.label in labels else len(labels))
    return [s for s in stages if s.facts or s.metrics is not None]


def _stage(folder: Path, part: str) -> Stage:
    import pandas as pd

    facts = _mapping(folder / "stage.json")
    named = facts.get("labels") or [folder.name]
    label = "" if part == "warm_start" else str(named[0]) if len(named) == 1 else folder.name
    metrics = None
    file = folder / "metrics.csv"
    if file.is_file():
        try:
            metrics = pd.read_csv(file, encoding="utf-8")
        except ValueError as error:  # an empty or cut file
            raise UserError(f"{file} is damaged and cannot be read: {error}") from error
    return Stage(part, label, facts, metrics)
