"""The report of a run directory made by hand: its files say what the predictions say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dam.errors import UserError
from dam.evaluation.predictions import Predictions, make_predictions, write_predictions
from dam.report import build_report
from dam.report.frames import FILES
from dam.report.tables import auc_csv, is_fair, number, p_text, pairs_of, verdict

LABELS = ("Edema", "Pleural | Effusion", "Lung / é")


def table(models: tuple[str, ...], labels: tuple[str, ...], n: int, seed: int, one_class: bool = True) -> Predictions:
    rng = np.random.default_rng(seed)
    k = len(labels)
    targets = (rng.random((n, k)) < 0.4).astype(float)
    if one_class and k > 2:
        targets[:, 2] = 0
    scores = {m: targets + rng.normal(size=(n, k)) for m in models}
    patients = [f"{seed}-{i // 2}" for i in range(n)]
    names = [f"{seed}/{i}.png" for i in range(n)]
    return make_predictions(names, labels, targets, scores, patients, ["study1"] * n)


def stage(folder: Path, column: str, labels: list[str], steps: int, inner: bool = False) -> None:
    folder.mkdir(parents=True)
    rows = {
        "step": [steps // 2, steps],
        "train_loss": [0.7, 0.5],
        "val_auc": [0.7, 0.8],
        "val_auc_smoothed": [0.7, 0.75],
    }
    rows |= {
        "val_loss": [0.8, np.nan],
        "a": [0.5, 0.6] if inner else [np.nan] * 2,
        "b": [0.2, 0.1],
        "alpha": [0.1, 0.0],
    }
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    facts = {"labels": labels, "column": column, "objective": column, "steps": steps, "chosen_step": steps}
    facts["optimizer"] = {"name": "pesg", "lr": 0.1}
    (folder / "stage.json").write_text(json.dumps(facts))


def make_run(
    path: Path,
    models: tuple[str, ...] = ("auc", "warm_start", "ce"),
    labels: tuple[str, ...] = LABELS,
    splits: tuple[str, ...] = ("val", "test"),
    unit: str = "image",
) -> Path:
    (path / "predictions").mkdir(parents=True)
    data = {"name": "phantom", "unit": unit, "merge": "max", "labels": list(labels)}
    config = {"name": "tiny", "seed": 7, "select": "auto", "data": data, "evaluation": {"replicates": 100}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    for i, split in enumerate(splits):
        write_predictions(path / "predictions" / f"{split}.csv", table(models, labels, 60, i))
    if "warm_start" in models:
        stage(path / "warm_start", "warm_start", list(labels), 50)
    for column, part in (("auc", "auc"), ("ce", "control")):
        if column in models:
            for i, label in enumerate(labels):
                stage(path / part / f"slug{i}", column, [label], 120 + 10 * i, inner=column == "auc")
    (path / "environment.json").write_text(json.dumps({"command": ["/x/y/dam", "train", "data.root=/a b"]}))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_run(tmp_path_factory.mktemp("runs") / "run")
    build_report(path)
    return path


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without figures, for tests that build it again."""
    return make_run(tmp_path_factory.mktemp("runs") / "plain")


def test_auc_csv_and_json_hold_the_same_rows_of_every_split_label_and_model(run: Path) -> None:
    frame = pd.read_csv(run / "report" / "auc.csv")
    assert list(frame.columns) == ["split", "label", "model", "n", "n_pos", "auc", "ci_low", "ci_high", "interval"]
    assert list(frame["split"].unique()) == ["test", "val"]
    assert list(frame["model"].unique()) == ["warm_start", "ce", "auc"]
    assert list(frame["label"].unique()) == [*LABELS, "mean"] and len(frame) == 2 * 4 * 3
    content = json.loads((run / "report" / "auc.json").read_text())
    again = pd.DataFrame(content["auc"])
    pd.testing.assert_frame_equal(again.astype({"auc": float}), frame, check_dtype=False)
    test = frame[frame["split"] == "test"]
    row = test[(test["label"] == "Edema") & (test["model"] == "auc")].iloc[0]
    assert row["interval"] == "clustered logit-t" and row["ci_low"] < row["auc"] < row["ci_high"] and row["n"] == 60
    gone = test[test["label"] == LABELS[2]]
    assert gone["auc"].isna().all() and set(gone["interval"]) == {"undefined (no positives)"}
    both = test[(test["model"] == "auc") & test["label"].isin(LABELS[:2])]["auc"]
    mean = test[(test["model"] == "auc") & (test["label"] == "mean")].iloc[0]
    assert mean["auc"] == pytest.approx(both.mean(), abs=1e-15)


