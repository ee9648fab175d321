"""`from dam import load_run`: the same numbers as the run's own predictions; mistakes are one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from predict_runs import test_images, train

import dam
from dam import load_run
from dam.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("full"))


def own(run: Path, split: str = "test") -> pd.DataFrame:
    return pd.read_csv(run / "predictions" / f"{split}.csv").drop(columns=["patient", "study", "target"])


def test_import_of_dam_is_light() -> None:
    code = "import dam, sys; print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not hasattr(dam, "nothing_of_the_kind")


@pytest.mark.parametrize("batch_size", [None, 3])
def test_own_test_images_score_as_in_the_run(finished: Path, batch_size: int | None) -> None:
    run = load_run(finished, "cpu")
    root, names = test_images(finished)
    table = pd.read_csv(finished / "predictions" / "images.csv").set_index("image").loc[names]
    metadata = {name: table[name].tolist() for name in run.metadata_columns}
    frame = run.predict([root / name for name in names], batch_size=batch_size, metadata=metadata)
    expected = own(finished)
    assert tuple(frame.columns) == ("image", "label", *run.columns, "probability", "decision", "problem")
    assert run.columns == tuple(expected.columns[2:])
    frame["image"] = [str(Path(name).relative_to(root)) for name in frame["image"]]
    both = frame.merge(expected, on=["image", "label"], suffixes=("", "_own"), validate="1:1")
    assert len(both) == len(expected) == len(frame)
    for column in run.columns:
        if "_tta" not in column:  # whose copies are drawn from the pixels here, from the row there
            np.testing.assert_allclose(both[column], both[f"{column}_own"], atol=1e-5, rtol=0, err_msg=column)
    assert frame.attrs["model"] == "auc"


def test_probability_and_decision_are_those_of_calibration_json(finished: Path) -> None:
    run = load_run(finished, "cpu")
    root, names = test_images(finished)
    frame = run.predict([root / name for name in names[:3]], tta=0, model="warm_start")
    assert "auc_tta" not in frame and "metadata" not in frame
    stored = json.loads((finished / "predictions" / "calibration.json").read_text())["warm_start"]
    for row in frame.to_dict("records"):
        fit = stored[row["label"]]
        if fit["slope"] is not None and fit["slope"] > 0:
            expected = 1 / (1 + np.exp(-(fit["slope"] * row["warm_start"] + fit["intercept"])))
            assert row["probability"] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(row["probability"])
        assert row["decision"] == (row["warm_start"] >= float(fit["threshold"]))


def test_paths_arrays_and_pillow_images_give_the_same_numbers(finished: Path) -> None:
    run = load_run(finished, "cpu")
    root, names = test_images(finished)
    path = str(root / names[0])
    with Image.open(path) as image:
        array = np.asarray(image.convert("L"))
        frame = run.predict([path, array, array[..., None], np.stack([array] * 3, -1), image])
    assert frame["image"].unique().tolist() == [path, "#1", "#2", "#3", "#4"]
    for column in ("auc", "auc_tta", "blend"):
        values = frame[column].to_numpy().reshape(5, -1)
        np.testing.assert_allclose(values, np.broadcast_to(values[:1], values.shape), atol=1e-6)
    one = run.predict([array])  # an image's copies do not depend on its company
    np.testing.assert_allclose(one["auc_tta"], frame["auc_tta"][:2], atol=1e-6)


def test_unreadable_images_keep_their_place(finished: Path, tmp_path: Path) -> None:
    run = load_run(finished, "cpu")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    good = np.zeros((40, 40), np.uint8)
    frame = run.predict([tmp_path / "broken.png", good, tmp_path / "absent.png"], tta=0)
    assert frame["problem"].ne("").tolist() == [True, True, False, False, True, True]
    assert frame["auc"].isna().tolist() == frame["decision"].isna().tolist() == [True, True, False, False, True, True]
    assert frame["problem"].iloc[4] == "no such file"
    nothing = run.predict([tmp_path / "absent.png"], tta=0)
    assert nothing["auc"].isna().all() and list(nothing.columns) == list(frame.columns)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        ([np.zeros((4, 4))], {}, "array of float64"),
        ([np.zeros((4, 4, 4), np.uint8)], {}, "(H, W, 3)"),
        ([3], {}, "is a int"),
        ("x.png", {}, "takes a list"),
        ([], {}, "no images"),
        ([np.zeros((9, 9), np.uint8)], {"tta": -1}, "tta=-1"),
        ([np.zeros((9, 9), np.uint8)], {"batch_size": 0}, "batch_size=0"),
        ([np.zeros((9, 9), np.uint8)], {"model": "best"}, "the scores here are"),
        ([np.zeros((9, 9), np.uint8)], {"metadata": {"age": [3]}}, "the run reads age, sex"),
        ([np.zeros((9, 9), np.uint8)], {"metadata": {"age": [], "sex": []}}, "fewer than images"),
    ],
)
def test_mistakes_are_one_sentence(finished: Path, images: list, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        load_run(finished, "cpu").predict(images, **options)


def half(run: Path) -> None:
    shutil.rmtree(run / "predictions")


def open_stage(run: Path) -> None:
    (run / "auc" / "edema" / "stage.json").unlink()


def other_version(run: Path) -> None:
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("accumulate:", "gather:"))


def old_stage(run: Path) -> None:
    (run / "auc" / "edema" / "stage.json").write_text("{}")


def lost_weights(run: Path) -> None:
    (run / "auc" / "edema" / "best.safetensors").unlink()


def other_label(run: Path) -> None:
    file = run / "auc" / "edema" / "stage.json"
    file.write_text(file.read_text().replace("Edema", "Oedema"))


def other_weights(run: Path) -> None:
    shutil.copy(run / "warm_start" / "best.safetensors", run / "auc" / "edema" / "best.safetensors")


def damaged_blend(run: Path) -> None:
    (run / "predictions" / "blend.json").write_text('{"Edema": {"fits": 3}}')


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (half, "not finished.*dam train resume="),
        (open_stage, "not finished.*dam train resume="),
        (other_version, "another version of dam"),
        (old_stage, "another version"),
        (lost_weights, "cannot be read"),
        (other_label, "names Oedema, which is no label"),
        (other_weights, "does not fit"),
        (damaged_blend, "damaged"),
    ],
)
def test_runs_that_cannot_be_used(finished: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    shutil.copytree(finished, tmp_path / "run")
    spoil(tmp_path / "run")
    with pytest.raises(UserError, match=words):
        load_run(tmp_path / "run", "cpu").predict([np.zeros((9, 9), np.uint8)], tta=0)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_run(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        load_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        load_run(tmp_path / "file")


def test_a_cross_validation_is_the_mean_of_its_folds(tmp_path_factory: pytest.TempPathFactory) -> None:
    outer = train(tmp_path_factory.mktemp("folds"), "data.folds=2", "data.fold=all", bare=True)
    root, names = test_images(outer)
    run = load_run(outer, "cpu")
    frame = run.predict([root / name for name in names])
    frame["image"] = [str(Path(name).relative_to(root)) for name in frame["image"]]
    both = frame.merge(own(outer), on=["image", "label"], suffixes=("", "_own"), validate="1:1")
    assert len(run.folds) == 2 and len(both) == len(frame) > 0
    for column in run.columns:
        np.testing.assert_allclose(both[column], both[f"{column}_own"], atol=1e-5, rtol=0, err_msg=column)
