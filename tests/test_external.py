"""A finished run opened from its directory scores as it did when it was trained; external sets are added or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny

from dam import cli
from dam.compose import compose
from dam.data import load_table
from dam.errors import UserError
from dam.evaluation.predictions import read_predictions
from dam.inference.external import external_table, score_external
from dam.inference.run import load_run
from dam.training import single
from dam.training.run import start

OTHER = ("data=phantom", "data.patients=40", "data.phantom_size=48", "data.phantom_seed=5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run with everything that fills a model column: control, blend, augmented copies, metadata."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAM_STORE", str(folder / "store"))
        patch.setattr("dam.report.plots.draw_all", lambda *_: [])
        more = ("control=ce", "tta.copies=2", "metadata=mlp", "metadata.columns=[age,sex]", "evaluation.replicates=100")
        more += ("data.labels=[Cardiomegaly,Edema]", "warm_start.steps=2", "auc.steps=2", "metadata.epochs=1")
        start(tiny(folder / "run", *more), ["dam", "train"])
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run: each test may change it. It lies elsewhere, as a run that was moved."""
    monkeypatch.setenv("DAM_STORE", str(finished.parent / "store"))
    monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])
    shutil.copytree(finished, tmp_path / "moved")
    return tmp_path / "moved"


def test_a_run_opened_from_its_files_scores_to_the_last_bit(run: Path) -> None:
    loaded = load_run(run, "cpu")
    written = read_predictions(run / "predictions" / "test.csv")
    inputs = single.inputs_of(loaded.config, load_table(loaded.config.data), loaded.device)
    rows = inputs.splits["test"]
    found = loaded.logits(inputs, rows)
    assert set(found) == set(written.models) and "blend" in found and "auc_tta_meta" in found
    place = {name: i for i, name in enumerate(written.images)}
    order = [place[name] for name in inputs.names(rows)]
    columns = [written.labels.index(label) for label in loaded.labels]
    for model, values in found.items():
        np.testing.assert_array_equal(values, written.scores[model][order][:, columns], err_msg=model)
    plain = loaded.logits(inputs, rows, augmented=False)
    assert not [model for model in plain if "_tta" in model]
    assert loaded.metadata_columns == ("age", "sex") and loaded.channels == 1


def test_what_is_no_finished_run_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml"):
        load_run(tmp_path)
    (run / "auc" / "edema" / "stage.json").unlink()
    with pytest.raises(UserError, match="is not finished; go on with `dam train resume="):
        load_run(run)
    shutil.rmtree(run / "predictions")
    with pytest.raises(UserError, match="has no predictions yet"):
        load_run(run)


def test_an_external_set_becomes_part_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(run), "--data", *[w.removeprefix("data=") for w in OTHER[:1]], *OTHER[1:]]
    assert cli.main([*words, "data.official_valid=val", "--device", "cpu"]) == 2  # names of the run's own images
    assert "say data.leakage=allow" in capsys.readouterr().err
    assert not list((run / "predictions").glob("external_*"))
    assert cli.main([*words, "--name", "site_b", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "site_b: rows used: the" in shown and "mean AUC on test -> site_b" in shown
    assert "site_b: left out" in shown  # labels that the run does not have
    facts = json.loads((run / "predictions" / "external_site_b.json").read_text())
    table = read_predictions(run / "predictions" / "external_site_b.csv")
    assert facts["name"] == "site_b" and len(table.images) == facts["sizes"]["test"]["images"]
    assert set(table.models) == set(read_predictions(run / "predictions" / "test.csv").models)
    report = json.loads((run / "report" / "auc.json").read_text())
    assert {row["split"] for row in report["auc"]} == {"test", "val", "external_site_b"}
    whats = [entry["what"] for entry in json.loads((run / "history.json").read_text())]
    assert whats == ["test", "external_site_b"]
    assert cli.main([*words, "--name", "site_b", "--device", "cpu"]) == 0
    assert "was there before and is replaced" in capsys.readouterr().out
    assert [entry["what"] for entry in json.loads((run / "history.json").read_text())] == whats  # nothing new


def test_images_of_training_are_refused_by_name_by_patient_and_by_bytes(run: Path, tmp_path: Path) -> None:
    config = load_run(run, "cpu").config
    loaded = load_run(run, "cpu")
    table = load_table(config.data)
    images = table.frame[table.frame["split"] == "train"]["image"].tolist()[:12]
    root = tmp_path / "other"
    root.mkdir()
    lines = ["image,Edema"]
    for i, image in enumerate(images):
        shutil.copy(table.root / image, root / f"copy{i}.jpg")
        lines.append(f"copy{i}.jpg,{i % 2}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    words = ["data=csv", f"data.root={root}", f"data.csv={root / 'labels.csv'}", "data.labels=[Edema]"]
    with pytest.raises(UserError, match="12 images of the external set were in the run's training or validation, byte"):
        score_external(loaded, compose(words).data, "copies", 1)
    found = score_external(loaded, compose([*words, "data.leakage=allow"]).data, "copies", 1)
    assert found.predictions.labels == ("Edema",)
    assert any("allowed by data.leakage=allow" in note for note in found.notes)
    assert any("no age, sex here" in note for note in found.notes)
    assert any("names no patients" in note for note in found.notes)
    with pytest.raises(UserError, match="have the name of one that the run trained or chose on"):
        score_external(loaded, compose([*OTHER, "data.official_valid=val"]).data, "again", 1)


def test_a_set_without_a_label_of_the_run_is_refused() -> None:
    cfg = compose(list(OTHER)).data
    with pytest.raises(UserError, match="none of them is a label of the run, which has Pneumonia"):
        external_table(cfg, ("Pneumonia",))
    table = external_table(cfg, ("Edema", "Pneumonia"))
    assert table.labels == ("Edema",) and set(table.frame["split"]) == {"test"}
    assert any("not judged here: Pneumonia" in note for note in table.notes)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--name", "Site B"], "--name Site B names a file"),
        (["--out", "x"], "--out has no use with --data"),
        (["--interval", "logit"], "an external set is judged as the run is"),
        (["--workers", "many"], "--workers many: a whole number"),
        (["--layout", "wide"], "--layout has no use here"),
        (["data.patient=3"], "data.patient is not a key"),
    ],
)
def test_mistakes_are_one_sentence(run: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run), "--data", "phantom", *more]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
