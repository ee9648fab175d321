"""Metadata: its encoding, the mix of scores, and its stages within a run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.special import expit, logit
from tiny import tiny

from dam import report
from dam.compose import compose
from dam.config import DataConfig
from dam.data.table import ImageTable
from dam.errors import UserError
from dam.evaluation.predictions import read_predictions
from dam.models import metadata as metadata_model
from dam.models.metadata import MetadataEncoding, MetadataNetwork, fit_encoding, mix_scores
from dam.report.plots.training import draw_training
from dam.report.run_files import read_run
from dam.schema import ConfigError
from dam.training import run as run_module, single
from dam.training.inputs import on_paper
from dam.training.metadata import load_encoding
from dam.training.plan import make_plan
from dam.training.rundir import RunDirectory

TRAINING = {"age": ["30", "50.0", "", None, "Unknown", "70"], "sex": ["male", "female", "male", "", "nan", "male"]}


def test_numbers_are_standardized_and_words_one_hot_each_with_an_indicator() -> None:
    encoding = fit_encoding(["age", "sex"], TRAINING)
    found = encoding.encode({"sex": ["female", "other", None], "age": [70, float("nan"), "what"], "more": [1, 2, 3]})
    std = np.std([30, 50, 70])
    expected = [[20 / std, 0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 1, 0, 0, 1]]  # age, age missing; female, male, missing
    assert found.dtype == np.float32 and encoding.width == 5
    assert np.allclose(found, expected)


def test_what_training_does_not_vary_says_nothing_elsewhere() -> None:
    encoding = fit_encoding(["a", "b"], {"a": [3, 3, 3], "b": ["", None, "unknown"]})
    assert np.allclose(encoding.encode({"a": [3, 80, ""], "b": [1, "", 50]}), [[0, 0, 1], [0, 0, 1], [0, 1, 1]])
    tenths = [0.1] * 153  # whose mean is not 0.1 to the last bit
    assert np.std(tenths) > 0
    assert not fit_encoding(["x"], {"x": tenths}).encode({"x": [0.1, 0.2]}).any()


@given(st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=4), st.integers(-9, 9)), min_size=1, max_size=30))
def test_an_encoding_comes_back_from_json_to_the_last_bit(values: list[object]) -> None:
    encoding = fit_encoding(["x"], {"x": values})
    again = MetadataEncoding.from_json(encoding.to_json())
    assert again == encoding
    features = encoding.encode({"x": values})
    assert features.shape == (len(values), encoding.width) and np.isfinite(features).all()


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(UserError, match="patient holds 200 different words"):
        fit_encoding(["patient"], {"patient": [f"p{i}" for i in range(200)]})
    with pytest.raises(UserError, match="the metadata column sex is missing; there are age"):
        fit_encoding(["age", "sex"], TRAINING).encode({"age": [1]})
    for text in ("", "[]", "{}", '{"columns": [{"name": 1}]}'):
        with pytest.raises(UserError, match=r"encoding\.json is damaged"):
            MetadataEncoding.from_json(text)
    for words, sentence in (
        (["metadata=mlp", "auc=none"], "auc=none leaves that out; add metadata=none"),
        (["metadata=mlp", "metadata.columns=[]"], "metadata.columns is empty"),
        (["metadata=mlp", "metadata.columns=[age,age]"], "names age twice"),
        (["metadata=mlp", "metadata.hidden=[]"], "metadata.hidden is empty"),
        (["metadata.lr=1"], "choose metadata=mlp first"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            compose(words)


def test_the_network_is_a_function_of_its_seed_and_has_the_papers_widths() -> None:
    cfg = compose(["metadata=mlp"]).metadata
    assert cfg is not None
    one, same, other = (MetadataNetwork(cfg, 5, 1, seed) for seed in (0, 0, 1))
    assert [tuple(p.shape) for p in one.parameters()] == [(256, 5), (256,), (128, 256), (128,), (1, 128), (1,)]
    x = torch.randn(4, 5)
    assert torch.equal(one(x), same(x)) and not torch.equal(one(x), other(x))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_a_mix_is_of_scores_and_kept_as_a_logit(weight: float) -> None:
    g = np.random.default_rng(0)
    image, metadata = g.normal(0, 4, (50, 3)), g.normal(0, 4, (50, 3))
    expected = logit(weight * expit(metadata) + (1 - weight) * expit(image))
    assert np.allclose(mix_scores(image, metadata, weight), expected, atol=1e-9)
    extreme = mix_scores(np.array([900.0, -900.0, np.nan]), np.array([-900.0, -900.0, 1.0]), weight)
    assert np.isfinite(extreme[:2]).all() and np.isnan(extreme[2])


# ---------------------------------------------------------------- in a run


def planted(table: ImageTable) -> ImageTable:
    """Age tells Edema nearly, site tells nothing; a part of both is missing."""
    g = np.random.default_rng(0)
    sick = table.frame["Edema"].to_numpy() == 1
    age = np.where(sick, 70, 40) + g.normal(0, 8, len(table))
    age[g.uniform(size=len(table)) < 0.1] = np.nan
    site = np.array(["torso", "head/neck", ""], dtype=object)[g.integers(0, 3, len(table))]
    frame = table.frame.assign(age=age, site=site)
    test = frame["split"] == "test"
    frame.loc[test, "age"] += 1e-3  # nothing of it is learned
    return ImageTable(frame, table.labels, table.root, table.name, table.notes)


WORDS = ("data.labels=[Edema]", "metadata=mlp", "metadata.columns=[age,site]", "warm_start.steps=2", "auc.steps=2",
         "control=ce", "model.freeze=[conv1]", "metadata.weight=0.25")  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_table = single.load_table
    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(report, "build_report", partial(report.build_report, figures=False))
    monkeypatch.setattr(single, "load_table", lambda cfg: planted(load_table(cfg)))


@pytest.mark.parametrize("auc", ["auc_direct", "auc_margin"])
def test_the_network_learns_a_planted_signal_beside_the_images(tmp_path: Path, quick: None, auc: str) -> None:
    run = tmp_path / "run"
    assert (
        run_module.start(
            tiny(run, *WORDS, f"auc={auc}", f"metadata.epochs={20 if auc == 'auc_margin' else 8}"), ["dam"]
        ).exit_code
        == 0
    )
    for split in ("val", "test"):
        table = read_predictions(run / "predictions" / f"{split}.csv")
        assert list(table.models[-4:]) == ["metadata", "metadata_ce", "auc_meta", "ce_meta"]
        for image, metadata in (("auc", "metadata"), ("ce", "metadata_ce")):
            mixed = 0.25 * expit(table.scores[metadata]) + 0.75 * expit(table.scores[image])
            assert np.allclose(expit(table.scores[f"{image}_meta"]), mixed, atol=1e-12)
        scores, known = table.scores["metadata"][:, 0], table.targets[:, 0]
        aucs = {m: _auc(known, table.scores[m][:, 0]) for m in ("metadata", "metadata_ce")}
        assert min(aucs.values()) > 0.85, aucs
        assert len(set(scores)) > 5
    images = pd.read_csv(run / "predictions" / "images.csv")
    ages = images["age"][images["split"] == "train"].dropna()
    encoding = load_encoding(RunDirectory(run))
    assert [column.kind for column in encoding.columns] == ["number", "category"]
    assert encoding.columns[0].mean == pytest.approx(ages.mean()) and encoding.columns[1].words == (
        "head/neck",
        "torso",
    )
    ours, control = (
        json.loads((run / "metadata" / p / "edema" / "stage.json").read_text()) for p in ("auc", "control")
    )
    assert ours["steps"] == control["steps"] and ours["select"] == control["select"]
    assert (ours["column"], control["column"]) == ("metadata", "metadata_ce")
    assert ours["optimizer"]["lr"] == control["optimizer"]["lr"] == 0.01 and ours["schedule"]["name"] == "constant"
    shown = [stage for stage in read_run(run).stages if stage.part.startswith("metadata/")]
    assert [(stage.part, stage.label) for stage in shown] == [("metadata/auc", "Edema"), ("metadata/control", "Edema")]
    names = [drawn.name for drawn in draw_training(read_run(run), {})]
    assert names[1:3] == ["training_Edema", "training_metadata_Edema"]
    assert ours["objective"] == "auc_margin" and control["objective"] == "ce"


def _auc(targets: np.ndarray, scores: np.ndarray) -> float:
    positive, negative = scores[targets == 1], scores[targets == 0]
    return float(np.mean(positive[:, None] > negative[None]))


def test_auc_models_and_control_draw_the_same_rows_and_pictures(tmp_path: Path) -> None:
    cfg = tiny(tmp_path / "run", "metadata=mlp", "metadata.columns=[age]", "control=ce", "data.labels=[Edema]")
    plan = make_plan(cfg, on_paper(cfg, single.load_table(cfg.data)), RunDirectory(tmp_path))
    seeds = {planned.spec.name: planned.spec.seed for planned in plan}
    assert seeds["auc/edema"] == seeds["control/edema"] != seeds["metadata/auc/edema"]
    assert seeds["metadata/auc/edema"] == seeds["metadata/control/edema"]
    assert len({planned.spec.steps for planned in plan if planned.reads_metadata}) == 1


def test_columns_that_the_table_lacks_are_named_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the \w+ table has no site; it has .*age.*: metadata.columns=\[...\]"):
        run_module.start(tiny(tmp_path / "run", "metadata=mlp"), ["dam"])
    assert not (tmp_path / "run").exists()


def test_a_column_of_too_many_words_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch) -> None:
    load_table = single.load_table

    def named(cfg: DataConfig) -> ImageTable:
        table = load_table(cfg)
        return table.with_frame(table.frame.assign(site=[f"s{i}" for i in range(len(table))]))

    monkeypatch.setattr(single, "load_table", named)
    monkeypatch.setattr(metadata_model, "MOST_CATEGORIES", 20)
    with pytest.raises(UserError, match=r"metadata.columns: site holds \d+ different words"):
        run_module.start(tiny(tmp_path / "run", "metadata=mlp", "metadata.columns=[site]"), ["dam"])
    assert not (tmp_path / "run").exists()


def test_a_resume_may_change_the_evaluation_but_neither_copies_nor_metadata(tmp_path: Path, quick: None) -> None:
    run = tmp_path / "run"
    run_module.start(tiny(run, "auc=none", "warm_start.steps=1"), ["dam"])
    for word in ("tta=3", "tta.average=logit", "metadata=mlp", "metadata.weight=0.1"):
        with pytest.raises(UserError, match=word.partition("=")[0]):
            run_module.resume(run, [word], ["dam"])
    before = (run / "report" / "auc.json").read_text()
    told = run_module.resume(run, ["evaluation.interval=delong"], ["dam"]).table
    assert "the report was made anew; nothing was trained" in told
    assert (run / "report" / "auc.json").read_text() != before
    assert "interval: delong" in (run / "config.yaml").read_text()
