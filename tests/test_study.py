"""``dam study``: cells run once, a killed study goes on, a failed cell is tried alone, settings are never mixed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dam.cli import main
from dam.commands.completion import complete
from dam.compose import compose
from dam.errors import UserError
from dam.studies import STUDIES
from dam.studies.plan import make_plan
from dam.studies.results import _thresholds
from dam.studies.run import Record, cell_job, run_study
from dam.studies.study import find
from dam.sweep_resume import held
from dam.training import run as training

TINY = (
    "data=phantom",
    "data.patients=60",
    "data.phantom_size=48",
    "data.labels=[Edema]",
    "data.test_fraction=0.3",
    "model=timm",
    "model.name=resnet8_cifar",
    "image_size=32",
    "batch_size=16",
    "device=cpu",
    "workers=1",
    "auc.steps=2",
    "auc.eval_every=0.5",
    "checkpoint.every=1",
    "evaluation.replicates=100",
    "study.folds=2",
)


@pytest.fixture(scope="module", name="starts")
def _starts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Two starts, as the study's keys."""
    import timm
    import torch
    from safetensors.torch import save_file

    import dam.models.resnet_cifar  # noqa: F401 - registers the network

    folder = tmp_path_factory.mktemp("starts")
    for number, name in enumerate(("supervised", "self_supervised")):
        torch.manual_seed(number)
        state = timm.create_model("resnet8_cifar", num_classes=0).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
    return tuple(f"study.{name}={folder / name}.safetensors" for name in ("supervised", "self_supervised"))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAM_STORE", str(tmp_path_factory.getbasetemp() / "store"))
    monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])  # of the cells' own reports
    monkeypatch.setattr("dam.report.style.save", lambda *_: None)
    monkeypatch.setattr("dam.report.html.render", lambda *_: "")


def study(*words: str) -> int:
    return run_study(find("covid_trust"), [*TINY, *words])


