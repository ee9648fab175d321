"""Test-time augmentation: deterministic copies, their exact average, and the forms it is asked for in."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from tiny import tiny

from dam import report
from dam.compose import compose
from dam.data.augment import Augment
from dam.errors import UserError
from dam.evaluation.predictions import read_predictions
from dam.schema import ConfigError
from dam.training import predict, run as run_module, single, tta
from dam.training.inputs import in_order
from dam.training.interrupt import StopRequest
from dam.training.loop import StageTools
from dam.training.module import Network
from dam.training.networks import trained_network
from dam.training.plan import make_plan
from dam.training.rundir import RunDirectory
from dam.training.tracking import Trackers

WORDS = ("auc.labels=[Edema]", "warm_start.steps=2", "auc.steps=2", "tta=3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A run with three copies, its tools, and its AUC network for Edema."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAM_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setattr(report, "build_report", partial(report.build_report, figures=False))
        cfg = tiny(path, *WORDS)
        assert run_module.start(cfg, ["dam"]).exit_code == 0
        device, table = single.checked(cfg)
        inputs = single.inputs_of(cfg, table, device)
        run = RunDirectory(path)
        tools = StageTools(cfg, run, inputs, device, StopRequest(), Trackers([]))
        planned = make_plan(cfg, inputs, run)[-1]
        yield path, tools, trained_network(planned, tools)


def by_hand(tools: StageTools, network: Network, rows: np.ndarray, copy: int) -> np.ndarray:
    """Logits of copy ``copy``: every image augmented by itself, one batch for all."""
    seed = int(np.random.SeedSequence([tools.cfg.seed, zlib.crc32(b"tta")]).generate_state(1)[0])
    augment = Augment(tools.cfg.augment, tools.cfg.image_size, seed)
    stored = tools.inputs.store.take(tools.inputs.store_rows[rows])
    images = np.stack([augment(image, int(row), copy) for image, row in zip(stored, rows, strict=True)])
    network.eval()
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy().astype(np.float64)


def test_the_columns_of_a_run_are_the_average_of_its_single_augmented_passes(trained) -> None:
    path, tools, network = trained
    for split in ("val", "test"):
        rows = tools.inputs.splits[split]
        passes = np.stack([by_hand(tools, network, rows, copy) for copy in range(3)])
        assert np.abs(passes[0] - passes[1]).max() > 1e-4, "copies differ"
        table = read_predictions(path / "predictions" / f"{split}.csv")
        assert set(table.models) >= {"warm_start", "auc", "warm_start_tta", "auc_tta"}
        found = table.scores["auc_tta"][:, table.labels.index("Edema")]
        assert np.allclose(found, logit(expit(passes).mean(axis=0))[:, 0], atol=1e-4)
        assert not np.allclose(found, table.scores["auc"][:, table.labels.index("Edema")], atol=1e-6)


@pytest.mark.parametrize("average", ["score", "logit"])
def test_any_number_of_threads_and_any_batch_give_the_same_average(trained, average: str) -> None:
    _, tools, network = trained
    rows = tools.inputs.splits["val"]
    passes = np.stack([by_hand(tools, network, rows, copy) for copy in range(4)])
    expected = passes.mean(axis=0) if average == "logit" else logit(expit(passes).mean(axis=0))
    for workers in (0, 3):
        loader = tta.copies_of(tools.cfg, replace(tools.inputs, workers=workers), rows)
        found = [tta.averaged(network, loader, len(rows), 16, 4, average) for _ in range(2)]
        assert np.array_equal(*found)
        assert np.allclose(found[0], expected, atol=1e-4)


def test_a_named_pipeline_takes_the_place_of_the_training_one(trained) -> None:
    _, tools, _ = trained
    cfg = compose(["tta=2", "tta.augment=cifar", "image_size=32"])
    assert tta.pipeline(cfg) == compose(["augment=cifar", "image_size=32"]).augment != tta.pipeline(tools.cfg)
    rows = tools.inputs.splits["val"][:4]
    batch = next(tta.copies_of(replace(tools.cfg, tta=cfg.tta), tools.inputs, rows).batches(in_order(4, 4, 1)))
    augment = Augment(tta.pipeline(cfg), tools.cfg.image_size, tta.copies_seed(tools.cfg))
    stored = tools.inputs.store.take(tools.inputs.store_rows[rows])
    expected = [augment(image, int(row), 1) for image, row in zip(stored, rows, strict=True)]
    assert np.array_equal(batch.images.numpy(), np.stack(expected))


def test_the_runs_predictions_are_averaged_as_the_config_says(trained, monkeypatch) -> None:
    _, tools, network = trained
    passes = [np.array([[3.0]]), np.array([[-1.0]])]
    monkeypatch.setattr(tta, "infer", lambda network, loader, count, batch, copy: passes[copy])
    planned = make_plan(tools.cfg, tools.inputs, tools.run)[-1]
    for average, expected in (("logit", 1.0), ("score", logit((expit(3) + expit(-1)) / 2))):
        cfg = replace(tools.cfg, tta=replace(tools.cfg.tta, copies=2, average=average))
        rows = tools.inputs.splits["val"][:1]
        found = predict._with_copies(planned, replace(tools, cfg=cfg), network, rows, "val")
        assert found == pytest.approx(expected)


def test_saturated_scores_stay_finite(monkeypatch) -> None:
    passes = [np.array([[800.0, -800.0, 40.0]]), np.array([[790.0, -805.0, -40.0]])]
    monkeypatch.setattr(tta, "infer", lambda network, loader, count, batch, copy: passes[copy])
    found = tta.averaged(None, None, 1, 1, 2, "score")  # type: ignore[arg-type]
    assert np.isfinite(found).all()
    assert found[0, 2] == pytest.approx(0, abs=1e-9)
    assert found[0, 0] == pytest.approx(790 + np.log(2), abs=1e-3)


@pytest.mark.parametrize("words", [["tta=4"], ["tta.copies=4"], ["tta=none", "tta.copies=4"], ["+tta=4"]])
def test_the_number_of_copies_in_every_form(words: list[str]) -> None:
    cfg = compose(words)
    assert (cfg.tta.copies, cfg.tta.average, cfg.tta.augment) == (4, "score", None)


@pytest.mark.parametrize(
    "word",
    ["tta.augment=dermoscopy", "augment@tta.augment=dermoscopy", "tta/augment=dermoscopy",
     "tta.augment.train=[{name: HorizontalFlip, p: 0.5}]", "tta.augment={train: [{name: HorizontalFlip, p: 0.5}]}"],
)  # fmt: skip
def test_the_pipeline_in_every_form(word: str) -> None:
    for more in ([], ["+experiment=quickstart"], ["augment=none"]):
        cfg = compose([*more, "tta=4", word])
        assert cfg.tta.augment is not None
        assert cfg.tta.augment.train[0]["name"] in ("SquareSymmetry", "HorizontalFlip")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tta=3", "augment=none"], r"tta=3 averages augmented copies, and the pipeline of augment=none is empty"),
        (["tta=3", "tta.augment=none"], r"the pipeline of tta.augment is empty"),
        (["tta.augment=chest"], "tta.augment has no effect without copies: add tta=30"),
        (["tta=many"], "a number of copies works as tta=30"),
        (["tta=3", "tta.augment=dermoscop"], "did you mean dermoscopy"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compose(words)


def test_a_misspelt_transform_of_the_copies_is_named_where_it_stands(tmp_path: Path) -> None:
    word = "tta.augment.train=[{name: HorizontalFlop}]"
    with pytest.raises(UserError, match=r"tta\.augment\.train\[0\]: albumentations has no transform HorizontalFlop"):
        run_module.start(tiny(tmp_path / "run", "tta=2", word), ["dam"])
    assert not (tmp_path / "run").exists()


def test_a_stop_among_the_copies_costs_one_models_copies_and_changes_nothing(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tools, _ = trained
    plan = make_plan(tools.cfg, tools.inputs, tools.run)
    wanted = (path / "predictions" / "test.csv").read_bytes()
    averaged, calls = tta.averaged, []

    def stopped_at_the_third(*arguments: object) -> np.ndarray:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return averaged(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tta, "averaged", stopped_at_the_third)
    (path / "predictions" / "test.csv").unlink()
    with pytest.raises(KeyboardInterrupt):
        predict.write_predictions(plan, tools)
    assert len(list(path.rglob("copies_*.npy"))) == 2
    predict.write_predictions(plan, tools)
    assert len(calls) == 3 + 2 * len(plan) - 2  # two splits a stage, two of them done before
    assert (path / "predictions" / "test.csv").read_bytes() == wanted
    assert not list(path.rglob("copies_*.npy"))