def test_comparisons(run: Path) -> None:
    content = json.loads((run / "report" / "auc.json").read_text())
    rows = pd.DataFrame(content["comparisons"])
    assert list(rows.columns) == ["split", "label", "a", "b", "difference", "ci_low", "ci_high", "p_value", "p_holm"]
    pairs = list(dict.fromkeys(zip(rows["a"], rows["b"], strict=True)))
    assert pairs == [("auc", "ce"), ("auc", "warm_start")] and len(rows) == 2 * 2 * 4
    means = {(r["split"], r["model"]): r["auc"] for r in content["auc"] if r["label"] == "mean"}
    for row in content["comparisons"]:
        if row["label"] == "mean":
            expected = means[row["split"], row["a"]] - means[row["split"], row["b"]]
            assert row["difference"] == pytest.approx(expected, abs=1e-14) and row["p_holm"] == row["p_value"]
    assert content["unit"] == "image" and content["mean_labels"]["test"] == list(LABELS[:2])
    assert any("validation AUC was used for choice" in note for note in content["notes"])


def test_markdown_says_what_must_be_said_and_its_figures_exist(run: Path) -> None:
    text = (run / "report" / "report.md").read_text(encoding="utf-8")
    for words in (
        "# tiny: AUC report",
        "the comparison that counts",
        "This includes 120 to 140 further training steps.",
        "Validation AUC was used for choice and is optimistic.",
        "`select=auto`",
        "Pleural \\| Effusion",
        "Lung / é: no AUC, no positives (60 known); left out of the mean",
        "clustered logit-t",
        "tie",
        f"dam train resume={run}",
        "dam train 'data.root=/a b'",
        "The test set was scored once.",
        "to be completed",
        "reference standard",
    ):
        assert words in text, words
    assert text.index("test: auc - ce") < text.index("test: auc - warm_start") < text.index("val: auc - ce")
    assert " nan" not in text.lower() and "ground truth" not in text.lower()
    figures = re.findall(r"\(figures/([^)]+)\)", text)
    assert sorted(figures) == sorted(p.name for p in (run / "report" / "figures").glob("*.png"))
    assert {"auc_bars.png", "roc_edema.png", "pr_edema.png", "scores_pleural_effusion.png"} <= set(figures)
    assert {"warm_start_training.png", "training_lung.png", "inner_edema.png", "calibration_edema.png"} <= set(figures)
    assert "roc_lung.png" not in figures
    for name in figures:
        assert re.fullmatch(r"[a-z0-9_]+\.png", name)
        assert (run / "report" / "figures" / name).read_bytes().startswith(b"\x89PNG")
        data = pd.read_csv(run / "report" / "figures" / "data" / name.replace(".png", ".csv"))
        assert len(data) and (run / "report" / "figures" / name.replace(".png", ".svg")).is_file()


def test_every_table_is_a_file_with_the_rows_of_report_json(run: Path) -> None:
    content = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert content["verdict"]["word"] in ("helps", "tie", "hurts", "not testable")
    for name, file in FILES.items():
        rows = content["tables"][name]
        path = run / "report" / file
        assert path.is_file() == bool(rows), name
        if rows:
            frame = pd.read_csv(path)
            assert (
                list(frame.columns) == list(rows[0])
                and len(frame) == len(rows)
                and set(frame["split"]) <= {"test", "val"}
            )
    for name in ("performance", "operating", "calibration", "trust"):
        assert content["tables"][name], name
    assert [p["number"] for p in content["points"]] == list(range(1, 24))
    fitted = json.loads((run / "predictions" / "calibration.json").read_text(encoding="utf-8"))
    assert {"method", "slope", "intercept", "positives", "negatives", "threshold", "rule"} <= set(
        fitted["auc"]["Edema"]
    )


def test_tables_for_a_paper(run: Path) -> None:
    text = (run / "report" / "tables.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3 and r"warm\_start" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3
    assert "29 %" not in text.replace(r"\%", "") and not re.search(r"(?<!\\)%(?! made by dam)", text)
    lines = (run / "report" / "tables.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| Edema")]
    assert len(rows) == 2 and all(line.count("|") == 7 for line in rows)


