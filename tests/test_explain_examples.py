"""``dam report --explain``: overlays beside the example images, and what the page and the terminal say of them."""

from __future__ import annotations

import builtins
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from predict_runs import train

pytest.importorskip("pytorch_grad_cam")

from dam import cli
from dam.inference import explain_examples as drawing
from dam.inference.run import load_run
from dam.report.document import plain
from dam.report.examples import FOLDER, OVERLAYS, overlays
from dam.report.sections.examples import _about


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("explained"), bare=True)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run and of its images, so that a test may spoil them."""
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    facts = json.loads((path / "data.json").read_text())
    for row in examples(path):
        image = tmp_path / "images" / row["image"]
        image.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(facts["root"]) / row["image"], image)
    (path / "data.json").write_text(json.dumps({**facts, "root": str(tmp_path / "images")}))
    return path


def examples(run: Path) -> list[dict[str, str]]:
    with open(run / "predictions" / "examples.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def report(run: Path, *words: str) -> int:
    return cli.main(["report", str(run), "--no-figures", *words])


def test_every_example_gets_an_overlay_that_the_page_shows(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "predictions" / FOLDER
    (folder / "99_explain.png").write_bytes(b"of another time")
    rows = examples(run)
    assert report(run, "--explain") == 0
    assert f"overlays: {len(rows)} of {len(rows)} example images (Grad-CAM of auc)" in capsys.readouterr().out
    found = overlays(folder)
    assert set(found) == {(row["image"], row["label"]) for row in rows}
    assert len({row["file"] for row in found.values()}) == len(rows)  # an image in two grids has two maps
    for row in rows:
        overlay = found[row["image"], row["label"]]
        assert overlay["file"].startswith(row["file"].removesuffix(".png") + "_explain")
        assert (overlay["model"], overlay["networks"], overlay["method"]) == ("auc", "", "Grad-CAM")
        with Image.open(folder / overlay["file"]) as drawn, Image.open(folder / row["file"]) as thumbnail:
            assert drawn.size == thumbnail.size and max(drawn.size) <= drawing.SIDE and drawn.format == "PNG"
    assert not (folder / "99_explain.png").exists()
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count('class="pair"') == len(rows)
    assert "drawn by Grad-CAM of <strong>auc</strong>: no evidence that an answer is correct" in page
    assert f"{FOLDER}/{rows[0]['file'].removesuffix('.png')}_explain.png" in (run / "report" / "report.md").read_text()
    assert report(run) == 0  # not asked for again: what was drawn stays on the page
    assert (run / "report" / "report.html").read_text(encoding="utf-8") == page
    assert "overlays" not in capsys.readouterr().out


def test_the_overlay_is_the_map_of_its_own_label_over_the_thumbnail(run: Path) -> None:
    drawing.explain_examples(run, "cpu")
    row = examples(run)[0]
    folder = run / "predictions" / FOLDER
    thumbnail = np.asarray(Image.open(folder / row["file"]).convert("RGB"))
    loaded = load_run(run, "cpu")
    part = next(part for part in loaded.parts if part.column == "auc" and row["label"] in part.labels)
    maps = drawing.Networks(loaded, "auc", drawing.Wanted())._of(loaded, part)
    heat = maps(thumbnail[None, ..., :1].copy(), part.labels.index(row["label"]))[0]
    shown = Image.open(folder / overlays(folder)[row["image"], row["label"]]["file"]).convert("RGB")
    expected = drawing.overlay(thumbnail, heat).astype(float)
    assert np.abs(np.asarray(shown) - expected).mean() < 2  # but for the palette


def test_originals_that_are_gone_or_changed_are_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, root = examples(run), Path(json.loads((run / "data.json").read_text())["root"])
    images = list(dict.fromkeys(row["image"] for row in rows))
    (root / images[0]).unlink()
    Image.open(root / images[1]).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(root / images[1])
    kept = sum(row["image"] not in images[:2] for row in rows)
    assert report(run, "--explain") == 0
    said = capsys.readouterr().out
    assert f"overlays: {kept} of {len(rows)} example images" in said
    assert f"without overlay: 2 originals under {root}" in said and f"1 {drawing.ANOTHER}" in said
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count('class="pair"') == kept and f"{len(rows) - kept} of {len(rows)} have no overlay" in page
    index = (run / "predictions" / FOLDER / OVERLAYS).read_bytes()
    shutil.rmtree(root)  # as on another machine: what was drawn is not thrown away
    assert report(run, "--explain") == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert (run / "predictions" / FOLDER / OVERLAYS).read_bytes() == index


def test_a_run_without_examples_and_an_ensemble_say_why_not(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "predictions" / "examples.csv").unlink()
    assert report(run, "--explain") == 2
    assert "keeps no example images" in capsys.readouterr().err
    (run / "ensemble.json").write_text(json.dumps({"members": [{"path": "a/run"}, {"path": "b/run"}]}))
    assert report(run, "--explain") == 2
    assert "dam report a/run b/run --explain" in capsys.readouterr().err


def test_without_the_extra_one_sentence_says_how_to_get_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pytorch_grad_cam"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert report(run, "--explain") == 2
    assert 'pip install "dam[explain]"' in capsys.readouterr().err
    assert report(run) == 0


def test_rollout_is_said_to_ask_for_no_label() -> None:
    row = {"image": "a", "label": "x", "model": "auc", "networks": "", "method": "attention rollout"}
    said = plain(str(_about({("a", "x"): row}, [row])[0].text))
    assert "attention rollout of auc" in said and "not what speaks for a label" in said
    assert "no place raises the score" not in said and not _about({}, [row])


def test_folds_draw_test_together_and_validation_images_each_alone(tmp_path: Path) -> None:
    run = train(tmp_path, "data.folds=2", "data.fold=all", bare=True)
    drawing.explain_examples(run, "cpu")
    folder = run / "predictions" / FOLDER
    assert {row["networks"] for row in overlays(folder).values()} == {"mean over 2 folds"}
    loaded = load_run(run, "cpu")
    both = [dict.fromkeys(names(fold.path / "predictions" / "val.csv"), fold) for fold in loaded.folds]
    rows = [{"split": "val", "image": next(iter(one))} for one in both]
    owner = drawing._owners(loaded, rows)
    for row, fold in zip(rows, loaded.folds, strict=True):
        drawer, who = owner(row)
        assert drawer is fold and who == "the fold that did not train on it"


def names(table: Path) -> list[str]:
    with open(table, encoding="utf-8", newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]
