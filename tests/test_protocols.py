"""What the papers' protocols need of schedules, objectives and sweeps can be said, and does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny

from dam.compose import compose
from dam.errors import UserError
from dam.objectives import make_schedule
from dam.sweep import make_plan
from dam.training.run import start


def test_the_melanoma_warm_start_cycles_between_its_two_rates_in_eight_epochs() -> None:
    cfg = compose(["warm_start.schedule=cyclic", "warm_start.optimizer.lr=2.4e-4", "warm_start.epochs=16"]).warm_start
    assert cfg is not None and isinstance(cfg.optimizer.lr, float)
    schedule = make_schedule(cfg.schedule, total_steps=1600, steps_per_epoch=100)
    rates = [cfg.optimizer.lr * schedule.factor(step) for step in range(1600)]
    assert min(rates) == pytest.approx(3e-5) and max(rates) == pytest.approx(2.4e-4)
    assert rates[:800] == rates[800:] and rates[0] == min(rates) and rates[400] == max(rates)


def test_the_melanoma_rate_halves_every_ten_epochs_and_chexperts_drops_at_iterations() -> None:
    words = ["auc=auc_margin", "auc.schedule=step", "auc.optimizer.lr=0.01"]
    cfg = compose([*words, "auc.schedule.unit=epochs", "auc.schedule.at=[10,20,30]", "auc.schedule.factor=0.5"]).auc
    assert cfg is not None
    schedule = make_schedule(cfg.schedule, 3500, 100)
    assert [schedule.factor(s) for s in (0, 999, 1000, 2000, 3000, 3499)] == [1, 1, 0.5, 0.25, 0.125, 0.125]
    cfg = compose([*words, "auc.schedule.unit=steps", "auc.schedule.at=[2000,8000]", "auc.schedule.factor=0.3333"]).auc
    assert cfg is not None
    schedule = make_schedule(cfg.schedule, 12_000, 5970)
    assert [schedule.is_drop(s) for s in (1999, 2000, 8000)] == [False, True, True]


@pytest.mark.parametrize(
    "words",
    [
        ["auc=none"],  # CE only
        ["warm_start=none", "auc=ce"],  # CE from scratch
        ["warm_start=none", "auc=auc_margin", "auc.loss.score=bsn"],  # AUC-M from scratch, as on the benchmarks
        ["warm_start=none", "auc=auc_square", "auc.loss.score=bsn"],  # AUC-S
        ["warm_start=focal", "auc=focal", "auc.loss.alpha=0.25", "auc.loss.gamma=5"],
        ["warm_start.take=last", "auc=auc_margin", "auc.head=redraw"],
        ["select=accuracy", "data.folds=5", "data.fold=all"],  # the COVID study
        ["data.folds=5", "data.fold=all", "tta=30", "metadata=mlp", "control=ce", "warm_start.schedule=cyclic"],
    ],
)
def test_the_shapes_of_the_papers_runs(words: list[str]) -> None:
    compose(words)


def test_the_papers_grids() -> None:
    for name, runs, more in (("focal", 9, ["auc=focal"]), ("folds", 5, []), ("chexpert_five", 5, [])):
        plan = make_plan([*more, f"+sweep={name}", "dry_run=true"])
        assert len(plan.jobs) == runs
    assert [job["data.fold"] for job in make_plan(["+sweep=folds", "dry_run=true"]).jobs] == list("01234")
    jobs = make_plan(["+experiment=chexpert_densenet121", "data.root=/x", "+sweep=chexpert_five", "dry_run=true"]).jobs
    assert [job["model"] for job in jobs] == [
        *("densenet121", "densenet161", "densenet169", "densenet201", "inception_resnet_v2")
    ]
    swept = make_plan(["-m", "tta=0,30", "data.folds=5", "data.fold=0,all", "dry_run=true"][1:])
    assert len(swept.jobs) == 4 and {job["tta.copies"] for job in swept.jobs} == {"0", "30"}


def test_what_only_the_report_needs_is_checked_before_training(tmp_path: Path) -> None:
    def said(*words: str) -> str:
        with pytest.raises(UserError) as caught:
            start(tiny(tmp_path / "run", *words), [])
        return str(caught.value)

    assert "there is no" in said(f"evaluation.readers={tmp_path / 'absent.csv'}")
    assert "evaluation.subgroups names colour" in said("evaluation.subgroups=[colour]")
    with pytest.raises(UserError, match="cannot shift the prior"):
        tiny(tmp_path / "run", "evaluation.calibration=temperature")
    assert not (tmp_path / "run").exists()
