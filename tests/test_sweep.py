"""``dam train -m``: jobs checked first, one record a job, failures that stop nothing, nothing left in the folder."""

from __future__ import annotations

import csv
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from dam.compose import compose, to_yaml
from dam.config import AUCSquareConfig, Config
from dam.errors import UserError
from dam.schema import ConfigError
from dam.sweep import make_plan, run_sweep


@dataclass
class Result:
    run_dir: Path
    mean_val_auc: float
    table: str = ""
    exit_code: int = 0


def fake_start(cfg: Config, command: list[str], shared_warm_starts: Path | None = None) -> Result:
    """Stands in for training: fails in different ways at some margins, otherwise leaves a config and a report."""
    assert cfg.run_dir is not None and cfg.auc is not None and isinstance(cfg.auc.loss, AUCSquareConfig)
    folder, margin = Path(cfg.run_dir), cfg.auc.loss.margin
    failures: dict[float, BaseException] = {
        0.2: UserError("no positives in validation"),
        0.4: ValueError("boom"),
        0.5: SystemExit(3),
    }
    if margin in failures:
        raise failures[margin]
    (folder / "report").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(cfg))
    (folder / "shared.txt").write_text(str(shared_warm_starts))
    header = "split,label,model,n,n_pos,auc,ci_low,ci_high,interval\n"
    rows = f"val,Edema,auc,9,3,0.1,,,\ntest,mean,auc,9,3,{margin / 2},,,\nval,mean,auc,9,3,{margin / 4},,,\n"
    (folder / "report" / "auc.csv").write_text(header + rows)
    if margin == 0.9:
        return Result(folder, math.nan, exit_code=130)
    return Result(folder, margin / 4)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def the_sweep() -> Path:
    folders = list(Path("outputs/quickstart/sweeps").iterdir())
    assert len(folders) == 1
    return folders[0]


def test_jobs_run_in_order_and_are_told_in_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_sweep(["+experiment=quickstart", "auc.loss.margin=0.3,1.0", "seed=4"], fake_start) == 0
    folder = the_sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]
    with open(folder / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["auc.loss.margin"] for row in rows] == ["0.3", "1.0"]
    assert [row["val/auc"] for row in rows] == ["0.0750", "0.2500"]
    assert [row["test/auc"] for row in rows] == ["0.1500", "0.5000"]
    assert [Path(row["run"]).name for row in rows] == ["0_margin-0.3", "1_margin-1.0"]
    assert "val/auc" in capsys.readouterr().out
    shared = {(Path(row["run"]) / "shared.txt").read_text() for row in rows}
    assert shared == {str(folder.absolute() / "warm_starts")}


