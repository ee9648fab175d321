"""The whole run at a tiny size: its files, its legal shapes, exact resume, and what a resume may change."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from tiny import contents, tiny, words

from dam import report
from dam.commands.train import run as train_command
from dam.errors import UserError
from dam.training import run as run_module
from dam.training.loop import NonFiniteLoss
from dam.training.stage import Stage

CONTROL = ("control=ce",)


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory):
    torch.set_num_threads(1)
    before = os.environ.get("DAM_STORE")
    os.environ["DAM_STORE"] = str(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "build_report", partial(report.build_report, figures=False))  # they take seconds a run
        yield
    os.environ.pop("DAM_STORE")
    if before is not None:
        os.environ["DAM_STORE"] = before


@pytest.fixture(scope="module")
def whole(store: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with warm start, three AUC models and the control."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    result = run_module.start(tiny(path, *CONTROL), ["dam", "train"])
    assert result.exit_code == 0 and result.run_dir == path
    return path


def test_the_run_directory_is_as_promised(whole: Path) -> None:
    for name in ("config.yaml", "environment.json", "data.json", "train.log", "progress.json", "report/report.md"):
        assert (whole / name).is_file(), name
    for stage in ("warm_start", "auc/edema", "auc/pleural_effusion", "control/cardiomegaly"):
        assert (whole / stage / "best.safetensors").is_file()
        assert not (whole / stage / "last.ckpt").exists(), "only resume needs it"
        assert "seconds" not in (whole / stage / "metrics.csv").read_text()
    assert json.loads((whole / "progress.json").read_text())["state"] == "done"
    test = pd.read_csv(whole / "predictions" / "test.csv")
    assert list(test.columns) == ["image", "patient", "study", "label", "target", "warm_start", "auc", "ce", "blend"]
    assert test.drop(columns="blend").notna().all().all()  # a label that nobody could calibrate has no blend
    auc = pd.read_csv(whole / "report" / "auc.csv")
    assert ",".join(auc.columns) == "split,label,model,n,n_pos,auc,ci_low,ci_high,interval"
    assert set(auc["model"]) == {"warm_start", "auc", "ce", "blend"} and "mean" in set(auc["label"])
    assert {"label": "mean", "a": "auc", "b": "ce"}.items() <= next(
        row.items()
        for row in json.loads((whole / "report" / "auc.json").read_text())["comparisons"]
        if row["label"] == "mean" and row["b"] == "ce"
    )


def test_the_same_config_gives_the_same_run(whole: Path, tmp_path: Path) -> None:
    run_module.start(tiny(tmp_path / "again", *CONTROL, "workers=3"), ["dam", "train"])
    assert contents(tmp_path / "again") == contents(whole)


RICH = {
    "ema, dropout, steps, momentum, closed form, chosen by validation": [
        *("auc=auc_margin", "auc.schedule=step", "auc.schedule.unit=steps", "auc.schedule.at=[2,4]", "auc.ema=0.9"),
        *("auc.optimizer.momentum=0.5", "auc.loss.init=closed_form", "auc.eval_every=0.2", "select=best"),
        *("model.drop_rate=0.3", "warm_start.ema=0.9", "auc.labels=[Edema]", "auc.clip_norm=1"),
    ],
    "joint head of three labels, PESG in adam mode": [
        *("auc=auc_square", "auc.heads=joint", "auc.sampler=shuffle", "auc.loss.prior=train", "auc.head=keep"),
        *("auc.optimizer.mode=adam", "auc.optimizer.lr=1e-3"),
    ],
    "probe": ["auc.optimizer.lr=probe", "auc.labels=[Edema]"],
}


@pytest.mark.parametrize("name", RICH)
def test_resume_is_exact_with_every_kind_of_state(tmp_path: Path, monkeypatch, name: str) -> None:
    class Killed(BaseException):
        pass

    run_module.start(tiny(tmp_path / "whole", *RICH[name]), ["dam"])
    after_step = Stage._after_step
    countdown = [0]

    def dying(self: Stage, images: int) -> None:
        after_step(self, images)
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Killed

    monkeypatch.setattr(Stage, "_after_step", dying)
    countdown[0] = 5
    with pytest.raises(Killed):
        run_module.start(tiny(tmp_path / "run", *RICH[name]), ["dam"])
    for steps in (4, 7):
        countdown[0] = steps
        with contextlib.suppress(Killed):
            run_module.resume(tmp_path / "run", [], ["dam"])
    countdown[0] = 0
    assert run_module.resume(tmp_path / "run", [], ["dam"]).exit_code == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert not list((tmp_path / "run").rglob("*.ckpt")) and not list((tmp_path / "run").rglob("probe_*"))


@pytest.mark.parametrize(("stage", "step"), [("warm_start", 1), ("warm_start", 5), ("auc/pleural_effusion", 3)])
def test_stopped_anywhere_and_resumed_is_bit_identical(whole: Path, tmp_path: Path, monkeypatch, stage, step) -> None:
    class Killed(BaseException):
        pass

    after_step = Stage._after_step

    def killed(self: Stage, images: int) -> None:
        after_step(self, images)
        if self.spec.name == stage and self.step == step:
            raise Killed

    monkeypatch.setattr(Stage, "_after_step", killed)
    with pytest.raises(Killed):
        run_module.start(tiny(tmp_path / "run", *CONTROL), ["dam", "train"])
    monkeypatch.setattr(Stage, "_after_step", after_step)
    result = run_module.resume(tmp_path / "run", ["workers=2"], ["dam", "train", "resume=..."])
    assert result.exit_code == 0
    assert contents(tmp_path / "run") == contents(whole)


def test_kill_9_in_the_third_disease_is_survived(whole: Path, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
torch.set_num_threads(1)
from tiny import tiny
from dam.training.run import start
from dam.training.stage import Stage
step = Stage._train_step
def dying(self, batch):
    step(self, batch)
    if self.spec.name == "auc/pleural_effusion" and self.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
Stage._train_step = dying
start(tiny({str(tmp_path / "run")!r}, "control=ce"), ["dam", "train"])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == -9
    assert run_module.resume(tmp_path / "run", [], ["dam"]).exit_code == 0
    assert contents(tmp_path / "run") == contents(whole)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ask every stage to stop in this step, as Ctrl-C would."""
    after_step = Stage._after_step

    def stopping(self: Stage, images: int) -> None:
        self.tools.stop.requested = self.step == steps - 1
        after_step(self, images)

    monkeypatch.setattr(Stage, "_after_step", stopping)


