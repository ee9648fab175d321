"""The warm start of a run: trained here, taken from another run, or shared by the jobs of a sweep."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from dam.compose import read_config, value_at
from dam.config import Config
from dam.data import fingerprint
from dam.data.table import ImageTable
from dam.errors import UserError
from dam.files import atomic_path, atomic_write_text
from dam.report.run_files import read_mapping
from dam.training.loop import StageTools
from dam.training.plan import WARM_START, PlannedStage
from dam.training.rundir import DONE, RunDirectory, fold_folder, resume_command

log = logging.getLogger("dam")

_FILES = ("best.safetensors", "last.safetensors", "metrics.csv", "timing.csv", DONE)

Train = Callable[[PlannedStage, StageTools], None]


def check_source(cfg: Config, table: ImageTable) -> None:
    """Raise ``UserError`` if ``warm_start.run`` names a run whose warm start does not fit this config, or which was
    trained on patients or images that this run validates or tests on (unless ``data.leakage=allow``)."""
    if cfg.warm_start is None or cfg.warm_start.run is None:
        return
    source = Path(cfg.warm_start.run)
    if not (source / "config.yaml").is_file():
        raise UserError(f"warm_start.run={source} is no run directory: it has no config.yaml; "
                        "give the folder that `dam train` printed")  # fmt: skip
    if not (source / WARM_START / DONE).is_file():
        if fold_folder(source, 0).is_dir():
            raise UserError(
                f"warm_start.run={source} holds the runs of all folds: name one of them, such as "
                f"{fold_folder(source, 0)}, or train all folds from it with data.fold=all"
            )
        raise UserError(
            f"warm_start.run={source} has no finished warm start; continue it with `{resume_command(source)}`"
        )
    other = read_config(source / "config.yaml")
    for key in ("model.name", "model.mean", "model.std", "image_size", "data.colour", "data.fit"):
        theirs, ours = value_at(other, key), value_at(cfg, key)
        if theirs != ours:
            raise UserError(f"warm_start.run={source} was trained with {key}={theirs}, this config says {ours}")
    facts = read_mapping(source / WARM_START / DONE)
    if facts.get("labels") != list(table.labels):
        raise UserError(
            f"warm_start.run={source} was trained on the labels {', '.join(facts.get('labels') or ['?'])}, "
            f"this run has {', '.join(table.labels)}"
        )
    if cfg.data.leakage == "refuse":
        _check_overlap(source, table)


def _check_overlap(source: Path, table: ImageTable) -> None:
    seen = pd.read_csv(source / "predictions" / "images.csv", dtype=str, keep_default_na=False)
    seen = seen[seen["split"] == "train"]
    held_out = table.frame[table.frame["split"].isin(("val", "test"))]
    for what in ("patient", "image"):
        shared = (set(held_out[what]) & set(seen[what])) - {""}
        if shared:
            raise UserError(
                f"warm_start.run={source} was trained on {len(shared)} of the {what}s that this run validates or tests "
                f"on (such as {min(shared)}): give both runs the same data.split_seed, or say data.leakage=allow"
            )


def obtain(planned: PlannedStage, tools: StageTools, shared: Path | None, train: Train) -> None:
    """Leave a finished warm start in the run: by copying the one named, by the sweep's, or by training."""
    cfg, run, folder = tools.cfg, tools.run, planned.spec.folder
    if run.stage_done(folder):
        return
    if cfg.warm_start is not None and cfg.warm_start.run is not None:
        _copy(Path(cfg.warm_start.run), folder)
    elif shared is None:
        train(planned, tools)
    else:
        with _turn(shared, _key(tools)) as record:
            source = Path(record.read_text(encoding="utf-8")) if record.exists() else None
            if source is not None and (source / WARM_START / DONE).exists():
                _copy(source, folder)
            else:
                train(planned, tools)
                atomic_write_text(record, str(run.path.resolve()))


def _copy(source: Path, folder: Path) -> None:
    facts = read_mapping(source / WARM_START / DONE)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES[:-1]:
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(source / WARM_START / name, temporary)
    RunDirectory.mark_done(folder, {**facts, "taken_from": str(source)})
    log.info("warm start: taken from %s (validation AUC %.4f)", source, facts["val_auc"])


def _key(tools: StageTools) -> str:
    """Equal for two jobs exactly if their warm starts would be bit-identical."""
    cfg = tools.cfg
    keys = (
        "seed",
        "batch_size",
        "accumulate",
        "image_size",
        "select",
        "limit_batches",
        "debug",
        "compile",
        "deterministic",
    )
    content = {
        "settings": {key: getattr(cfg, key) for key in keys},
        "device": str(tools.device),
        "pixels": tools.inputs.store.path.name,
        "data": fingerprint(tools.inputs.table),
        "parts": [asdict(part) for part in (cfg.augment, cfg.model, cfg.warm_start) if part is not None],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def _turn(folder: Path, key: str) -> Iterator[Path]:
    """Wait for this warm start's lock (it dies with its owner) and give the file that names the run that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{key}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / f"{key}.run"
