"""``data.fold=all``: every fold a complete run directory ``fold_<k>`` within one outer run, joined at the end.

The image store is opened once. An outer run is resumed by going on with the first fold that is not finished.
"""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path

from dam.compose import to_yaml
from dam.config import Config
from dam.data import load_table
from dam.data.table import ImageTable
from dam.files import atomic_write_text
from dam.training import distributed, outoffold, rundir, single
from dam.training.device import Device
from dam.training.inputs import Inputs
from dam.training.interrupt import Interrupted
from dam.training.predict import write_images
from dam.training.resume import check_same_data
from dam.training.rundir import RunDirectory, fold_folder
from dam.training.single import RunResult

log = logging.getLogger("dam")


def fold_config(cfg: Config, fold: int, outer: Path | None = None) -> Config:
    """The config of one fold's own run, within ``outer``. A warm start taken from an outer run is its fold's."""
    mine = replace(cfg, data=replace(cfg.data, fold=fold), run_dir=str(fold_folder(outer, fold)) if outer else None)
    if cfg.warm_start is not None and cfg.warm_start.run is not None:
        theirs = fold_folder(Path(cfg.warm_start.run), fold)
        if theirs.is_dir():
            mine = replace(mine, warm_start=replace(cfg.warm_start, run=str(theirs)))
    return mine


def checked(cfg: Config, run: RunDirectory | None = None) -> tuple[Device, ImageTable]:
    """The checks of ``single.checked`` for every fold; the table of all folds together (metadata ``fold``)."""
    device = single.check_setup(cfg)
    for fold in range(_folds(cfg)):
        inner = RunDirectory(fold_folder(run.path, fold)) if run is not None else None
        if inner is None or not inner.finished():
            single.check_data(fold_config(cfg, fold), inner)
    return device, load_table(cfg.data)


def train_folds(
    cfg: Config, run: RunDirectory, inputs: Inputs, device: Device, command: list[str], shared: Path | None
) -> RunResult:
    """Every fold that is not finished, then what they have in common."""
    log.info("run directory: %s, %d folds", run.path, _folds(cfg))
    write_images(run, inputs)
    for fold in range(_folds(cfg)):
        run.progress("running", stage=f"fold_{fold}", number=fold + 1, of=_folds(cfg))
        if _train_fold(fold_config(cfg, fold, run.path), run, inputs, device, command, shared).exit_code:
            raise Interrupted
    run.progress("running", stage="predictions")

    def conclude() -> str:
        outoffold.join(run, _folds(cfg), inputs.table)
        return single.concluded(run, inputs)

    lines = distributed.from_main(conclude)
    return RunResult(run.path, outoffold.mean_val_auc(run), f"\n{lines}")


def _train_fold(
    cfg: Config, outer: RunDirectory, everything: Inputs, device: Device, command: list[str], shared: Path | None
) -> RunResult:
    folder = Path(str(cfg.run_dir))
    new = distributed.from_main(lambda: _is_new(folder))
    run = rundir.create(str(folder), cfg.name, to_yaml(cfg)) if new else rundir.open_run(folder)
    try:
        if run.finished():
            return RunResult(run.path, math.nan, "")
        log.info("fold %s of %s", cfg.data.fold, cfg.data.folds)
        inputs = single.inputs_of(cfg, load_table(cfg.data), device, everything.store)
        facts = single.data_facts(inputs), single.describe_run(command, cfg, device)
        check_same_data(run, facts[0])
        if not new and distributed.is_main():
            atomic_write_text(run.config_file, to_yaml(cfg))  # as the outer run was resumed
            run.tidy()
        return single.guarded(
            cfg, run, facts, lambda: single.train(cfg, run, inputs, device, command, shared), quiet=True
        )
    finally:
        run.close()


def _is_new(folder: Path) -> bool:
    """Whether the fold has no run yet; what a kill left of making one is removed."""
    new = not (folder / "config.yaml").exists()
    if new and folder.exists():
        shutil.rmtree(folder)
    return new


def _folds(cfg: Config) -> int:
    return cfg.data.folds or 0