def weights_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every cell's weights."""
    files = sorted(folder.glob("*/auc/edema/best.safetensors"))
    return {file.parts[-4]: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


# ---------------------------------------------------------------- the plan


def test_a_start_that_is_not_named_is_asked_for_in_a_sentence(starts: tuple[str, ...]) -> None:
    with pytest.raises(
        UserError, match=r"study\.self_supervised is not set.*dam pretrain.*study\.cells='supervised-\*'"
    ):
        make_plan(find("covid_trust"), [*TINY, starts[0]])
    plan = make_plan(find("covid_trust"), [*TINY, starts[0], "study.cells=supervised-*"])
    assert list(plan.chosen) == [f"supervised-{loss}-fold_{fold}" for loss in ("ce", "auc") for fold in (0, 1)]
    assert len(plan.cells) == 8


def test_the_recipes_are_the_papers() -> None:
    words = ["data.root=/x", "study.self_supervised=timm"]
    chosen = make_plan(find("covid_trust"), words).chosen
    assert len(chosen) == 2 * 2 * 5
    ce, auc = chosen["supervised-ce-fold_3"], chosen["self_supervised-auc-fold_0"]
    assert ce.warm_start is None and ce.control is None and ce.select == auc.select == "accuracy"
    assert (ce.data.folds, ce.data.fold, auc.data.fold) == (5, 3, 0)
    assert ce.auc is not None and auc.auc is not None
    assert (ce.auc.loss.name, ce.auc.optimizer.name, ce.auc.schedule.name) == ("ce", "sgd", "cosine")
    assert (ce.auc.optimizer.lr, ce.auc.optimizer.weight_decay, ce.auc.epochs) == (1e-3, 1e-4, 30)
    assert getattr(ce.auc.optimizer, "momentum", None) == 0.9
    assert (auc.auc.loss.name, auc.auc.optimizer.name, auc.auc.optimizer.lr) == ("auc_margin", "pesg", 0.1)
    step = auc.auc.schedule
    assert (step.name, step.unit, getattr(step, "at", None), getattr(step, "factor", None), auc.auc.epochs) == (
        *("step", "fraction", [0.5], 0.1, 30),
    )
    assert (
        auc.image_size == 224 and auc.model.name == "densenet121" and auc.augment.train[0]["name"] == "HorizontalFlip"
    )


def test_overrides_reach_all_cells_or_some(starts: tuple[str, ...]) -> None:
    words = [*TINY, *starts, "seed=3", "*-ce-*,*-auc-fold_1:auc.optimizer.lr=0.02"]
    chosen = make_plan(find("covid_trust"), words).chosen
    assert {config.seed for config in chosen.values()} == {3}
    rates = {name: config.auc.optimizer.lr for name, config in chosen.items() if config.auc is not None}
    assert rates["supervised-auc-fold_0"] == 0.1
    assert rates["supervised-ce-fold_0"] == rates["supervised-auc-fold_1"] == 0.02


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study.fold=3"], "study.fold is no key of the study covid_trust: did you mean study.folds"),
        (["study.folds=null"], "study.folds=null must be a whole number of 2 or more"),
        (["study.supervised=null"], "study.supervised is not set"),
        (["study.folds=one"], "study.folds=one must be a whole number of 2 or more"),
        (["study.supervised=/absent/run"], "there is no such file or run"),
        (["study.cells="], "study.cells=: no cell is called so"),
        (["dry_run=yes"], "dry_run must be true or false, got yes"),
        (["run_dir=null"], "run_dir must name the folder of the study"),
        (["study.cells=control-*"], "no cell is called so; they are supervised-ce-fold_0"),
        (["nobody-*:seed=1"], "no cell is called so"),
        (["data.fold=1"], "data.fold cannot be set in the study covid_trust: choose folds by their cells"),
        (["model.weights=null"], "say study.supervised=WEIGHTS"),
        (["select=last"], "best validation accuracy"),
        (["warm_start.epochs=1"], "the paper had none"),
        (["auc=ce"], "its cells are cross-entropy and AUC"),
        (["resume=outputs/x"], "start the same command again"),
        (["seed=1,2"], "has several values"),
        (["hydra/launcher=ray"], "is not one of basic, joblib"),
        (["+sweep=folds"], "a study is its own sweep"),
        (["image_size=tall", "batch_size=0"], "batch_size"),
    ],
)
def test_mistakes_are_told_before_anything_starts(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        study("study.supervised=timm", "study.self_supervised=timm", *words)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_start_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "it's a,b=c [1].pt"
    path.write_bytes(b"x")
    words = find("covid_trust").cells({"supervised": str(path), "self_supervised": None, "folds": "2"})[0].words
    config = compose([*words, "data.root=/x"])
    assert config.model.weights == str(path)


def test_all_faults_of_all_cells_come_at_once_and_once() -> None:
    with pytest.raises(UserError) as caught:
        study("study.self_supervised=timm", "auc.loss.margn=1", "image_size=2")
    text = str(caught.value)
    assert text.count("auc.loss.margn") >= 1 and text.count("image_size=2") + text.count("image_size must") <= 2
    assert "image_size" in text


def test_what_only_the_data_can_tell_is_told_before_the_first_cell(starts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cell supervised-ce-fold_0: batch_size=4000 is more than"):
        study(*starts, "batch_size=4000")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_is_left_and_writes_nothing(
    starts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(*starts, "study.cells=*-ce-*", "dry_run=true") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "supervised-ce-fold_0: to run" in lines and lines[-1].startswith("4 of 4 cells to run")
    assert list(tmp_path.iterdir()) == []


def test_help_list_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(STUDIES)
    for name in STUDIES:
        assert main(["study", name, "--help"]) == 0
        text = capsys.readouterr().out
        assert find(name).source in text and "cells:" in text
    assert main(["study"]) == 2
    assert main(["study", "covid_trsut"]) == 2
    assert "did you mean covid_trust" in capsys.readouterr().err
    assert complete("dam study cov") == ["covid_trust"]
    assert complete("dam study covid_trust study.s") == ["study.supervised=", "study.self_supervised="]
    assert "auc.epochs=" in complete("dam study covid_trust auc.ep")


# ---------------------------------------------------------------- running


def test_cells_run_once_failed_ones_alone_again_and_settings_never_mix(
    starts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []
    real = training.start

    def start(cfg, command, **more):  # type: ignore[no-untyped-def]
        started.append(Path(cfg.run_dir).name)
        if broken and started[-1] == "self_supervised-ce-fold_1":
            raise ValueError("boom")
        return real(cfg, command, **more)

    monkeypatch.setattr(training, "start", start)
    words = (*starts, "study.cells=*-ce-*")
    broken = True
    assert study(*words) == 1
    assert "self_supervised-ce-fold_1 failed: ValueError: boom" in capsys.readouterr().err
    assert len(started) == 4
    folder = tmp_path / "outputs" / "studies" / "covid_trust"
    before = weights_of(folder)
    assert sorted(before) == ["self_supervised-ce-fold_0", "supervised-ce-fold_0", "supervised-ce-fold_1"]
    assert "3 of 8 cells of the matrix are finished" in (folder / "report" / "study.md").read_text()

    broken = False
    started.clear()
    assert study(*words) == 0
    assert started == ["self_supervised-ce-fold_1"]
    after = weights_of(folder)
    assert {name: after[name] for name in before} == before and len(after) == 4

    started.clear()
    assert study(*words) == 0  # nothing is left; the report is made again
    assert started == [] and weights_of(folder) == after

    with pytest.raises(UserError, match=r"begun with other settings: auc\.optimizer\.lr is 0\.5 here and 0\.001 there"):
        study(*words, "auc.optimizer.lr=0.5")
    other = starts[0].replace("=", "=").split("=")[1]
    with pytest.raises(UserError, match=r"model\.weights is .*there; set them back, or name another folder"):
        study(starts[0], f"study.self_supervised={other}", "study.cells=self*-ce-*")
    assert study(*words, "workers=0", "device=cpu") == 0  # what only moves a run
    with pytest.raises(UserError, match="holds the study covid_trust"):
        run_study(find("dam_benchmarks"), ["data.root=/x", f"run_dir={folder}"])
    assert weights_of(folder) == after and started == []

    cells = json.loads((folder / "report" / "study.json").read_text())["tables"]["cells"]
    assert [(row["arm"], row["fold"]) for row in cells] == [
        (f"{start}, CE", f"fold {fold}") for start in ("supervised", "self-supervised") for fold in (0, 1)
    ]
    stored = json.loads((folder / "supervised-ce-fold_0" / "auc" / "edema" / "stage.json").read_text())
    assert cells[0]["threshold"] == stored["threshold"]["Edema"] and stored["select"] == "accuracy"


def test_ctrl_c_stops_the_study_not_only_the_cell(
    starts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []

    def start(cfg, command, **more):  # type: ignore[no-untyped-def]
        begun.append(cfg.run_dir)
        return training.RunResult(Path(cfg.run_dir), float("nan"), "", exit_code=130)

    monkeypatch.setattr(training, "start", start)
    assert study(*starts, "study.cells=*-ce-*", "run_dir=s") == 130
    assert begun == [str(tmp_path / "s" / "supervised-ce-fold_0")]
    record = json.loads((tmp_path / "s" / "cells" / "supervised-ce-fold_0.json").read_text())
    assert record["state"] == "interrupted" and not (tmp_path / "s" / "report").exists()
    assert "go on with: dam study covid_trust data=phantom" in capsys.readouterr().err


def test_a_folder_with_other_things_is_left_alone(starts: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="holds other things and no study"):
        study(*starts, "run_dir=mine")


def test_two_processes_never_share_a_study(starts: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    # a worker of a study that was killed: it shares the lock until its cell has ended
    with held(tmp_path / "s"), pytest.raises(UserError, match=r"the study .*/s is still running in another process"):
        study(*starts, "run_dir=s", "study.cells=supervised-ce-fold_0")


def test_a_cell_holds_the_study_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_work(folder: Path, name: str) -> Record:
        with pytest.raises(UserError, match="still running"), held(folder, alone=True, what="study"):
            pass
        return Record(name, "done")

    monkeypatch.setattr("dam.studies.run.run_cell", at_work)
    cell_job(SimpleNamespace(name="one"), str(tmp_path), ("one",))


def test_a_cell_that_lost_its_config_is_kept_and_named(starts: tuple[str, ...], tmp_path: Path) -> None:
    cell = tmp_path / "s" / "supervised-ce-fold_0"
    (cell / "predictions").mkdir(parents=True)
    (cell / "predictions" / "test.csv").write_text("x")
    (tmp_path / "s" / "study.json").write_text('{"study": "covid_trust"}')
    assert study(*starts, "run_dir=s", "study.cells=supervised-ce-fold_0") == 1
    assert (cell / "predictions" / "test.csv").read_text() == "x"
    record = json.loads((tmp_path / "s" / "cells" / "supervised-ce-fold_0.json").read_text())
    assert record["state"] == "failed" and "supervised-ce-fold_0" in record["error"]


@pytest.mark.parametrize("text", ['{"column": ', "[]", '{"column": "ce", "threshold": {"Edema": "x"}}'])
def test_a_damaged_stage_file_is_told_in_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "stage.json").write_text(text)
    with pytest.raises(UserError, match=r"stage\.json is damaged; put back a copy"):
        _thresholds(tmp_path, "ce")


def test_a_killed_study_goes_on_and_ends_as_one_that_was_never_stopped(starts: tuple[str, ...], tmp_path: Path) -> None:
    words = [*TINY, *starts, "study.cells=supervised-auc-fold_0", "auc.steps=6"]
    command = [sys.executable, "-m", "dam", "study", "covid_trust", *words, f"run_dir={tmp_path / 'killed'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cell = tmp_path / "killed" / "supervised-auc-fold_0"
    until = time.monotonic() + 120
    while not (cell / "auc" / "edema" / "last.ckpt").exists() and time.monotonic() < until:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (cell / "report" / "table.txt").exists()
    for folder in ("killed", "whole"):
        assert run_study(find("covid_trust"), [*words, f"run_dir={tmp_path / folder}"]) == 0
    assert (cell / "resumed.json").exists()
    (killed, _), (whole, _) = (*weights_of(tmp_path / "killed").values(), *weights_of(tmp_path / "whole").values())
    assert killed == whole
    for file in ("cells.csv", "auc.csv", "calibration.csv"):
        texts = [(tmp_path / folder / "report" / file).read_text() for folder in ("killed", "whole")]
        assert texts[0] == texts[1]


@pytest.mark.slow
def test_cells_in_parallel_are_those_in_turn(starts: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = (*starts, "study.cells=*-ce-fold_0")
    assert study(*words, "run_dir=turn") == 0
    assert study(*words, "run_dir=both", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") == 0
    turn, both = weights_of(tmp_path / "turn"), weights_of(tmp_path / "both")
    assert {name: content for name, (content, _) in turn.items()} == {n: c for n, (c, _) in both.items()}
    assert (tmp_path / "turn" / "report" / "cells.csv").read_text() == (
        tmp_path / "both" / "report" / "cells.csv"
    ).read_text()
