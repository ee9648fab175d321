"""A run that begins with another run's weights: its input is handed on through training, prediction and export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from predict_runs import test_images
from safetensors.torch import load_file
from tiny import tiny

from dam.compose import read_config
from dam.errors import UserError
from dam.inference.export import Wish, export
from dam.inference.run import load_run
from dam.models.normalization import HistogramNormalization
from dam.training.run import start

SHORT = ("auc=none", "control=none", "data.labels=[Edema]", "warm_start.steps=2")


def train(folder: Path, *more: str) -> Path:
    """A finished run of one label in ``folder``/run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAM_STORE", str(folder / "store"))
        patch.setattr("dam.report.plots.draw_all", lambda *_: [])
        start(tiny(folder / "run", *more), ["dam", "train"])
    return folder / "run"


@pytest.fixture(scope="module")
def equalizing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("equal"), *SHORT, "model.normalization=histogram_255")


@pytest.fixture(scope="module")
def started(equalizing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("next"), *SHORT, f"model.weights={equalizing}", "seed=1")


def test_a_run_starts_from_a_run_and_says_so(equalizing: Path, started: Path) -> None:
    assert read_config(started / "config.yaml").model.normalization == "histogram_255"
    facts = json.loads((started / "environment.json").read_text())["weights"]
    assert facts["from"] == str(equalizing) and facts["layout"] == "dam run" and facts["prefix"] == ""
    assert facts["loaded"] == facts["of"] > 20 and facts["newly_drawn"] == []
    assert facts["left_out"] == "2: linear.bias, linear.weight"
    log = (started / "train.log").read_text()
    assert log.count("backbone tensors from") == 1 and "newly drawn: the head" in log and "attention" not in log


def test_a_mismatch_stands_in_the_log(equalizing: Path, tmp_path: Path) -> None:
    run = train(tmp_path, *SHORT, f"model.weights={equalizing}", "model.normalization=mean_std")
    log = (run / "train.log").read_text()
    assert log.count("attention: the config's input differs from that of the weights, which expect gray images") == 1


def test_a_taken_warm_start_brings_its_input(equalizing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("data.labels=[Edema]", "control=none", "auc.steps=2", f"warm_start.run={equalizing}")
    run = train(tmp_path, *words)
    assert read_config(run / "config.yaml").model.normalization == "histogram_255"
    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"model\.normalization=histogram_255, this config says mean_std"):
        start(tiny(tmp_path / "other", *words, "model.normalization=mean_std"), ["dam"])


def test_prediction_and_export_equalize_as_training_did(equalizing: Path, tmp_path: Path) -> None:
    root, names = test_images(equalizing)
    run = load_run(equalizing, "cpu")
    network = run.network(run.parts[0])
    assert isinstance(network.normalization, HistogramNormalization)
    ours = run.predict([root / name for name in names])
    theirs = pd.read_csv(equalizing / "predictions" / "test.csv")
    np.testing.assert_allclose(ours["warm_start"], theirs["warm_start"], atol=1e-6)
    export(equalizing, Wish("safetensors", None, "fp32", tmp_path / "m.safetensors"))
    assert "histogram" in json.loads((tmp_path / "m.json").read_text())["input"]["normalization"]["where"]
    assert load_file(tmp_path / "m.safetensors").keys() >= {"warm_start/conv1.weight"}


@pytest.mark.slow
def test_onnx_equalizes_in_the_graph(equalizing: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = export(equalizing, Wish("onnx", None, "fp32", tmp_path / "m.onnx"))
    assert done.checked.difference <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
    images[2] = 7  # flat
    run = load_run(equalizing, "cpu")
    with torch.inference_mode():
        expected = run.network(run.parts[0])(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.run(["logits"], {"images": images})[0], expected, atol=1e-4)
