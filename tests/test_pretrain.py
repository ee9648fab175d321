"""`dam pretrain` at a tiny size: its files, exact resume, what it refuses, and training from what it leaves."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import contents, tiny

from dam.cli import main
from dam.commands.pretrain import WITHOUT
from dam.compose import compose
from dam.config import Config
from dam.errors import UserError
from dam.pretraining import run as pretrain
from dam.pretraining.stage import MocoStage
from dam.report import pretraining as report
from dam.training import run as training
from dam.training.failures import NonFiniteLoss

DRAW = report._draw
WORDS = (
    "data=phantom",
    "data.patients=60",
    "data.phantom_size=48",
    "data.labels=[Cardiomegaly,Edema,Pleural Effusion]",
    "augment=moco_chest",
    "model=timm",
    "model.name=resnet8_cifar",
    "model.weights=null",
    "image_size=32",
    "batch_size=8",
    "device=cpu",
    "workers=1",
    "pretrain.steps=6",
    "pretrain.eval_every=0.5",
    "pretrain.queue=16",
    "pretrain.dim=8",
    "pretrain.bn_groups=2",
    "pretrain.momentum=0.9",
    "pretrain.probe.images=20",
    "checkpoint.every=2",
    "checkpoint.minutes=null",
)


def config(run_dir: Path | str, *more: str) -> Config:
    return compose([*WITHOUT, *WORDS, f"run_dir={run_dir}", *more])


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAM_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setattr(report, "_draw", lambda *arguments: None)  # takes a second a run
        yield


@pytest.fixture(scope="module")
def whole(store: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    result = pretrain.start(config(path), ["dam", "pretrain"])
    assert result.exit_code == 0 and result.run_dir == path and 0 <= result.mean_val_auc <= 1
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images without labels in nested folders, four of them below a folder called test."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(24):
        file = folder / ("test" if i < 4 else f"a/{i % 3}") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(file)
    return folder


# ---------------------------------------------------------------- what it leaves


def test_the_run_directory_is_as_promised(whole: Path) -> None:
    files = ("config.yaml", "environment.json", "data.json", "train.log", "report/table.txt")
    assert [name for name in files if not (whole / name).is_file()] == []
    assert json.loads((whole / "progress.json").read_text())["state"] == "done"
    assert not list(whole.rglob("*.ckpt"))
    metrics = pd.read_csv(whole / "pretrain" / "metrics.csv")
    assert metrics["step"].tolist()[0] == 0 and metrics["step"].tolist()[-1] == 6
    assert math.isnan(metrics["train_loss"][0]) and metrics["probe_auc"].notna().all()
    assert metrics["train_loss"][1:].between(0, 20).all() and metrics["top1"][1:].between(0, 1).all()
    labels = [f"probe_auc/{label}" for label in ("Cardiomegaly", "Edema", "Pleural Effusion")]
    assert metrics[labels].mean(axis=1).round(9).tolist() == metrics["probe_auc"].round(9).tolist()
    facts = json.loads((whole / "pretrain" / "stage.json").read_text())
    assert facts["select"] == "last" and facts["chosen_step"] == 6 and facts["bn_groups"] == 2
    best, last = (load_file(whole / "pretrain" / f"{name}.safetensors") for name in ("best", "last"))
    assert best.keys() == last.keys() and all(torch.equal(best[name], last[name]) for name in best)
    assert not [name for name in best if name.startswith(("linear", "projection", "queue"))]


def test_best_keeps_the_weights_of_the_best_probe(tmp_path: Path) -> None:
    pretrain.start(config(tmp_path / "run", "select=best", "pretrain.optimizer.lr=0.3"), ["dam"])
    metrics = pd.read_csv(tmp_path / "run" / "pretrain" / "metrics.csv")
    facts = json.loads((tmp_path / "run" / "pretrain" / "stage.json").read_text())
    trained = metrics[metrics["step"] > 0]
    assert facts["chosen_step"] == trained["step"][trained["probe_auc"].idxmax()]
    assert facts["probe_auc"] == trained["probe_auc"].max()


def test_dam_runs_and_dam_report_show_it(whole: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "report" / "table.txt").read_text()
    monkeypatch.setattr(report, "_draw", DRAW)
    assert main(["report", str(whole)]) == 0
    assert capsys.readouterr().out.strip() == before.strip() and "probe, AUC" in before
    assert main(["runs", str(whole)]) == 0
    facts = json.loads((whole / "pretrain" / "stage.json").read_text())
    assert f"{facts['probe_auc']:.3f}".lstrip("0") in capsys.readouterr().out
    assert (whole / "report" / "figures" / "pretrain.png").stat().st_size > 10_000


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export", "ensemble", "compare"])
def test_what_predicts_refuses_it_and_says_what_to_do(whole: Path, tmp_path: Path, verb: str, capsys) -> None:
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    words = {"predict": ["x.png", "--out", "x.csv"], "export": ["--format", "safetensors", "--out", "x"],
             "ensemble": [str(other), "--out", "x"], "compare": [str(other)]}.get(verb, [])  # fmt: skip
    assert main([verb, str(whole), *words]) == 2
    told = capsys.readouterr().err
    assert "is a pretraining run" in told and f"model.weights={whole}" in told


# ---------------------------------------------------------------- exact


def test_the_same_config_gives_the_same_run(whole: Path, tmp_path: Path) -> None:
    pretrain.start(config(tmp_path / "again", "workers=3"), ["dam"])
    assert contents(tmp_path / "again") == contents(whole)


@pytest.mark.parametrize("more", [(), ("pretrain.symmetric=true", "model.drop_rate=0.2", "pretrain.optimizer=adam")])
def test_killed_anywhere_and_resumed_is_bit_identical(tmp_path: Path, whole: Path, monkeypatch, more) -> None:
    class Killed(BaseException):
        pass

    if more:
        whole = tmp_path / "whole"
        pretrain.start(config(whole, *more), ["dam"])
    after_step, countdown = MocoStage._after_step, [3]

    def dying(self: MocoStage, images: int) -> None:
        after_step(self, images)
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Killed

    monkeypatch.setattr(MocoStage, "_after_step", dying)
    with pytest.raises(Killed):
        pretrain.start(config(tmp_path / "run", *more), ["dam"])
    state = torch.load(tmp_path / "run" / "pretrain" / "last.ckpt", weights_only=True)
    keys = 16 if more else 8  # symmetric: two keys an image
    assert (
        int(state["moco"]["queue_ptr"]) == 2 * keys % 16
        and "encoder_k.network.model.bn1.running_mean" in state["statistics"]
    )
    countdown[0] = 3
    with contextlib.suppress(Killed):
        pretrain.resume(tmp_path / "run", [], ["dam"])
    countdown[0] = 0
    assert main(["train", f"resume={tmp_path / 'run'}"]) == 0
    assert contents(tmp_path / "run") == contents(whole)


def test_the_queue_is_part_of_what_a_resume_restores(tmp_path: Path, whole: Path, monkeypatch) -> None:
    """With another queue in the checkpoint the end is another: the test above can fail."""
    after_step = MocoStage._after_step

    def dying(self: MocoStage, images: int) -> None:
        after_step(self, images)
        if self.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MocoStage, "_after_step", dying)
        assert pretrain.start(config(tmp_path / "run"), ["dam"]).exit_code == 130
    file = tmp_path / "run" / "pretrain" / "last.ckpt"
    state = torch.load(file, weights_only=True)
    state["moco"]["queue"] = state["moco"]["queue"].flip(1)
    torch.save(state, file)
    pretrain.resume(tmp_path / "run", [], ["dam"])
    name = "pretrain/best.safetensors"
    assert contents(tmp_path / "run")[name] != contents(whole)[name]


# ---------------------------------------------------------------- data


def test_a_plain_folder_without_labels(pictures: Path, tmp_path: Path) -> None:
    words = ("data=folder", f"data.root={pictures}", "augment=moco_colour", "pretrain.queue=8", "batch_size=4")
    compose_words = [word for word in WORDS if not word.startswith(("data", "augment"))]
    cfg = compose([*WITHOUT, *compose_words, *words, f"run_dir={tmp_path / 'run'}"])
    result = pretrain.start(cfg, ["dam"])
    assert result.exit_code == 0 and math.isnan(result.mean_val_auc) and "contrastive loss" in result.table
    metrics = pd.read_csv(tmp_path / "run" / "pretrain" / "metrics.csv")
    assert metrics["probe_auc"].isna().all() and metrics["train_loss"][1:].notna().all()
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert data["sizes"]["train"]["images"] == 20 and data["sizes"]["test"]["images"] == 4 and data["labels"] == []
    assert "no probe" in (tmp_path / "run" / "train.log").read_text()
    assert (tmp_path / "run" / "pretrain" / "best.safetensors").is_file()


def test_rows_without_labels_train_and_the_others_judge(pictures: Path, tmp_path: Path) -> None:
    names = sorted(str(file.relative_to(pictures)) for file in pictures.rglob("*.png"))
    rows = [f"{name},{'' if i % 2 else i % 4 // 2},{'val' if i > 15 else 'train'}" for i, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("image,finding,split\n" + "\n".join(rows) + "\n")
    base = [word for word in WORDS if not word.startswith(("data", "augment"))]
    words = ["data=csv", f"data.csv={tmp_path / 't.csv'}", f"data.root={pictures}", "data.labels=[finding]"]
    more = ["augment=none", "data.test_fraction=0", "pretrain.queue=8", "batch_size=4", f"run_dir={tmp_path / 'r'}"]
    cfg = compose([*WITHOUT, *base, *words, *more])
    pretrain.start(cfg, ["dam"])
    facts = json.loads((tmp_path / "r" / "pretrain" / "stage.json").read_text())
    assert facts["images"] == 16 and facts["probe_images"] == [8, 4]


# ---------------------------------------------------------------- training from it


@pytest.mark.parametrize("model", ["resnet8_cifar", "convnext_atto"])
def test_training_starts_from_every_tensor_of_it(whole: Path, tmp_path: Path, model: str) -> None:
    source = whole
    if model != "resnet8_cifar":
        source = tmp_path / "source"
        pretrain.start(config(source, f"model.name={model}", "pretrain.steps=2"), ["dam"])
        assert json.loads((source / "pretrain" / "stage.json").read_text())["bn_groups"] == 1, "it has no BatchNorm"
    weights = load_file(source / "pretrain" / "best.safetensors")
    words = (f"model.weights={source}", f"model.name={model}", "auc=none", "warm_start.steps=1")
    training.start(tiny(tmp_path / "fine", *words, "warm_start.optimizer.lr=1e-30"), ["dam"])
    trained = load_file(tmp_path / "fine" / "warm_start" / "last.safetensors")
    parameters = [name for name in weights if "running" not in name and "num_batches" not in name]
    assert set(weights) < set(trained) and all(torch.equal(weights[name], trained[name]) for name in parameters)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrain.queue=20"], "pretrain.queue=20 must be a multiple of the 8 keys a step"),
        (
            ["pretrain.queue=8", "pretrain.symmetric=true"],
            "multiple of the 16 keys a step (symmetric: two keys an image)",
        ),
        (["pretrain.bn_groups=3"], "pretrain.bn_groups=3 must divide batch_size=8"),
        (["accumulate=2"], "accumulate=2 is not offered in pretraining"),
        (["pretrain.optimizer=pesg"], "choose sgd, adam or adamw"),
        (["auc=auc_direct"], "pretrain=moco learns no labels and is a run of its own"),
        (["select=accuracy"], "use select=last"),
        (["pretrain.epochs=1"], "exactly one gives the length"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_out(tmp_path: Path, words: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        config(tmp_path / "run", *words)
    assert told in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrain.queue=800"], "must be well below their number: pretrain.queue="),
        (["batch_size=400", "pretrain.queue=400", "pretrain.bn_groups=1"], "is more than the"),
    ],
)
def test_too_few_images_are_told_before_anything_is_made(tmp_path: Path, words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        pretrain.start(config(tmp_path / "run", *words), ["dam"])
    assert not (tmp_path / "run").exists()


def test_each_verb_names_the_other(whole: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "+experiment=moco_chest", "data.root=/x"]) == 2
    assert "dam pretrain +experiment=moco_chest data.root=/x" in capsys.readouterr().err
    assert main(["pretrain", "-m", "seed=1,2"]) == 2
    assert "one run" in capsys.readouterr().err
    assert main(["train", "data=folder", f"data.root={pictures}"]) == 2
    assert "it is for `dam pretrain`" in capsys.readouterr().err
    assert main(["pretrain", f"resume={whole}", "pretrain.steps=9"]) == 2
    assert "model.weights=" in capsys.readouterr().err
    assert main(["pretrain", f"resume={whole}"]) == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert main(["pretrain", "--cfg", "job", "data=phantom"]) == 0
    assert "queue: 4096" in capsys.readouterr().out


def test_a_longer_run_equals_one_that_was_planned_so(tmp_path: Path, monkeypatch) -> None:
    constant = ("pretrain.schedule=constant", "pretrain.eval_every=10")
    pretrain.start(config(tmp_path / "long", *constant), ["dam"])
    after_step = MocoStage._after_step

    def stopping(self: MocoStage, images: int) -> None:
        if self.step == 2:
            self.tools.stop.requested = True
        after_step(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(MocoStage, "_after_step", stopping)
        assert pretrain.start(config(tmp_path / "run", *constant, "pretrain.steps=4"), ["dam"]).exit_code == 130
    pretrain.resume(tmp_path / "run", ["pretrain.steps=6"], ["dam"])
    name = "pretrain/best.safetensors"
    assert contents(tmp_path / "run")[name] == contents(tmp_path / "long")[name]


def test_a_loss_that_is_no_number_names_the_images(tmp_path: Path, monkeypatch) -> None:
    losses = MocoStage.losses

    def broken(self: MocoStage, batch):
        for loss in losses(self, batch):
            yield loss * (math.nan if self.step == 2 else 1)

    monkeypatch.setattr(MocoStage, "losses", broken)
    with pytest.raises(NonFiniteLoss, match=r"step 3; images of that batch: .*jpg"):
        pretrain.start(config(tmp_path / "run"), ["dam"])


def test_dry_run_and_smoke(tmp_path: Path) -> None:
    told = pretrain.start(config(tmp_path / "dry", "dry_run=true"), ["dam"]).table
    assert "6 steps" in told and not (tmp_path / "dry").exists()
    pretrain.start(config(tmp_path / "smoke", "debug=smoke"), ["dam"])
    assert pd.read_csv(tmp_path / "smoke" / "pretrain" / "metrics.csv")["step"].max() == 2


def test_it_learns_to_find_its_own_key(pictures: Path, tmp_path: Path) -> None:
    """Against the same run at a rate that changes nothing."""
    base = [word for word in WORDS if not word.startswith(("data", "augment", "pretrain.steps", "pretrain.eval_every"))]
    words = ["data=folder", f"data.root={pictures}", "augment=moco_chest", "pretrain.queue=16", "pretrain.bn_groups=1"]
    more = ["image_size=16", "pretrain.steps=24", "pretrain.eval_every=3", "pretrain.temperature=0.1"]
    last = {}
    for rate in ("0.1", "1e-12"):
        run = tmp_path / rate
        rates = [f"pretrain.optimizer.lr={rate}", f"run_dir={run}"]
        pretrain.start(compose([*WITHOUT, *base, *words, *more, *rates]), ["dam"])
        last[rate] = pd.read_csv(run / "pretrain" / "metrics.csv").iloc[-1]
    assert last["0.1"]["train_loss"] < last["1e-12"]["train_loss"]
    assert last["0.1"]["top1"] > 0.5 > 0.3 > last["1e-12"]["top1"]  # chance: 1/17