def test_asked_to_stop_it_saves_and_names_the_command(tmp_path: Path, monkeypatch) -> None:
    stop_after(monkeypatch, 3)
    result = run_module.start(tiny(tmp_path / "run"), ["dam", "train"])
    assert result.exit_code == 130
    assert f"dam train resume={tmp_path / 'run'}" in result.table
    assert (tmp_path / "run" / "warm_start" / "last.ckpt").exists()
    where = json.loads((tmp_path / "run" / "progress.json").read_text())
    assert (where["state"], where["stage"], where["step"]) == ("interrupted", "warm_start", 3)


def test_a_finished_run_says_so_and_how_to_train_longer(whole: Path) -> None:
    before = contents(whole)
    result = run_module.resume(whole, [], ["dam"])
    assert result.exit_code == 0
    assert "is finished" in result.table and f"warm_start.run={whole}" in result.table
    assert contents(whole) == before


def test_resume_refuses_other_settings_by_name(whole: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size"):
        run_module.resume(whole, ["batch_size=8"], ["dam"])
    with pytest.raises(UserError, match=r"auc\.(steps|epochs) cannot change"):
        run_module.resume(whole, ["auc.steps=12"], ["dam"])


def test_the_control_trains_as_long_from_the_same_warm_start(whole: Path) -> None:
    for disease in ("cardiomegaly", "edema", "pleural_effusion"):
        ours, control = (json.loads((whole / part / disease / "stage.json").read_text()) for part in ("auc", "control"))
        assert ours["steps"] == control["steps"] == 6
        assert (ours["select"], ours["head"], ours["ema"]) == (control["select"], control["head"], control["ema"])


def test_the_second_part_begins_with_the_warm_start(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    more = ("auc.labels=[Edema]", "auc.steps=2", "auc.optimizer.lr=1e-12", "auc.optimizer.weight_decay=0")
    run_module.start(tiny(tmp_path / "run", *more, "auc.head=keep", "warm_start.take=last"), ["dam"])
    warm = load_file(tmp_path / "run" / "warm_start" / "last.safetensors")
    disease = load_file(tmp_path / "run" / "auc" / "edema" / "best.safetensors")
    for name, value in disease.items():
        if "running" in name or "num_batches" in name:
            continue
        expected = warm[name][1:2] if name.startswith("linear") else warm[name]
        assert torch.allclose(value, expected, atol=1e-6), name


def test_validation_chooses_and_test_is_never_looked_at(tmp_path: Path, monkeypatch) -> None:
    """With other test labels and pictures the chosen weights and every number but test's are the same."""
    from dam.training.inputs import Inputs

    run_module.start(tiny(tmp_path / "a", "auc.labels=[Edema]", "select=best"), ["dam"])
    targets = Inputs.targets

    def upside_down(self: Inputs, rows, labels):
        found = targets(self, rows, labels)
        return 1 - found if set(rows) <= set(self.splits["test"]) else found

    monkeypatch.setattr(Inputs, "targets", upside_down)
    run_module.start(tiny(tmp_path / "b", "auc.labels=[Edema]", "select=best"), ["dam"])
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert set(a) - set(b) <= {name for name in a if "examples" in name}
    changed = {name for name in a if a[name] != b.get(name) and "examples" not in name}  # they are test images
    assert changed == {"predictions/test.csv", "report/auc.csv", "report/auc.json"}


def test_a_warm_start_that_saw_this_runs_test_patients_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trained on \d+ of the patients that this run validates"):
        run_module.start(tiny(tmp_path / "run", f"warm_start.run={whole}", "data.split_seed=5"), ["dam"])


def test_resume_goes_on_without_the_source_of_its_warm_start(whole: Path, tmp_path: Path, monkeypatch) -> None:
    import shutil

    source = tmp_path / "source"
    shutil.copytree(whole, source)
    stop_after(monkeypatch, 1)
    words_ = ("auc.labels=[Edema]", f"warm_start.run={source}")
    assert run_module.start(tiny(tmp_path / "run", *words_), ["dam"]).exit_code == 130
    monkeypatch.undo()
    shutil.rmtree(source)
    assert run_module.resume(tmp_path / "run", [], ["dam"]).exit_code == 0


def test_a_failed_resume_leaves_the_config_alone(tmp_path: Path, whole: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    (copy / "progress.json").write_text('{"state": "interrupted"}')
    before = (copy / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="cuda"):
        run_module.resume(copy, ["device=cuda:77"], ["dam"])
    assert (copy / "config.yaml").read_bytes() == before


def test_killed_right_after_its_config_a_run_can_be_resumed(tmp_path: Path, whole: Path) -> None:
    import shutil

    (tmp_path / "run").mkdir()
    shutil.copy(whole / "config.yaml", tmp_path / "run")
    assert run_module.resume(tmp_path / "run", [], ["dam"]).exit_code == 0
    assert contents(tmp_path / "run") == contents(whole)


def test_mistakes_leave_no_directory(tmp_path: Path) -> None:
    for words_, sentence in (
        (("auc.labels=[Edemaa]",), "Edemaa"),
        (("model.name=resnet8_cifra",), "resnet8_cifar"),
        (("model.freeze=[nosuch]",), "matches no parameter"),
        (("batch_size=5000",), "is more than the"),
    ):
        with pytest.raises(UserError, match=sentence):
            run_module.start(tiny(tmp_path / "run", *words_), ["dam"])
    assert not (tmp_path / "run").exists()


def test_resume_refuses_other_data_by_name(whole: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    data = json.loads((copy / "data.json").read_text())
    data["labels_sha256"] = "0" * 64
    (copy / "data.json").write_text(json.dumps(data))
    (copy / "progress.json").write_text('{"state": "interrupted"}')
    with pytest.raises(UserError, match=r"other data.*labels_sha256"):
        run_module.resume(copy, [], ["dam"])


def test_a_longer_warm_start_equals_one_that_was_planned_so(tmp_path: Path, monkeypatch) -> None:
    stop_after(monkeypatch, 3)
    run_module.start(tiny(tmp_path / "run", "auc=none"), ["dam"])
    monkeypatch.undo()
    run_module.resume(tmp_path / "run", ["warm_start.steps=8"], ["dam"])
    run_module.start(tiny(tmp_path / "planned", "auc=none", "warm_start.steps=8"), ["dam"])
    ours, planned = contents(tmp_path / "run"), contents(tmp_path / "planned")
    assert ours["warm_start/best.safetensors"] == planned["warm_start/best.safetensors"]


def test_a_run_into_a_run_is_refused(whole: Path) -> None:
    with pytest.raises(UserError, match="already holds a run"):
        run_module.start(tiny(whole), ["dam"])


@pytest.mark.parametrize(
    ("choices", "columns"),
    [
        (("warm_start=none", "auc.labels=[Edema]"), ["auc"]),
        (("auc=none",), ["warm_start"]),
        (("auc=ce", "auc.labels=[Edema]"), ["warm_start", "ce"]),
        (("auc=auc_square", "auc.heads=joint", "auc.sampler=shuffle", "auc.loss.prior=train"), ["warm_start", "auc"]),
        (
            ("auc.loss.inner=batch", "auc.optimizer=adamw", "auc.head=keep", "auc.ema=0.9", "auc.labels=[Edema]"),
            ["warm_start", "auc"],
        ),
        (
            ("auc=auc_margin", "precision=bf16", "auc.labels=[Edema]", "auc.clip_norm=1", "auc.loss.init=closed_form"),
            ["warm_start", "auc"],
        ),
    ],
)
def test_legal_shapes_of_a_run(tmp_path: Path, choices: tuple[str, ...], columns: list[str]) -> None:
    extra = () if "auc=none" in choices else ("auc.steps=2",)
    start = () if "warm_start=none" in choices else ("warm_start.steps=2",)
    result = run_module.start(tiny(tmp_path / "run", *choices, *extra, *start), ["dam"])
    assert result.exit_code == 0 and 0 <= result.mean_val_auc <= 1
    found = list(pd.read_csv(tmp_path / "run" / "predictions" / "val.csv").columns)[5:]
    # After two steps a model may be worse than chance; such a one is left out of the blend.
    assert [column for column in found if column != "blend"] == columns


def test_warm_start_taken_from_a_run(whole: Path, tmp_path: Path) -> None:
    run_module.start(tiny(tmp_path / "run", f"warm_start.run={whole}", "auc.steps=2"), ["dam"])
    ours = (tmp_path / "run" / "warm_start" / "best.safetensors").read_bytes()
    assert ours == (whole / "warm_start" / "best.safetensors").read_bytes()
    with pytest.raises(UserError, match="image_size"):
        run_module.start(tiny(tmp_path / "other", f"warm_start.run={whole}", "image_size=48"), ["dam"])
    with pytest.raises(UserError, match="no run directory"):
        run_module.start(tiny(tmp_path / "other", f"warm_start.run={tmp_path}"), ["dam"])
    assert not (tmp_path / "other").exists()


def test_lr_probe_tries_three_and_says_what_it_saw(tmp_path: Path) -> None:
    words_ = ("auc=auc_margin", "auc.optimizer.lr=probe", "auc.labels=[Edema]", "warm_start.steps=2")
    run_module.start(tiny(tmp_path / "run", *words_), ["dam"])
    seen = json.loads((tmp_path / "run" / "auc" / "edema" / "probe.json").read_text())
    assert len(seen["val_auc"]) == 3 and seen["lr"] in (0.1, 0.03, 0.01)
    assert seen["val_auc"][f"{seen['lr']:g}"] == max(seen["val_auc"].values())
    assert "validation AUC after" in (tmp_path / "run" / "train.log").read_text()


def test_accumulation_equals_the_large_batch(tmp_path: Path) -> None:
    """With a network without BatchNorm; the direct form cannot be split and is refused elsewhere."""
    weights = []
    for parts in (1, 4):
        path = tmp_path / str(parts)
        more = ("auc=auc_margin", "model.name=convnext_atto", "auc.labels=[Edema]", "warm_start.steps=2", "auc.steps=4")
        run_module.start(tiny(path, *more, f"accumulate={parts}", "augment=none"), ["dam"])
        from safetensors.torch import load_file

        weights.append(load_file(path / "auc" / "edema" / "best.safetensors"))
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], rtol=1e-4, atol=1e-5), name


def test_frozen_batchnorm_keeps_its_statistics_also_after_an_evaluation(tmp_path: Path) -> None:
    choices = ("auc=none", "warm_start.steps=4", "warm_start.eval_every=0.2", "model.freeze=[bn1]")
    assert run_module.start(tiny(tmp_path / "run", *choices), ["dam"]).exit_code == 0
    last = load_file(tmp_path / "run" / "warm_start" / "last.safetensors")
    assert not last["bn1.running_mean"].any()
    assert last["layer1.0.bn2.running_mean"].all()


def test_non_finite_loss_names_stage_step_and_images(tmp_path: Path, monkeypatch) -> None:
    from dam.training.module import TrainingModule

    forward = TrainingModule.forward
    monkeypatch.setattr(
        TrainingModule, "forward", lambda self, *a: (forward(self, *a)[0] * float("nan"), torch.zeros(16, 3))
    )
    with pytest.raises(NonFiniteLoss, match=r"warm start: the loss became nan at step 1; images .*view1_frontal.jpg"):
        run_module.start(tiny(tmp_path / "run", "auc=none"), ["dam"])
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["state"] == "failed"


def test_dry_run_says_what_it_would_do_and_writes_nothing(tmp_path: Path) -> None:
    result = run_module.start(tiny(tmp_path / "run", "dry_run=true", *CONTROL), ["dam"])
    for words_ in (
        "warm_start: ce with adam, 6 steps",
        "auc/edema: auc_margin with adamw, 6 steps",
        "image store",
        "MB",
    ):
        assert words_ in result.table
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("debug", ["smoke", "overfit", "profile"])
def test_debug_modes(tmp_path: Path, debug: str) -> None:
    run_module.start(tiny(tmp_path / "run", f"debug={debug}", "auc=none", "warm_start.optimizer.lr=1e-2"), ["dam"])
    steps = json.loads((tmp_path / "run" / "warm_start" / "stage.json").read_text())["steps"]
    assert steps == {"smoke": 2, "overfit": 200, "profile": 6}[debug]
    if debug == "overfit":
        last = pd.read_csv(tmp_path / "run" / "warm_start" / "metrics.csv").iloc[-1]
        assert last["train_loss"] < 0.1 and last["val_auc"] == 1
    assert (tmp_path / "run" / "warm_start" / "profile.txt").exists() == (debug == "profile")


def test_tensorboard_beside_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run_module.start(tiny(tmp_path / "run", "auc=none", "tracking.tensorboard=true"), ["dam"])
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_sweep_shares_one_warm_start_and_survives_a_failing_job(tmp_path: Path, capsys) -> None:
    sweep = tmp_path / "sweep"
    code = train_command(["-m", *words(sweep, "auc.labels=[Edema]", "auc.steps=2", "auc.loss.margin=0.3,1.0")])
    assert code == 0
    jobs = sorted(path.parent for path in sweep.glob("*/config.yaml"))
    assert len(jobs) == 2
    facts = [json.loads((job / "warm_start" / "stage.json").read_text()) for job in jobs]
    assert sum("taken_from" in fact for fact in facts) == 1
    alone = tmp_path / "alone"
    run_module.start(tiny(alone, "auc.labels=[Edema]", "auc.steps=2", "auc.loss.margin=1.0"), ["dam"])
    assert contents(jobs[1]) == contents(alone), "a job equals the same run alone"
    assert "margin" in capsys.readouterr().out
