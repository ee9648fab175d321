"""What a report reads: the files of one run directory, and nothing else."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import yaml

from dam.errors import UserError, in_a_line
from dam.evaluation.predictions import Predictions, read_predictions
from dam.report import history
from dam.report.examples import EXAMPLE, FOLDER

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("test", "val")  # the first one that is there is the headline
EXTERNAL = "external_"  # predictions/external_<name>.csv
EVALUATION = "evaluation.json"  # what `dam evaluate` was told: laid over config.yaml, or alone for a foreign table
PRETRAIN = "pretrain"  # the folder that makes a directory a run of `dam pretrain`
ANONYMIZED = "anonymized"  # of data.json, in a run whose names are pseudonyms: which key made them
ENSEMBLE = "ensemble.json"  # what makes a directory an ensemble of runs
MODELS = ("warm_start", "ce", "focal", "auc", "blend")  # the order of columns and colours; others follow
PARTS = ("warm_start", "auc", "control", "metadata/auc", "metadata/control")


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
    metadata: pd.DataFrame | None = None  # images.csv: image, patient, study, split, metadata columns
    folds: pd.DataFrame | None = None  # folds.csv: split, fold, label, model, auc
    examples: tuple[dict[str, str], ...] = ()  # rows of examples.csv
    history: tuple[dict[str, Any], ...] = ()  # how often a set was scored: time, what, digest
    stages_from: str = ""  # the fold whose stages are shown, where the run is a cross-validation
    seconds: float = 0.0  # spent in training, from timing.csv
    ensemble: dict[str, Any] = field(default_factory=dict)  # ensemble.json: members, weights; empty for a run

    @property
    def foreign(self) -> bool:
        """True for a table of another tool: there is no config, no training and no environment to tell of."""
        return not (self.path / "config.yaml").is_file()

    def external_metadata(self, split: str) -> pd.DataFrame | None:
        """Metadata of an external set's images, where it was written: image, patient, study and further columns."""
        return _frame(self.path / "predictions" / f"images_{split}.csv")

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


def is_pretraining(run_dir: Path) -> bool:
    """Whether a directory is a run of `dam pretrain`."""
    return (run_dir / PRETRAIN).is_dir()


def refuse_pretraining(run_dir: Path) -> None:
    """Raise ``UserError`` for a pretraining run, which has nothing that could be judged or could predict."""
    if is_pretraining(run_dir):
        raise UserError(
            f"{run_dir} is a pretraining run: it learned no label, so it predicts nothing; train from it first, "
            f"dam train ... model.weights={quote(str(run_dir))}"
        )


def read_run(path: Path) -> RunFiles:
    """Read a run directory. Raises ``UserError`` if it is none, holds no predictions, or a file in it is damaged."""
    refuse_pretraining(path)
    if not (path / "config.yaml").is_file() and not (path / EVALUATION).is_file():
        raise UserError(f"{path} is no run directory: it has no config.yaml; give the folder that `dam train` printed")
    folder = path / "predictions"
    found = [split for split in SPLITS if (folder / f"{split}.csv").is_file()]
    if not found:
        raise UserError(
            f"{path} has no predictions/val.csv or test.csv yet: finish the run with `dam train resume={path}` first"
        )
    found += sorted(file.stem for file in folder.glob(f"{EXTERNAL}*.csv"))
    tables = {split: _ordered(read_predictions(folder / f"{split}.csv")) for split in found}
    stages, origin = _stages_or_fold(path, next(iter(tables.values())).labels)
    data, metadata = read_mapping(path / "data.json"), _frame(folder / "images.csv")
    if metadata is not None and (path / "config.yaml").is_file():
        _check_whole(folder / "images.csv", metadata, tables, data)
    return RunFiles(
        path=path,
        config=_config(path),
        data=data,
        environment=read_mapping(path / "environment.json"),
        predictions=tables,
        stages=tuple(stages),
        metadata=metadata,
        folds=_frame(folder / "folds.csv"),
        examples=tuple(_examples(folder / "examples.csv")),
        history=tuple(history.read(path)),
        stages_from=origin,
        seconds=_seconds(path),
        ensemble=read_mapping(path / ENSEMBLE),
    )


def _check_whole(file: Path, images: pd.DataFrame, tables: dict[str, Predictions], data: dict[str, Any]) -> None:
    """Raise ``UserError`` if images.csv of a run lost rows, which as a CSV it would not show."""
    sizes = data.get("sizes")
    parts = [part for part in sizes.values() if isinstance(part, dict)] if isinstance(sizes, dict) else []
    expected = sum(part.get("images", 0) for part in parts)
    known = set(images["image"]) if "image" in images else set()
    own = [table for split, table in tables.items() if not split.startswith(EXTERNAL)]
    lost = {str(name) for table in own for name in table.images} - known
    if lost or len(images) < expected:
        few = f"{len(images)} of {max(expected, len(images) + len(lost))} images"
        raise UserError(f"{file} is damaged: it has {few}; put back a copy of it")


def _config(path: Path) -> dict[str, Any]:
    """config.yaml with what `dam evaluate` was told laid over it, node by node."""
    config = read_mapping(path / "config.yaml")
    for key, value in read_mapping(path / EVALUATION).items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict)
        config[key] = {**config[key], **value} if both else value
    return config


def _stages_or_fold(path: Path, labels: tuple[str, ...]) -> tuple[list[Stage], str]:
    """The run's stages, or those of its first fold with that fold's name."""
    stages = _stages(path, labels)
    if stages or not (path / "fold_0").is_dir():
        return stages, ""
    return _stages(path / "fold_0", labels), "fold_0"


def _seconds(path: Path) -> float:
    """Seconds of training in all stages (and folds): the last line of each timing.csv."""
    total = 0.0
    for file in sorted(path.rglob("timing.csv")):
        frame = _frame(file)
        if frame is not None and "seconds" in frame and len(frame):
            total += float(frame["seconds"].iloc[-1])
    return total


def _frame(file: Path) -> pd.DataFrame | None:
    """A CSV table, or None where there is no such file."""
    import pandas as pd

    if not file.is_file():
        return None
    try:
        text = {"image": str, "patient": str, "study": str, "split": str, "fold": str, "label": str, "model": str}
        return pd.read_csv(file, encoding="utf-8", dtype=text, keep_default_na=True, low_memory=False)
    except ValueError as error:
        raise UserError(f"{file} is damaged ({in_a_line(error)}): put back a copy of it") from error


def _examples(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with open(file, encoding="utf-8", newline="") as lines:
        rows = [{str(key): value or "" for key, value in row.items()} for row in csv.DictReader(lines)]
    folder = file.parent / FOLDER  # a name or a link that leads out of it would put any file into the report
    return [row for row in rows if EXAMPLE.fullmatch(row.get("file", "")) and not (folder / row["file"]).is_symlink()]


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


def read_mapping(file: Path) -> dict[str, Any]:
    """A JSON or YAML file as a dict; empty where there is no file."""
    if not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} is damaged ({in_a_line(error)}): put back a copy of it") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it should hold a mapping; put back a copy of it")
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

    facts = read_mapping(folder / "stage.json")
    named = facts.get("labels") or [folder.name]
    label = "" if part == "warm_start" else str(named[0]) if len(named) == 1 else folder.name
    metrics = None
    file = folder / "metrics.csv"
    if file.is_file():
        try:
            metrics = pd.read_csv(file, encoding="utf-8")
        except ValueError as error:  # an empty or cut file
            raise UserError(f"{file} is damaged ({in_a_line(error)}): put back a copy of it") from error
    return Stage(part, label, facts, metrics)
