"""`dam export`: every format says what the run says, and the script beside an ONNX file reads images as dam does."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from predict_runs import train
from tiny import tiny

from dam.cli import main
from dam.compose import to_yaml
from dam.data.readers import ImageReader
from dam.data.store_build import fit_image
from dam.evaluation.fitted import Fitted
from dam.evaluation.predictions import read_predictions
from dam.inference import export as exporting, export_formats, export_runner
from dam.inference.export import Wish, export
from dam.inference.export_check import read_images, torch_answers
from dam.inference.export_graph import ExportGraph, recipe_of
from dam.inference.run import load_run
from dam.models.backbones import build_model
from dam.training import checkpoint

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LABELS = ("Cardiomegaly", "Edema")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    path = train(folder, bare=True)
    blend = {
        label: {
            "fits": {
                "auc": {"slope": 1.5, "intercept": -0.25, "positives": 5, "negatives": 9},
                "ce": {"slope": 0.5, "intercept": 0.75, "positives": 5, "negatives": 9},
            },
            "left_out": {},
        }
        for label in LABELS
    }
    del blend["Edema"]["fits"]["ce"]
    (path / "predictions" / "blend.json").write_text(json.dumps(blend))
    fit = {"method": "platt", "slope": 2.0, "intercept": 0.5, "positives": 5, "negatives": 9, "threshold": -0.1}
    stored = {model: {"Edema": fit | {"rule": "youden", "prevalence": 0.1}} for model in ("auc", "blend")}
    (path / "predictions" / "calibration.json").write_text(json.dumps(stored))
    return path


def validation(path: Path):
    table = read_predictions(path / "predictions" / "val.csv")
    root = Path(json.loads((path / "data.json").read_text())["root"])
    return table, root


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    return export(trained, Wish("onnx", None, "fp32", folder / "m.onnx"))


def session_of(file: Path):
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def test_onnx_gives_the_runs_own_predictions(trained, exported) -> None:
    done = exported
    assert done.model == "auc" and done.networks == 2 and "validation images" in done.checked.source
    assert done.checked.difference <= 1e-4 and done.checked.images == 100 and "and" in done.checked.source
    assert sorted(p.name for p in done.files[0].parent.iterdir()) == ["m.onnx", "m_run.py"]
    table, root = validation(trained)
    images = read_images(load_run(trained, "cpu"), [str(image) for image in table.images], root)
    session = session_of(done.files[0])
    for size in (1, 7):  # the batch is free
        logits, chances = session.run(["logits", "probabilities"], {"images": images[:size]})
        np.testing.assert_allclose(logits, table.scores["auc"][:size], atol=1e-4)
        assert np.isnan(chances[:, 0]).all()  # Cardiomegaly has no calibration
        shift = np.log(0.1 / 0.9) - np.log(5 / 9)
        expected = 1 / (1 + np.exp(-(2 * table.scores["auc"][:size, 1] + 0.5 + shift)))
        np.testing.assert_allclose(chances[:, 1], expected, atol=1e-4)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["dam"])
    assert facts["labels"] == list(LABELS) and facts["thresholds"] == {"Cardiomegaly": None, "Edema": -0.1}
    assert facts["input"]["channels"] == 1 and facts["input"]["size"] == 32 and facts["data"]["licence"]
    assert str(trained) not in json.dumps(facts)


def first_images(trained: Path):
    """The first five validation images, and the logits of the fixture's blend."""
    table, root = validation(trained)
    images = read_images(load_run(trained, "cpu"), [str(image) for image in table.images[:5]], root)
    auc, ce = table.scores["auc"][:5], table.scores["ce"][:5]
    blend = [(1.5 * auc[:, 0] - 0.25 + 0.5 * ce[:, 0] + 0.75) / 2, 1.5 * auc[:, 1] - 0.25]
    return images, np.stack(blend, axis=1)


@pytest.mark.slow
def test_pt2_of_a_blend_is_the_runs_blend(trained, tmp_path) -> None:
    export(trained, Wish("pt2", "blend", "fp32", tmp_path / "b.pt2"))
    images, expected = first_images(trained)
    extra = {"dam.json": ""}
    logits, _ = torch.export.load(tmp_path / "b.pt2", extra_files=extra).module()(torch.from_numpy(images))
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)
    assert json.loads(extra["dam.json"])["model"] == "blend"