def test_a_job_has_the_config_of_the_same_run_alone() -> None:
    words = ["+experiment=quickstart", "auc.optimizer=sgd", "data.uncertain.Edema=zeros"]
    run_sweep([*words, "auc.loss.margin=0.3,1.0"], fake_start)
    run = the_sweep().absolute() / "1_margin-1.0"
    alone = compose([*words, "auc.loss.margin=1.0", f"run_dir={run}"])
    assert (run / "config.yaml").read_text() == to_yaml(alone)


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_a_failing_job_stops_no_other(launcher: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["+experiment=quickstart", "auc.loss.margin=0.2,0.4,0.5,1.0", "run_dir=all=of,them"]
    assert run_sweep([*words, *launcher], fake_start) == 1
    folder = Path("all=of,them")
    records = [json.loads((folder / "jobs" / f"{num}.json").read_text()) for num in range(4)]
    assert [record["state"] for record in records] == ["failed", "failed", "failed", "done"]
    out = capfd.readouterr().out
    assert "job 0 failed: no positives in validation\n" in out
    assert "job 1 failed: ValueError: boom (traceback: " in out
    assert "boom" in (folder / "jobs" / "1.log").read_text()
    assert (folder / "3_margin-1.0" / "config.yaml").is_file()


def test_an_interrupted_job_ends_the_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_sweep(["+experiment=quickstart", "auc.loss.margin=0.3,0.9,1.0"], fake_start) == 130
    out = capsys.readouterr().out
    assert "job 1 interrupted: go on with: dam train resume=" in out
    assert "job 2 not run" in out


def test_every_job_is_checked_before_the_first_starts() -> None:
    with pytest.raises(ConfigError) as caught:
        run_sweep(["auc.loss.margin=0.3,-1", "auc.optimizer=pesg,adamww", "sed=1,2"], fake_start)
    told = "\n".join(fault.text for fault in caught.value.faults)
    assert "auc.loss.margin must be a number > 0, got -1" in told
    assert "auc.optimizer=adamww: there is no optimizer of this name" in told
    assert "sed is not a key; did you mean seed (now 0)?" in told
    assert not Path("outputs").exists()


def test_groups_experiments_and_tables_can_be_swept() -> None:
    plan = make_plan(["auc=auc_margin,auc_square", "experiment=quickstart", "model.lr_scale.layer1=0.1,1"])
    assert plan.jobs == [
        {"auc": name, "model.lr_scale": f"{{layer1:{factor}}}"}
        for name in ("auc_margin", "auc_square")
        for factor in ("0.1", "1")
    ]
    assert run_sweep(["auc=auc_margin,auc_square", "model.lr_scale.layer1=0.1,1", "run_dir=x"], fake_start) == 0
    assert {path.name for path in Path("x").iterdir() if path.is_dir()} == {
        "jobs", "0_auc-auc_margin_lr_scale-layer1-0.1", "1_auc-auc_margin_lr_scale-layer1-1",
        "2_auc-auc_square_lr_scale-layer1-0.1", "3_auc-auc_square_lr_scale-layer1-1",
    }  # fmt: skip


def test_a_sweep_file_is_a_grid_that_typed_values_replace() -> None:
    plan = make_plan(["auc=auc_margin", "+sweep=chexpert_margin", "auc.loss.margin=0.5"])
    assert plan.jobs == [{"auc.optimizer.gamma": g} for g in ("0.0033333333333333335", "0.002", "0.00125")]
    plan = make_plan(["hydra.sweeper.params.auc.loss.margin=0.1,0.2"])
    assert len(plan.jobs) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seed=1"], "-m needs a key with several values"),
        (["seed=interval(0,1)"], "an interval needs hydra/sweeper=optuna"),
        (["seed=1,2", "hydra/launcher=ray"], "hydra/launcher=ray is not one of basic, joblib"),
        (["seed=1,2", "hydra.sweeper._target_=os.system"], "names no Python objects"),
        (["seed=1,2", "hydra.sweeper.custom_search_space=os.system"], "names no Python objects"),
        (["seed=1,2", "hydra.job.chdir=true"], "cannot be set here"),
        (["seed=1,2", "run_dir=a,b", "hydra.run.dir=x"], "cannot be set here"),
        (["seed=1,2", "+sweep=nosuch"], "there is no sweep of this name"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(words)
    assert told in str(caught.value)


def test_a_directory_that_holds_a_sweep_is_not_written_over() -> None:
    words = ["seed=1,2", "run_dir=here"]
    run_sweep(words, fake_start)
    with pytest.raises(UserError, match="already holds a sweep"):
        run_sweep(words, fake_start)


def test_logging_is_left_as_it_was() -> None:
    logger, handlers, level = logging.getLogger("dam"), list(logging.root.handlers), logging.root.level
    run_sweep(["seed=1,2"], fake_start)
    assert not logger.disabled and logging.root.handlers == handlers and logging.root.level == level


def test_a_dry_run_leaves_nothing_and_keeps_no_run_from_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["auc.loss.margin=0.3,0.4", "run_dir=here"]
    assert run_sweep([*words, "dry_run=true", "hydra/launcher=joblib"], planning_start) == 1
    out = capsys.readouterr().out
    assert "plan of margin 0.3" in out and "[2/2] failed: ValueError: boom\n" in out
    assert out.endswith("1 of 2 runs planned, nothing was written; correct the others first\n")
    assert not any(Path().iterdir())
    assert run_sweep(["seed=1,2", "dry_run=true"], planning_start) == 0
    assert "2 of 2 runs planned, nothing was written; leave out dry_run=true to start" in capsys.readouterr().out
    run_sweep(words, fake_start)
    with pytest.raises(UserError, match="already holds a sweep"):
        run_sweep([*words, "dry_run=true"], planning_start)


def planning_start(cfg: Config, command: list[str], shared_warm_starts: Path | None = None) -> Result:
    assert cfg.dry_run and cfg.auc is not None and isinstance(cfg.auc.loss, AUCSquareConfig)
    if cfg.auc.loss.margin == 0.4:
        raise ValueError("boom")
    return Result(Path(), math.nan, f"plan of margin {cfg.auc.loss.margin}")


def test_a_failing_job_says_so_at_once_and_commands_quote_paths(capsys: pytest.CaptureFixture[str]) -> None:
    run_sweep(["auc.loss.margin=0.2,0.9", "run_dir=a b"], fake_start)
    out = capsys.readouterr().out
    assert out.index("[1/2] failed: no positives in validation\n") < out.index("[2/2] auc.loss.margin=0.9")
    assert f"go on with: dam train 'resume={Path('a b').absolute()}/1_margin-0.9'" in out


def test_a_misspelt_axis_is_named_alone() -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(["sweep=foo"])
    assert len(caught.value.faults) == 1 and "there is no sweep of this name" in str(caught.value)
    with pytest.raises(ConfigError, match="give it one value"):
        make_plan(["seed=1,2", "dry_run=true,false"])
