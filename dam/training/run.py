"""``dam train``: a new run or a resumed one, of one split or of all folds."""

from __future__ import annotations

import math
from pathlib import Path

from dam.compose import read_config, to_yaml
from dam.config import Config
from dam.files import atomic_write_text
from dam.training import crossval, outoffold, rundir, single
from dam.training.interrupt import terminated_as_interrupted
from dam.training.resume import accept_changes, check_same_data
from dam.training.rundir import RunDirectory
from dam.training.single import RunResult, describe_run

__all__ = ["RunResult", "resume", "start"]


def start(cfg: Config, command: list[str], shared_warm_starts: Path | None = None) -> RunResult:
    """A new run. ``shared_warm_starts``: a sweep's folder in which jobs leave their warm starts to one another.

    The directory is made after everything that a user's mistake can stop, the image store included.
    """
    cfg = single.with_debug(cfg)
    if cfg.run_dir is not None:
        rundir.check_free(Path(cfg.run_dir))
    with terminated_as_interrupted():
        device, table = crossval.checked(cfg) if cfg.data.fold == "all" else single.checked(cfg)
        if cfg.dry_run:
            from dam.training.dryrun import dry_run

            return RunResult(Path(), math.nan, dry_run(cfg, table, device))
        inputs = single.inputs_of(cfg, table, device)
        facts = single.data_facts(inputs), describe_run(command, cfg, device)
        run = rundir.create(cfg.run_dir, cfg.name, to_yaml(cfg))
        train = crossval.train_folds if cfg.data.fold == "all" else single.train
        return single.guarded(cfg, run, facts, lambda: train(cfg, run, inputs, device, command, shared_warm_starts))


def resume(run_dir: Path, overrides: list[str], command: list[str]) -> RunResult:
    """Go on with a run as if it had never stopped. ``overrides`` may only move it, change what its report says, or
    lengthen its open part."""
    run = rundir.open_run(run_dir)
    try:
        before = read_config(run.config_file)
        cfg = accept_changes(run, before, overrides)
        if run.finished():
            return _finished(run, before, cfg)
        with terminated_as_interrupted():
            device, table = crossval.checked(cfg, run) if cfg.data.fold == "all" else single.checked(cfg, run)
            inputs = single.inputs_of(cfg, table, device)
            facts = single.data_facts(inputs), describe_run(command, cfg, device)
            check_same_data(run, facts[0])
            if cfg != before:
                atomic_write_text(run.config_file, to_yaml(cfg))
            run.tidy()
            train = crossval.train_folds if cfg.data.fold == "all" else single.train
            return single.guarded(cfg, run, facts, lambda: train(cfg, run, inputs, device, command, None))
    finally:
        run.close()


def _finished(run: RunDirectory, before: Config, cfg: Config) -> RunResult:
    """What a finished run has to say; only its report is made anew, where ``evaluation`` changed."""
    mean = outoffold.mean_val_auc if cfg.data.fold == "all" else single.mean_val_auc
    if cfg.evaluation == before.evaluation:
        table = (run.path / "report" / "table.txt").read_text(encoding="utf-8")
        return RunResult(run.path, mean(run), single.finished_words(run, table))
    atomic_write_text(run.config_file, to_yaml(cfg))
    return RunResult(run.path, mean(run), f"{single.report(run)}\nthe report was made anew; nothing was trained")
