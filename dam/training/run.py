"""``dam train``: a new run or a resumed one, of one split or of all folds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dam.compose import read_config, to_yaml
from dam.config import Config
from dam.data.table import ImageTable
from dam.files import atomic_write_text
from dam.training import anonymize, crossval, distributed, elastic, outoffold, rundir, single
from dam.training.device import Device
from dam.training.inputs import Inputs
from dam.training.interrupt import terminated_as_interrupted
from dam.training.resume import accept_changes, check_same_data
from dam.training.rundir import RunDirectory
from dam.training.single import RunResult, describe_run

log = logging.getLogger("dam")

__all__ = ["Kind", "RunResult", "resume", "start"]


@dataclass(frozen=True)
class Kind:
    """What a run does by its kind: its checks before anything is made, its plan, its training, and what it says when it
    is resumed at its end. All else is the same for every run."""

    checked: Callable[[Config, RunDirectory | None], tuple[Device, ImageTable]]
    dry_run: Callable[[Config, ImageTable, Device], str]
    train: Callable[[Config, RunDirectory, Inputs, Device, list[str], Path | None], RunResult]
    finished: Callable[[RunDirectory, Config, Config], RunResult]


def _kind(cfg: Config) -> Kind:
    """Training on labels, of one split or of all folds."""
    if cfg.data.fold == "all":
        return Kind(crossval.checked, _dry_run, crossval.train_folds, _finished)
    return Kind(single.checked, _dry_run, single.train, _finished)


def start(
    cfg: Config, command: list[str], shared_warm_starts: Path | None = None, kind: Kind | None = None
) -> RunResult:
    """A new run. ``shared_warm_starts``: a sweep's folder in which jobs leave their warm starts to one another.
    ``kind``: another than training on labels.

    The directory is made after everything that a user's mistake can stop, the image store included. Where torchrun
    has restarted its processes, the run that they had begun goes on.
    """
    if not cfg.dry_run:
        distributed.join()
    earlier = elastic.earlier_run(cfg)
    if earlier is not None:
        return resume(earlier, [], command, shared_warm_starts, kind)
    kind = kind or _kind(cfg)
    cfg = single.with_known_input(single.with_debug(cfg))
    with terminated_as_interrupted():
        with distributed.main_first():  # it alone fetches weights
            if cfg.run_dir is not None and distributed.is_main():  # which may have made it before the others look
                rundir.check_free(Path(cfg.run_dir))
            if not cfg.dry_run:
                anonymize.for_run(cfg)
            device, table = kind.checked(cfg, None)
        if cfg.dry_run:
            return RunResult(Path(), math.nan, kind.dry_run(cfg, table, device))
        inputs = single.inputs_of(cfg, table, device)
        facts = single.data_facts(inputs), describe_run(command, cfg, device)
        launch = elastic.launch()
        run = rundir.create(cfg.run_dir, cfg.name, to_yaml(cfg))
        elastic.remember(cfg, run, launch)
        train = kind.train
        result = single.guarded(cfg, run, facts, lambda: train(cfg, run, inputs, device, command, shared_warm_starts))
    return _together(cfg, result)


def resume(
    run_dir: Path,
    overrides: list[str],
    command: list[str],
    shared_warm_starts: Path | None = None,
    kind: Kind | None = None,
) -> RunResult:
    """Go on with a run as if it had never stopped. ``overrides`` may only move it, change what its report says, or
    lengthen its open part. ``shared_warm_starts``, ``kind``: as of ``start``."""
    distributed.join()
    with distributed.main_first():
        run = rundir.open_run(run_dir)
    try:
        before = read_config(run.config_file)
        run.check_markers()
        cfg = accept_changes(run, before, overrides)
        kind = kind or _kind(cfg)
        if run.finished():
            return _together(cfg, kind.finished(run, before, cfg))
        with terminated_as_interrupted():
            with distributed.main_first():
                anonymize.for_run(cfg, run.path)
                device, table = kind.checked(cfg, run)
            inputs = single.inputs_of(cfg, table, device)
            facts = single.data_facts(inputs), describe_run(command, cfg, device)
            check_same_data(run, facts[0])
            if cfg != before and distributed.is_main():
                atomic_write_text(run.config_file, to_yaml(cfg))
            run.tidy()
            train, changes = kind.train, elastic.what_changes(run)

            def body() -> RunResult:
                if changes:
                    log.warning("%s", changes)
                return train(cfg, run, inputs, device, command, shared_warm_starts)

            result = single.guarded(cfg, run, facts, body)
        return _together(cfg, result)
    finally:
        run.close()


def _together(cfg: Config, result: RunResult) -> RunResult:
    """``result``, when all processes have it; after an interruption each ends by itself."""
    if result.exit_code == 0:
        elastic.forget(cfg, result.run_dir)
        distributed.leave()
    return result


def _dry_run(cfg: Config, table: ImageTable, device: Device) -> str:
    from dam.training.dryrun import dry_run

    return dry_run(cfg, table, device)


def _finished(run: RunDirectory, before: Config, cfg: Config) -> RunResult:
    """What a finished run has to say; only its report is made anew, where ``evaluation`` changed."""
    mean = outoffold.mean_val_auc if cfg.data.fold == "all" else single.mean_val_auc
    if cfg.evaluation == before.evaluation:
        table = (run.path / "report" / "table.txt").read_text(encoding="utf-8")
        return RunResult(run.path, mean(run), single.finished_words(run, table))

    def anew() -> str:
        atomic_write_text(run.config_file, to_yaml(cfg))
        return single.report(run)

    lines = distributed.from_main(anew)
    return RunResult(run.path, mean(run), f"{lines}\nthe report was made anew; nothing was trained")