def test_terminal_lines(plain_run: Path) -> None:
    result = build_report(plain_run, figures=False)
    text = "\n".join(result.lines)
    assert result.lines[0] == "AUC on test [95 % interval], 60 images of 30 patients"
    assert re.search(r"^Edema +\d+/60 +\.\d{3} \[\.\d{3}, \.\d{3}\]", text, re.M)
    assert re.search(r"^Lung / é +0/60 +- +- +-$", text, re.M)
    assert re.search(
        r"^auc - ce +[+-]?\.\d{3} \[[+-]?\.\d{3}, [+-]?\.\d{3}\], p .*: (tie|auc higher|ce higher)$", text, re.M
    )
    assert "includes 120 to 140 further training steps" in text
    assert re.search(r"^verdict: .*(helps|tie|hurts)", text, re.M)
    assert result.lines[-1] == f"report: {plain_run / 'report' / 'report.html'}"
    assert (plain_run / "report" / "table.txt").read_text(encoding="utf-8") == text + "\n"
    assert result.headline.split == "test" and len(result.aucs("val")) == 12 and result.aucs("train") == ()


def test_building_again_changes_nothing(plain_run: Path) -> None:
    build_report(plain_run, figures=False)
    before = {p: p.read_bytes() for p in sorted((plain_run / "report").rglob("*")) if p.is_file()}
    build_report(plain_run, figures=False)
    after = {p: p.read_bytes() for p in sorted((plain_run / "report").rglob("*")) if p.is_file()}
    assert before == after


def test_a_run_of_one_model_one_label_and_no_test_split(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", ("ce",), ("PNEUMONIA",), ("val",), unit="patient")
    result = build_report(path)
    text = result.markdown.read_text(encoding="utf-8")
    assert "there is no test split, and validation AUC was used for choice and is optimistic" in text
    assert "30 patients (max score of 60 images)" in text and "Mean AUC of ce" in text
    assert json.loads(result.json.read_text())["comparisons"] == []
    assert "validation AUC was used for choice and is optimistic" in result.lines
    assert result.figures[0].name == "auc_bars.png"


def test_without_a_control_the_report_names_the_missing_comparison(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", ("warm_start", "auc"))
    text = build_report(path, figures=False).markdown.read_text(encoding="utf-8")
    assert "This includes 120 to 140 further training steps. There is no control in this run" in text
    assert "comparison that counts" not in text


def test_bare_directories_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        build_report(tmp_path)
    (tmp_path / "config.yaml").write_text("name: x\n")
    with pytest.raises(UserError, match="dam train resume="):
        build_report(tmp_path)
    (tmp_path / "predictions").mkdir()
    write_predictions(tmp_path / "predictions" / "val.csv", table(("m",), ("X",), 20, 0))
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(UserError, match=r"data\.json is damaged"):
        build_report(tmp_path)
    (tmp_path / "data.json").unlink()
    assert build_report(tmp_path, figures=False).headline.models == ("m",)


def test_numbers_as_printed(plain_run: Path) -> None:
    assert [number(x) for x in (0.8432, 1.0, 0.9996, 0.0, float("nan"))] == [".843", "1.000", "1.000", ".000", "–"]
    assert [number(x, sign=True) for x in (0.0123, -0.0123, -0.0001, 1.0)] == ["+.012", "-.012", ".000", "+1.000"]
    assert [p_text(p) for p in (0.0004, 0.0123, 1.0, float("nan"))] == ["<.001", ".012", "1.000", "–"]
    result = build_report(plain_run, figures=False)
    assert auc_csv(result.judged) == result.csv.read_text()
    for row in result.comparisons("test"):
        assert (verdict(row) == "tie") == (row.ci_low <= 0 <= row.ci_high)


def test_pairs() -> None:
    assert pairs_of(("warm_start", "ce", "auc", "blend"))[0] == ("auc", "ce")
    assert pairs_of(("warm_start", "ce")) == [("ce", "warm_start")]
    assert pairs_of(("auc",)) == []


def test_a_report_needs_no_torch_to_be_judged() -> None:
    import subprocess
    import sys

    code = "import sys, dam.evaluation, dam.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_augmented_and_mixed_scores_are_compared_with_the_plain_ones_and_with_the_controls_own() -> None:
    models = ["warm_start", "ce", "auc", "ce_tta", "auc_tta", "metadata", "auc_meta", "ce_meta"]
    pairs = pairs_of(models)
    assert pairs[0] == ("auc", "ce")
    assert {("auc_tta", "auc"), ("auc_tta", "ce_tta"), ("auc_meta", "auc"), ("auc_meta", "ce_meta")} <= set(pairs)
    assert [p for p in pairs if is_fair(p)] == [("auc", "ce"), ("auc_tta", "ce_tta"), ("auc_meta", "ce_meta")]