def test_blend_is_the_runs_blend(trained, tmp_path) -> None:
    done = export(trained, Wish("safetensors", "blend", "fp32", tmp_path / "b.safetensors"))
    assert done.networks == 4
    images, expected = first_images(trained)
    run = load_run(trained, "cpu")
    with torch.inference_mode():
        logits, _ = ExportGraph(recipe_of(run, "blend"), Fitted())(torch.from_numpy(images))
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)
    told = json.loads((tmp_path / "b.json").read_text())
    from safetensors.numpy import load_file

    names = {network["name"] for network in told["networks"]}
    assert names == {f"{part}/{label.lower()}" for part in ("auc", "control") for label in LABELS}
    assert {"/".join(name.split("/")[:2]) for name in load_file(tmp_path / "b.safetensors")} == names


@pytest.mark.slow
def test_pt2_of_dam_runs_no_pickled_code(trained, tmp_path) -> None:
    import subprocess
    import sys

    export(trained, Wish("pt2", "ce", "fp32", tmp_path / "m.pt2"))
    code = (
        "import sys, torch, torch.export; seen = []; "
        "sys.addaudithook(lambda e, a: seen.append(a) if e == 'pickle.find_class' else None); "
        f"torch.export.load({str(tmp_path / 'm.pt2')!r}); assert not seen, seen"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_half_and_int8_say_what_they_cost(trained, exported, tmp_path) -> None:
    half = export(trained, Wish("onnx", None, "fp16", tmp_path / "h.onnx"))
    plain = exported
    tenth = export(trained, Wish("onnx", None, "int8", tmp_path / "q.onnx"))
    sizes = [done.files[0].stat().st_size for done in (plain, half, tenth)]
    assert sizes[0] > 1.5 * sizes[1] and sizes[0] > 2 * sizes[2]
    assert 0 < half.checked.difference < 0.05 and 0 < tenth.checked.difference < 0.5
    assert not plain.lines and all(done.lines[0].startswith("AUC on validation (") for done in (half, tenth))


def test_mean_over_folds(trained, tmp_path) -> None:
    outer = tmp_path / "outer"
    shutil.copytree(trained / "predictions", outer / "predictions")
    for name in ("config.yaml", "data.json"):
        shutil.copy(trained / name, outer / name)
    for fold in range(2):
        shutil.copytree(trained, outer / f"fold_{fold}")
    first = outer / "fold_0" / "auc" / "edema"
    shutil.copy(outer / "fold_0" / "control" / "edema" / "best.safetensors", first / "best.safetensors")
    done = export(outer, Wish("safetensors", "auc", "fp32", tmp_path / "m.safetensors"))
    assert done.networks == 4 and "generated" in done.checked.source and done.checked.difference <= 1e-4
    table, root = validation(trained)
    images = read_images(load_run(trained, "cpu"), [str(image) for image in table.images[:4]], root)
    run = load_run(outer, "cpu")
    logits, _, _ = torch_answers(run, recipe_of(run, "auc"), Fitted(), images)
    expected = (table.scores["auc"][:4, 1] + table.scores["ce"][:4, 1]) / 2
    np.testing.assert_allclose(logits[:, 1], expected, atol=1e-4)


def test_a_file_that_differs_is_removed(trained, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    code = main(["export", str(trained), "--format", "safetensors", "--out", str(tmp_path / "x.safetensors")])
    assert code == 1 and "it was removed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "say what file it shall be"),
        (["--format", "onx"], "choose one of onnx, pt2, safetensors"),
        (["--format", "onnx", "--model", "auc_tta"], "averages random copies"),
        (["--format", "onnx", "--model", "auc_meta"], "reads metadata columns"),
        (["--format", "onnx", "--model", "nosuch"], "choose one of auc, ce, warm_start, blend"),
        (["--format", "onnx", "--out", "x.pt2"], "name a file that ends in .onnx"),
        (["--format", "pt2", "--int8"], "--int8 is for --format onnx"),
        (["--format", "onnx", "--half", "fp16", "--int8"], "exclude one another"),
        (["--format", "onnx", "--images", "nowhere"], "there is no such folder"),
        (["--format", "onnx", "--val-images", "/"], "it does not hold"),
    ],
)
def test_mistakes_are_said(trained, words, sentence, capsys) -> None:
    assert main(["export", str(trained), *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_what_is_no_finished_run_is_said(trained, tmp_path, capsys, monkeypatch) -> None:
    assert main(["export", str(tmp_path / "no"), "--format", "onnx"]) == 2
    assert main(["export", str(tmp_path), "--format", "onnx"]) == 2
    shutil.copy(trained / "config.yaml", tmp_path / "config.yaml")
    assert main(["export", str(tmp_path), "--format", "onnx"]) == 2
    error = capsys.readouterr().err
    assert all(said in error for said in ("no run directory", "no config.yaml", "not finished"))
    monkeypatch.setattr(export_formats.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(trained), "--format", "onnx"]) == 2
    assert 'pip install "dam[export]"' in capsys.readouterr().err


def test_the_script_alone_scores_files(trained, exported, tmp_path, capsys) -> None:
    model = str(exported.files[0])
    table, root = validation(trained)
    files = [str(root / str(image)) for image in table.images[:6]]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    words = [*files, str(tmp_path / "broken.png"), "--model", model, "--batch", "4"]
    assert export_runner.main([*words, "--out", str(tmp_path / "s.csv")]) == 1
    assert "broken.png" in capsys.readouterr().err
    with open(tmp_path / "s.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    scores = np.array([float(row["score"]) for row in rows]).reshape(6, 2)
    np.testing.assert_allclose(scores, table.scores["auc"][:6], atol=0.02)  # one gray level of resizing
    assert {row["decision"] for row in rows if row["label"] == "Cardiomegaly"} == {""}
    for row in (row for row in rows if row["label"] == "Edema"):
        assert row["decision"] == str(int(float(row["score"]) >= -0.1)) and 0 < float(row["probability"]) < 1
    source = exported.files[1].read_text()
    assert "import dam" not in source and "from dam" not in source
    assert export_runner.main([str(tmp_path / "empty.d"), "--model", str(tmp_path / "no.onnx")]) == 2


@pytest.mark.parametrize(
    "shape", [(390, 320), (97, 201), (64, 64), (33, 20), (500, 17, 3), (224, 224, 3), (11, 300, 3)]
)
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_the_script_resizes_as_opencv_to_one_level(shape, fit) -> None:
    rng = np.random.default_rng(1)
    for image in (
        rng.integers(0, 256, shape, dtype=np.uint8),
        np.clip(cv2.GaussianBlur(rng.normal(128, 300, shape), (9, 9), 0), 0, 255).astype(np.uint8),
    ):
        ours = export_runner.fit_image(image, 64, fit)
        theirs = fit_image(image, 64, fit)
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    colour = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(export_runner.to_gray(colour), cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))


def test_the_script_decodes_as_the_reader(tmp_path) -> None:
    rng = np.random.default_rng(2)
    colour = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    gray = colour.convert("L")
    turned = Image.Exif()
    turned[0x0112] = 6
    colour.save(tmp_path / "a.png")
    gray.save(tmp_path / "b.png")
    colour.convert("P").save(tmp_path / "c.png")
    colour.convert("CMYK").save(tmp_path / "d.jpg")
    colour.convert("RGBA").save(tmp_path / "e.png")
    gray.convert("LA").save(tmp_path / "f.png")
    gray.convert("RGB").save(tmp_path / "g.bmp")
    colour.save(tmp_path / "h.jpg", exif=turned)
    gray.convert("1").save(tmp_path / "i.tif")
    reader = ImageReader(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(export_runner.decode(file), reader.read(file.name), err_msg=file.name)
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(tmp_path / "j.png")
    with pytest.raises(ValueError, match="8 bits"):
        export_runner.decode(tmp_path / "j.png")


def untrained(path: Path, model: str, size: int) -> Path:
    """A run directory as training leaves it, of networks with drawn weights."""
    cfg = tiny(path, f"model.name={model}", f"image_size={size}", "warm_start=none", "data.labels=[Cardiomegaly,Edema]")
    for seed, label in enumerate(LABELS):
        folder = path / "auc" / label.lower()
        folder.mkdir(parents=True)
        network = build_model(replace(cfg.model, weights=None), 1, 3, size, seed)
        checkpoint.save_weights(folder / "best.safetensors", network)
        (folder / "stage.json").write_text(json.dumps({"column": "auc", "labels": [label]}))
    (path / "config.yaml").write_text(to_yaml(cfg))
    (path / "data.json").write_text(json.dumps({"dataset": "phantom", "labels": LABELS, "root": str(path / "gone")}))
    (path / "predictions").mkdir()
    rows = [
        {"image": f"{i}.png", "patient": i, "study": i, "label": label, "target": i % 2, "auc": 0.1 * i}
        for i in range(4)
        for label in LABELS
    ]
    pd.DataFrame(rows).to_csv(path / "predictions" / "val.csv", index=False)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size"),
    [("resnet10t", 64), ("densenet121", 64), ("convnext_atto", 64), ("swin_tiny_patch4_window7_224", 64)],
)
def test_every_family_within_1e_4(tmp_path, model, size) -> None:
    path = untrained(tmp_path / "run", model, size)
    done = export(path, Wish("onnx", None, "fp32", None))
    assert done.checked.difference <= 1e-4 and done.checked.images == 100 and "generated" in done.checked.source
    half = export(path, Wish("onnx", None, "fp16", None))
    assert half.checked.difference < 0.05 and "not where they were" in half.lines[0]
