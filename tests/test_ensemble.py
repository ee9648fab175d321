"""Ensembles: how scores are mixed, which runs may be, and that the directory answers as a run does."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import expit, logit
from scipy.stats import rankdata
from tiny import words

from dam.cli import main
from dam.commands.completion import complete
from dam.errors import UserError
from dam.evaluation.auc import roc_auc
from dam.evaluation.calibration import fit_platt
from dam.evaluation.ensemble import LabelMixture, Mixture, fit_mixture, rank_among
from dam.evaluation.predictions import Predictions, make_predictions, read_predictions

# ---------------------------------------------------------------- mixing


def table(count: int = 80, models: int = 3, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, 2)) < 0.3).astype(float)
    scores = {f"m{i}": (3 - i) * 0.5 * targets + rng.normal(0, 1, (count, 2)) for i in range(models)}
    return make_predictions([f"i{n}" for n in range(count)], ("A", "B"), targets, scores)


def test_the_mean_of_logits_is_that_of_platts_logits() -> None:
    val = table()
    found, notes = fit_mixture(val)
    assert not notes
    new = {model: np.array([0.3, -2.0]) for model in val.models}
    fits = [fit_platt(val.targets[:, 1], val.scores[model][:, 1]) for model in val.models]
    expected = np.mean([fit.slope * np.array([0.3, -2.0]) + fit.intercept for fit in fits], axis=0)
    np.testing.assert_allclose(found.apply("B", new), expected, rtol=1e-12)


def test_the_mean_of_ranks_works_on_one_image() -> None:
    reference = np.array([3.0, 1.0, 1.0, 7.0, 5.0])
    np.testing.assert_allclose(rank_among(reference, reference), rankdata(reference) / 6)
    np.testing.assert_allclose(rank_among(np.array([-9.0, 4.0, 99.0]), reference), [1.5 / 6, 3.5 / 6, 5 / 6])
    val = table()
    found, _ = fit_mixture(val, "ranks")
    one = {model: values[:1, 0] for model, values in val.scores.items()}
    mean = np.mean([rankdata(values[:, 0])[0] / 81 for values in val.scores.values()])
    np.testing.assert_allclose(expit(found.apply("A", one)), [mean], rtol=1e-12)


def test_the_mean_of_sigmoids_is_kept_as_a_logit_that_never_saturates() -> None:
    found = Mixture("scores", {"A": LabelMixture({"m": 0.25, "n": 0.75})})
    scores = {"m": np.array([0.5, -800.0, 900.0]), "n": np.array([-1.0, -700.0, 800.0])}
    values = found.apply("A", scores)
    assert values[0] == pytest.approx(logit(0.25 * expit(0.5) + 0.75 * expit(-1.0)), rel=1e-12)
    np.testing.assert_allclose(values[1:], [-700 + np.log(0.75), 800 - np.log(0.75)], atol=1e-6)


@pytest.mark.parametrize("mean", ["logits", "ranks", "scores"])
def test_greedy_is_never_below_the_best_model_and_finds_what_a_search_finds(mean: str) -> None:
    val = table(models=3, seed=4)
    found, _ = fit_mixture(val, mean, "greedy")
    again, _ = fit_mixture(val, mean, "greedy")
    equal, _ = fit_mixture(val, mean)
    assert found.as_dict() == again.as_dict()
    for k, label in enumerate(val.labels):
        targets = val.targets[:, k]
        scores = {model: values[:, k] for model, values in val.scores.items()}

        def auc(
            weights: dict[str, float],
            label: str = label,
            targets: np.ndarray = targets,
            scores: dict[str, np.ndarray] = scores,
        ) -> float:
            one = replace(equal.labels[label], weights=weights)
            return roc_auc(targets, replace(equal, labels={label: one}).apply(label, scores))

        chosen = auc(found.labels[label].weights)
        assert sum(found.labels[label].weights.values()) == pytest.approx(1)
        singles = [auc({model: 1.0}) for model in val.models]
        assert chosen >= max(singles) - 1e-12
        pairs = [auc({a: 0.5, b: 0.5}) for a, b in itertools.combinations(val.models, 2)
                 if np.argmax(singles) in (val.models.index(a), val.models.index(b))]  # fmt: skip
        assert chosen >= max(pairs) - 1e-12


def test_models_that_cannot_serve_a_label_are_left_out_and_named() -> None:
    val = table()
    scores = dict(val.scores)
    scores["m0"] = np.stack([-5 * val.targets[:, 0] + scores["m0"][:, 0], np.full(80, np.nan)], axis=1)
    only = replace(val, scores=scores)
    found, notes = fit_mixture(only)
    assert set(found.labels["A"].weights) == set(found.labels["B"].weights) == {"m1", "m2"}
    assert "A: m0 is left out (its calibration slope" in notes[0]
    assert notes[1] == "B: m0 is left out (it has no scores for it)"
    one_class = replace(val, targets=np.stack([val.targets[:, 0], np.zeros(80)], axis=1))
    found, notes = fit_mixture(one_class)
    assert "B" not in found.labels
    assert notes[-1] == "B: not served by the ensemble, since every member is left out"
    columns = found.combine(val.labels, val.scores)
    assert list(columns) == ["ensemble", "m0", "m1", "m2"]
    assert np.isnan(columns["ensemble"][:, 1]).all()
    assert not np.isnan(columns["ensemble"][:, 0]).any()
    _, notes = fit_mixture(one_class, "scores", "greedy")
    assert notes == ["B: equal weights, because validation has no positive case"] or "equal weights" in notes[0]


def test_a_mixture_survives_its_file_and_a_damaged_one_is_refused() -> None:
    val = table()
    for mean in ("logits", "ranks", "scores"):
        found, _ = fit_mixture(val, mean, "greedy")
        stored = json.loads(json.dumps(found.as_dict()))
        again = Mixture.from_dict(mean, stored, val)
        for label in val.labels:
            scores = {model: values[:, val.labels.index(label)] for model, values in val.scores.items()}
            assert np.array_equal(found.apply(label, scores), again.apply(label, scores))
    stored = fit_mixture(val)[0].as_dict()
    for wrong in ({}, [1], {"A": 3}, {"A": {"weights": {"m0": "x"}}}, {"A": {"weights": {"m0": 1.0}}}):
        with pytest.raises(ValueError):
            Mixture.from_dict("logits", wrong, val)
    with pytest.raises(ValueError):
        Mixture.from_dict("ranks", stored, None)


# ---------------------------------------------------------------- directories


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dam.report.plots.draw_all", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a and b take images of 32 pixels, c of 40."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (("a", ()), ("b", ("seed=1", "control=ce")), ("c", ("seed=2", "image_size=40"))):
        assert main(["train", *words(folder / name, "warm_start.steps=2", "auc.steps=2", *more)]) == 0
    return folder


def made(runs: Path, tmp_path: Path, *more: str, names: str = "ab") -> Path:
    given = [str(runs / name) for name in names]
    assert main(["ensemble", *given, "--out", str(tmp_path / "both"), "--mean", "scores", *more]) == 0
    return tmp_path / "both"


def test_the_directory_is_judged_like_a_run(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = made(runs, tmp_path)
    said = capsys.readouterr().out
    test, val = (read_predictions(both / "predictions" / f"{split}.csv") for split in ("test", "val"))
    assert test.models[0] == val.models[0] == "ensemble"
    best = test.models[1]
    assert set(test.models[1:]) == {"auc@resnet8_cifar-seed0", "auc@resnet8_cifar-seed1"}
    stored = json.loads((both / "ensemble.json").read_text())
    aucs = [member["val_auc"] for member in stored["members"]]
    assert aucs == sorted(aucs, reverse=True)
    mean = logit(np.mean([expit(test.scores[m]) for m in test.models[1:]], axis=0))
    np.testing.assert_allclose(test.scores["ensemble"], mean, rtol=1e-9)
    report = json.loads((both / "report" / "report.json").read_text())
    assert (report["verdict"]["a"], report["verdict"]["b"]) == ("ensemble", best)
    assert f"verdict: ensemble against {best}" in said
    page = (both / "report" / "report.html").read_text()
    assert "Weights by label" in page
    assert "Nothing was trained here" in page
    assert "dam train resume=" not in page
    assert "Edema" in json.loads((both / "predictions" / "calibration.json").read_text())["ensemble"]
    # the other commands
    assert main(["report", str(both), "--no-figures"]) == 0
    assert main(["evaluate", str(both), "--out", str(tmp_path / "again"), "--interval", "delong"]) == 0
    assert main(["compare", str(runs / "a"), str(both), "--model", "auc", "--model", "ensemble"]) == 0
    capsys.readouterr()
    assert main(["runs", str(tmp_path)]) == 0
    assert "ensemble - auc@" in capsys.readouterr().out
    assert main(["train", f"resume={both}"]) == 2
    assert "is an ensemble of other runs" in capsys.readouterr().err


@pytest.mark.parametrize("mean", ["logits", "ranks", pytest.param("scores", marks=pytest.mark.slow)])
def test_it_scores_images_of_several_sizes_as_its_own_table_has_them(runs: Path, tmp_path: Path, mean: str) -> None:
    from dam.inference.run import load_run

    both = tmp_path / "both"
    given = [str(runs / "a"), str(runs / "c")]
    assert main(["ensemble", *given, "--out", str(both), "--mean", mean, "--weights", "greedy"]) == 0
    run = load_run(both, "cpu")
    table = read_predictions(both / "predictions" / "test.csv")
    root = Path(json.loads((both / "data.json").read_text())["root"])
    frame = run.predict([str(root / image) for image in table.images[:7]])
    for k, label in enumerate(run.labels):
        rows = frame[frame["label"] == label]
        for column in run.columns:
            np.testing.assert_allclose(rows[column].to_numpy(float), table.scores[column][:7, k], atol=1e-5)


def test_an_export_of_it_is_the_weighted_sum_of_its_networks(runs: Path, tmp_path: Path) -> None:
    import torch

    from dam.evaluation.fitted import Fitted
    from dam.inference.export_check import generated, torch_answers
    from dam.inference.export_graph import ExportGraph, models_of, recipe_of
    from dam.inference.run import load_run

    both = tmp_path / "both"
    models = ["--model", "auc", "--model", "blend"]
    given = [str(runs / "a"), str(runs / "b")]
    assert main(["ensemble", *given, "--out", str(both), *models]) == 0
    run = load_run(both, "cpu", "fp32")
    recipe = recipe_of(run, models_of(run)[0])
    images = generated(run, 4)
    logits, _, _ = torch_answers(run, recipe, Fitted(), images)
    with torch.inference_mode():
        exported, _ = ExportGraph(recipe, Fitted())(torch.from_numpy(images))
    np.testing.assert_allclose(exported.numpy(), logits, atol=1e-4)
    shutil.rmtree(both)
    for names, more, said in (("ab", ["--mean", "ranks"], "--mean logits"), ("ac", [], "different kinds")):
        assert main(["ensemble", *(str(runs / n) for n in names), "--out", str(both), *more]) == 0
        with pytest.raises(UserError, match=said):
            recipe_of(load_run(both, "cpu", "fp32"), "ensemble")
        shutil.rmtree(both)


def test_members_are_found_where_they_moved_together_and_missed_or_changed_ones_are_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dam.inference.run import load_run

    old = tmp_path / "old"
    for name in "ab":
        shutil.copytree(runs / name, old / name)
    assert main(["ensemble", str(old / "a"), str(old / "b"), "--out", str(old / "e")]) == 0
    new = tmp_path / "new"
    old.rename(new)
    shutil.copytree(runs / "b", old / "a")  # another run where a was: those that moved along are taken
    assert {member.path.resolve().parent for member in load_run(new / "e", "cpu").members} == {new}
    shutil.rmtree(old)
    file = new / "b" / "predictions" / "test.csv"
    text = file.read_text()
    file.write_text(text.replace("0.", "0.1", 1))
    (new / "a" / "predictions" / "test.csv").write_text((new / "a" / "predictions" / "test.csv").read_text() + "\n")
    with pytest.raises(UserError, match=r"is not the run that .* was made from"):
        load_run(new / "e", "cpu")
    for name in "ab":
        shutil.rmtree(new / name)
    with pytest.raises(UserError, match="write its new folder as `path`"):
        load_run(new / "e", "cpu")
    (new / "e" / "ensemble.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        load_run(new / "e", "cpu")


# ---------------------------------------------------------------- refusals


def edited(file: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(file, dtype=str, keep_default_na=False)).to_csv(file, index=False)


def drop_validation(run: Path) -> None:
    edited(run / "predictions" / "val.csv", lambda frame: frame[frame["image"] != frame["image"].iloc[0]])


def folds(run: Path) -> None:
    drop_validation(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] |= {"folds": 3, "fold": 1}
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def flip_target(run: Path) -> None:
    def flip(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[0, "target"] = str(1 - int(frame.loc[0, "target"]))
        return frame

    edited(run / "predictions" / "test.csv", flip)


def train_on_test(run: Path) -> None:
    def leak(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[frame["split"] == "test", "split"] = ["train"] + ["test"] * (sum(frame["split"] == "test") - 1)
        return frame

    edited(run / "predictions" / "images.csv", leak)


def train_on_test_patient(run: Path) -> None:
    def leak(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[(frame["split"] == "train").idxmax(), "patient"] = frame.loc[
            (frame["split"] == "test"), "patient"
        ].iloc[0]
        return frame

    edited(run / "predictions" / "images.csv", leak)


def rename_label(run: Path) -> None:
    for split in ("val", "test"):
        edited(run / "predictions" / f"{split}.csv", lambda frame: frame.replace({"label": {"Edema": "Oedema"}}))


def unfinish(run: Path) -> None:
    (run / "progress.json").write_text('{"state": "interrupted"}')


def no_networks(run: Path) -> None:
    for file in run.rglob("*.safetensors"):
        file.unlink()


def no_test(run: Path) -> None:
    (run / "predictions" / "test.csv").unlink()


def empty_config(run: Path) -> None:
    (run / "config.yaml").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop_validation, "different validation images (1 in a only, such as"),
        (folds, "train with data.fold=all"),
        (flip_target, "different test targets in 1 places"),
        (train_on_test, "was trained on 1 image that the ensemble is validated or tested on"),
        (train_on_test_patient, "was trained on 1 patient that the ensemble"),
        (rename_label, "keep those of all with --labels 'Cardiomegaly,Pleural Effusion'"),
        (unfinish, "is not finished; go on with `dam train resume="),
        (no_networks, "holds no trained networks"),
        (no_test, "has test predictions and"),
        (empty_config, "is no run directory"),
    ],
)
def test_runs_that_cannot_be_mixed_are_refused_in_one_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], said: str
) -> None:
    shutil.copytree(runs / "b", tmp_path / "b")
    change(tmp_path / "b")
    capsys.readouterr()
    assert main(["ensemble", str(runs / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_same_run_an_ensemble_and_a_full_folder_are_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "a", tmp_path / "copy")
    both, a, b, out = made(runs, tmp_path), str(runs / "a"), str(runs / "b"), str(tmp_path / "out")
    killed = tmp_path / "killed"
    shutil.copytree(both, killed)
    shutil.rmtree(killed / "report")
    capsys.readouterr()
    for given, said in (
        ([a, a + "/.", "--out", out], "is given twice"),
        ([a, str(tmp_path / "copy"), "--out", out], "copies of one run"),
        ([a, str(both), "--out", out], "is an ensemble itself: give its members instead"),
        ([a, b, "--out", str(both)], "it is not written over"),
        ([a, b, "--out", str(killed)], f"is an ensemble already that lacks its report: dam report {killed}"),
        ([a, b], "say where the ensemble goes"),
        ([a, "--out", out], "takes two or more runs, not 1"),
        ([a, b, "--out", out, "--model", "ce"], "has no model ce; it has warm_start, auc"),
        ([a, b, "--out", out, "--mean", "median"], "--mean median: choose one of logits, ranks, scores"),
        ([a, b, "--out", out, "--labels", "Cat"], "--labels Cat: not every run has it"),
        ([a, str(tmp_path / "nothing"), "--out", out], "there is no run directory"),
    ):
        assert main(["ensemble", *given]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_labels_and_models_can_be_chosen(runs: Path, tmp_path: Path) -> None:
    both = made(runs, tmp_path, "--labels", "Pleural Effusion,Edema", "--model", "warm_start", "--model", "ce")
    test = read_predictions(both / "predictions" / "test.csv")
    assert test.labels == ("Edema", "Pleural Effusion")
    assert {name.partition("@")[0] for name in test.models[1:]} == {"warm_start", "ce"}
    assert json.loads((both / "data.json").read_text())["labels"] == ["Edema", "Pleural Effusion"]


def test_a_sweep_is_its_jobs(runs: Path, tmp_path: Path) -> None:
    for name in "ab":
        shutil.copytree(runs / name, tmp_path / "sweep" / name)
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    assert main(["ensemble", str(tmp_path / "sweep"), "--out", str(tmp_path / "out"), "--mean", "ranks"]) == 0
    assert len(json.loads((tmp_path / "out" / "ensemble.json").read_text())["members"]) == 2


def test_help_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ensemble", "--help"]) == 0
    said = capsys.readouterr().out
    assert "+sweep=chexpert_five" in said
    assert max(map(len, said.splitlines())) <= 120
    assert complete("dam ensemble a b --me") == ["--mean"]
    assert complete("dam ensemble a b --weights ") == ["equal", "greedy"]
    assert "ensemble" in complete("dam ")
