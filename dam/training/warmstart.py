"""The warm start of a run: trained here, taken from another run, or shared by the jobs of a sweep."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
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
from dam.files import atomic_path, atomic_write_text, locked
from dam.report.run_files import is_pretraining, read_mapping
from dam.training import anonymize
from dam.training.distributed import from_main, is_main
from dam.training.interrupt import Interrupted, StopRequest
from dam.training.loop import StageTools
from dam.training.plan import WARM_START, PlannedStage
from dam.training.rundir import DONE, RunDirectory, fold_folder, resume_command

log = logging.getLogger("dam")

_LOOK_EVERY = 0.2  # seconds
# What has no part in a warm start; of the data, what matters is in their fingerprint.
_NOT_ITS = ("name", "run_dir", "workers", "dry_run", "device", "checkpoint", "tracking", "data",
            "auc", "control", "metadata", "tta", "evaluation", "report")  # fmt: skip
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
        if is_pretraining(source):
            raise UserError(f"warm_start.run={source} is a pretraining run: start from its network with "
                            f"model.weights={source} instead")  # fmt: skip
        raise UserError(
            f"warm_start.run={source} has no finished warm start; continue it with `{resume_command(source)}`"
        )
    other = read_config(source / "config.yaml")
    for key in (
        "model.name",
        "model.mean",
        "model.std",
        "model.normalization",
        "image_size",
        "data.colour",
        "data.fit",
    ):
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
    theirs = anonymize.of_run(source)
    for what in ("patient", "image"):
        names = held_out[what].drop_duplicates()
        called = names if theirs is None else pd.Series(theirs.names(names), names.index)
        shared = set(names[called.isin(seen[what])]) - {""}
        if shared:
            raise UserError(
                f"warm_start.run={source} was trained on {len(shared)} of the {what}s that this run validates or tests "
                f"on (such as {min(shared)}): give both runs the same data.split_seed, or say data.leakage=allow"
            )


def obtain(planned: PlannedStage, tools: StageTools, shared: Path | None, train: Train) -> None:
    """Leave a finished warm start in the run: by copying the one named, by the sweep's, or by training."""
    cfg, run, folder = tools.cfg, tools.run, planned.spec.folder
    if from_main(lambda: run.stage_done(folder)):
        return
    if cfg.warm_start is not None and cfg.warm_start.run is not None:
        _copy(Path(cfg.warm_start.run), folder)
    elif shared is None:
        train(planned, tools)
    else:
        with _turn(shared, _key(tools), tools.stop) as record:
            source = Path(record.read_text(encoding="utf-8")) if record.exists() else None
            if source is not None and _is_ours(source, shared) and (source / WARM_START / DONE).exists():
                _copy(source, folder)
            else:
                train(planned, tools)
                atomic_write_text(record, str(run.path.resolve()))


def _is_ours(source: Path, shared: Path) -> bool:
    """Whether it is a run of the same sweep: a record that leads elsewhere was not written by one."""
    return source.resolve().is_relative_to(shared.parent.resolve())


def _copy(source: Path, folder: Path) -> None:
    facts = read_mapping(source / WARM_START / DONE)
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES[:-1]:
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(source / WARM_START / name, temporary)
    RunDirectory.mark_done(folder, {**facts, "taken_from": str(source)})
    log.info("warm start: taken from %s (validation AUC %.4f)", source, facts["val_auc"])


def _key(tools: StageTools) -> str:
    """Equal for two jobs only if their warm starts would be bit-identical."""
    facts = fingerprint(tools.inputs.table)
    content = {
        "settings": {key: value for key, value in asdict(tools.cfg).items() if key not in _NOT_ITS},
        "device": str(tools.device),
        "pixels": tools.inputs.store.path.name,
        "data": [
            facts[key] for key in ("dataset", "labels", "images_sha256", "labels_sha256")
        ],  # no notes: they differ
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def _turn(folder: Path, key: str, stop: StopRequest) -> Iterator[Path]:
    """Wait for this warm start's lock (it dies with its owner) and give the file that names the run that has it.

    Raises ``Interrupted`` if the run is asked to stop meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{key}.lock", "ab") as lock:
        waited = False
        while not locked(lock, folder):
            if not waited:
                log.info("waits for the warm start that another job trains; should that job die, this one trains it")
            waited = True
            if stop.requested:
                raise Interrupted
            time.sleep(_LOOK_EVERY)
        yield folder / f"{key}.run"
