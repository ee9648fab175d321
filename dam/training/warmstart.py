"""The warm start of a run: trained here, taken from another run, or shared by the jobs of a sweep."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from dam.compose import from_yaml
from dam.config import Config
from dam.data import fingerprint
from dam.errors import UserError
from dam.files import atomic_path, atomic_write_text
from dam.training.plan import WARM_START, PlannedStage
from dam.training.rundir import DONE, RunDirectory
from dam.training.stage import StageTools

log = logging.getLogger("dam")

_FILES = ("best.safetensors", "last.safetensors", "metrics.csv", "timing.csv", DONE)

Train = Callable[[Config, RunDirectory, PlannedStage, StageTools], None]


def check_source(cfg: Config) -> None:
    """Raise ``UserError`` if ``warm_start.run`` names a run whose warm start does not fit this config."""
    if cfg.warm_start is None or cfg.warm_start.run is None:
        return
    source = Path(cfg.warm_start.run)
    if not (source / "config.yaml").is_file():
        raise UserError(f"warm_start.run={source} is no run directory: it has no config.yaml")
    if not (source / WARM_START / DONE).is_file():
        raise UserError(
            f"warm_start.run={source} has no finished warm start; continue it with `dam train resume={source}`"
        )
    other = from_yaml((source / "config.yaml").read_text(encoding="utf-8"))
    for key, theirs, ours in (
        ("model.name", other.model.name, cfg.model.name),
        ("image_size", other.image_size, cfg.image_size),
    ):
        if theirs != ours:
            raise UserError(f"warm_start.run={source} was trained with {key}={theirs}, this config says {ours}")


def obtain(
    cfg: Config, run: RunDirectory, planned: PlannedStage, tools: StageTools, shared: Path | None, train: Train
) -> None:
    """Leave a finished warm start in ``run``: by copying the one named, by the sweep's, or by training."""
    folder = planned.spec.folder
    if run.stage_done(folder):
        return
    if cfg.warm_start is not None and cfg.warm_start.run is not None:
        _copy(Path(cfg.warm_start.run), folder, planned)
    elif shared is None:
        train(cfg, run, planned, tools)
    else:
        with _turn(shared, _key(cfg, tools)) as record:
            source = Path(record.read_text(encoding="utf-8")) if record.exists() else None
            if source is not None and (source / WARM_START / DONE).exists():
                _copy(source, folder, planned)
            else:
                train(cfg, run, planned, tools)
                atomic_write_text(record, str(run.path.resolve()))


def _copy(source: Path, folder: Path, planned: PlannedStage) -> None:
    facts = json.loads((source / WARM_START / DONE).read_text(encoding="utf-8"))
    if facts["labels"] != list(planned.spec.labels):
        raise UserError(
            f"warm_start.run={source} was trained on the labels {', '.join(facts['labels'])}, "
            f"this run has {', '.join(planned.spec.labels)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES[:-1]:
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(source / WARM_START / name, temporary)
    RunDirectory.mark_done(folder, {**facts, "taken_from": str(source)})
    log.info("warm start: taken from %s (validation AUC %.4f)", source, facts["val_auc"])


def _key(cfg: Config, tools: StageTools) -> str:
    """Equal for two jobs exactly if their warm starts would be bit-identical."""
    keys = ("seed", "batch_size", "accumulate", "image_size", "select", "limit_batches", "debug", "compile")
    content = {
        "settings": {key: getattr(cfg, key) for key in keys},
        "device": str(tools.device),
        "data": fingerprint(tools.inputs.table),
        "parts": [asdict(part) for part in (cfg.augment, cfg.model, cfg.warm_start) if part is not None],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def _turn(folder: Path, key: str) -> Iterator[Path]:
    """Wait for this warm start's lock (it dies with its owner) and give the file that names the run that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{key}.lock", "ab") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        except ImportError:  # Windows: jobs run one after another there
            pass
        yield folder / f"{key}.run"
