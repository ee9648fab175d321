"""``dam evaluate``: the report of any table, a run judged otherwise, what is written over and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dam import cli
from dam.commands.completion import complete
from dam.commands.judging import settings
from dam.evaluation.auc import roc_auc
from dam.evaluation.predictions import make_predictions, read_predictions, write_predictions
from dam.report.run_files import read_run
from dam.schema import ConfigError


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is tested where it belongs and takes seconds."""
    monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])


def write_long(path: Path, n: int = 120, seed: int = 0, flip: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 2)) < 0.3).astype(int)
    scores = 1 / (1 + np.exp(-(flip * targets + rng.normal(size=(n, 2)))))
    lines = ["file,PatientID,finding,truth,net,other,sex"]
    for i in range(n):
        for k, label in enumerate("AB"):
            sex = "FM"[i // 2 % 2]
            lines.append(f"i{i},p{i // 2},{label},{targets[i, k]},{scores[i, k].item()!r},{rng.random()!r},{sex}")
    path.write_text("\n".join(lines) + "\n")
    return targets, scores


def a_run(folder: Path) -> Path:
    """What a finished run leaves for its report, made up."""
    (folder / "predictions").mkdir(parents=True)
    config = (
        "name: made_up\nseed: 0\ndata: {name: x, unit: patient, merge: max}\nevaluation: {replicates: 100, seed: 3}\n"
    )
    (folder / "config.yaml").write_text(config)
    for split, seed in (("val", 0), ("test", 1)):
        rng = np.random.default_rng(seed)
        targets = (rng.random((90, 2)) < 0.4).astype(float)
        scores = {m: targets * lift + rng.normal(size=(90, 2)) for m, lift in (("ce", 0.8), ("auc", 1.2))}
        patients = [f"{split}{i // 2}" for i in range(90)]
        table = make_predictions([f"{split}{i}" for i in range(90)], ("A", "B"), targets, scores, patients)
        write_predictions(folder / "predictions" / f"{split}.csv", table)
    return folder


FORM = ["--patient", "PatientID", "--target", "truth", "--replicates", "100"]


def test_a_table_gets_the_report_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets, scores = write_long(tmp_path / "t.csv")
    write_long(tmp_path / "v.csv", seed=1)
    out = tmp_path / "out"
    words = ["evaluate", str(tmp_path / "t.csv"), "--out", str(out), "--val", str(tmp_path / "v.csv"), *FORM]
    assert cli.main([*words, "--metadata", "sex", "--unit", "patient"]) == 0
    shown = capsys.readouterr().out
    assert "t.csv: long form, labels in finding" in shown and "net: scores lie in [0, 1]: taken as prob" in shown
    assert "60 patients (mean score of 120 images)" in shown
    kept = read_predictions(out / "predictions" / "test.csv")
    for k in range(2):  # the same order to the last tie
        assert roc_auc(targets[:, k], scores[:, k]) == roc_auc(kept.targets[:, k], kept.scores["net"][:, k])
    run = read_run(out)
    assert run.foreign and run.metadata is not None and "sex" in run.metadata.columns
    assert run.setting("data", "unit") == "patient" and run.setting("evaluation", "replicates") == 100
    report = json.loads((out / "report" / "report.json").read_text())
    assert report["tables"]["calibration"] and {r["column"] for r in report["tables"]["subgroups"]} == {"sex"}
    page = (out / "report" / "report.md").read_text()
    assert "how its scores were trained and chosen, and with which seeds, is not known here" in page
    assert "dam evaluate" in page and "dam train resume" not in page
    calibrated = json.loads((out / "predictions" / "calibration.json").read_text())
    assert calibrated["net"]["A"]["slope"] > 0


def test_a_second_evaluation_replaces_the_first_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_long(tmp_path / "t.csv")
    out = tmp_path / "out"
    words = ["evaluate", str(tmp_path / "t.csv"), "--out", str(out), *FORM]
    assert cli.main([*words, "--val", str(tmp_path / "t.csv")]) == 0
    assert (out / "predictions" / "val.csv").exists()
    assert cli.main(words) == 0
    assert not (out / "predictions" / "val.csv").exists()
    assert len(json.loads((out / "history.json").read_text())) == 2
    assert cli.main(words) == 0
    assert len(json.loads((out / "history.json").read_text())) == 2
    assert (
        cli.main(["evaluate", str(out), "--threshold", "f1", "--replicates", "100"]) == 0
    )  # judged again in its place
    assert json.loads((out / "evaluation.json").read_text())["source"]["file"].endswith("t.csv")
    assert read_run(out).setting("evaluation", "threshold") == "f1"
    assert len(json.loads((out / "history.json").read_text())) == 3
    assert "3 times" in (out / "report" / "report.md").read_text()
    capsys.readouterr()
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    assert cli.main(["evaluate", str(tmp_path / "t.csv"), "--out", str(foreign), *FORM]) == 2
    assert "is not empty and holds no evaluation" in capsys.readouterr().err
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]


def test_a_bad_second_table_leaves_the_first_report(tmp_path: Path) -> None:
    write_long(tmp_path / "t.csv")
    out = tmp_path / "out"
    assert cli.main(["evaluate", str(tmp_path / "t.csv"), "--out", str(out), *FORM]) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (tmp_path / "bad.csv").write_text("target,m\n1,.5\n0,nan\n")
    assert cli.main(["evaluate", str(tmp_path / "bad.csv"), "--out", str(out)]) == 2
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_an_evaluation_that_fails_leaves_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_long(tmp_path / "t.csv")
    table, out, run = str(tmp_path / "t.csv"), tmp_path / "out", a_run(tmp_path / "run")
    names = [
        name for split in ("val", "test") for name in read_predictions(run / "predictions" / f"{split}.csv").images
    ]
    lines = [f"{name},{name},,test,F" for name in names]
    (run / "predictions" / "images.csv").write_text("\n".join(["image,patient,study,split,sex", *lines]) + "\n")
    nowhere = ["--subgroups", "nowhere"]
    assert cli.main(["evaluate", table, "--out", str(out), *FORM, *nowhere]) == 2 and not out.exists()
    assert cli.main(["evaluate", table, "--out", str(out), *FORM]) == 0
    assert cli.main(["evaluate", str(run), "--interval", "delong"]) == 0
    for folder in (out, run):
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        source = [table, "--out", str(out), *FORM] if folder == out else [str(run)]
        for words in ([*source, *nowhere], [str(folder), *nowhere]):
            assert cli.main(["evaluate", *words]) == 2
            assert "no such column" in capsys.readouterr().err
            assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
        assert cli.main(["report", str(folder)]) == 0
    assert cli.main(["evaluate", table, "--out", str(tmp_path / "t.csv" / "sub"), *FORM]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_external_set_without_a_subgroup_column_is_still_reported(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    folder = run / "predictions"
    test = read_predictions(folder / "test.csv")
    write_predictions(folder / "external_b.csv", test)
    images = [*read_predictions(folder / "val.csv").images, *test.images]
    lines = [f"{image},{'FM'[i // 2 % 2]}" for i, image in enumerate(images)]
    (folder / "images.csv").write_text("\n".join(["image,sex", *lines]) + "\n")
    (folder / "images_external_b.csv").write_text("\n".join(["image,site", *(f"{i},x" for i in test.images)]) + "\n")
    assert cli.main(["evaluate", str(run), "--subgroups", "sex"]) == 0
    report = json.loads((run / "report" / "report.json").read_text())
    assert {(row["split"], row["column"]) for row in report["tables"]["subgroups"]} == {("val", "sex"), ("test", "sex")}
    assert "subgroups: no sex in the metadata of this set" in report["assessment_notes"]["external_b"]


def test_validation_that_is_the_test_table_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_long(tmp_path / "t.csv")
    words = ["evaluate", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), *FORM]
    assert cli.main([*words, "--val", str(tmp_path / "t.csv")]) == 0
    assert "120 of 120 images are also in" in capsys.readouterr().out
    assert "120 of 120 images are also in" in (tmp_path / "out" / "report" / "report.md").read_text()
    assert cli.main(words) == 0  # and without one, no threshold is said to have been chosen
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "No thresholds: there is no validation set" in page and "chosen on validation only" not in page


def test_readers_of_one_file_each(tmp_path: Path) -> None:
    targets, _ = write_long(tmp_path / "t.csv")
    (tmp_path / "folder").mkdir()
    for name, order in (("r1", (0, 1)), ("r2", (1, 0))):
        rows = [f"i{i},{targets[i, order[0]]},{targets[i, order[1]]}" for i in range(120)]
        text = "\n".join([",".join(["Study", *("AB"[k] for k in order)]), *rows])
        (tmp_path / "folder" / f"{name}.csv").write_text(text + "\n")
    both = ",".join(str(tmp_path / "folder" / f"{name}.csv") for name in ("r1", "r2"))
    for given in (str(tmp_path / "folder"), both):
        out = tmp_path / "out"
        assert cli.main(["evaluate", str(tmp_path / "t.csv"), "--out", str(out), *FORM, "--readers", given]) == 0
        tables = json.loads((out / "report" / "report.json").read_text())["tables"]
        assert {r["reader"] for r in tables["readers"]} == {"r1", "r2"}
        assert {r["sensitivity"] for r in tables["readers"]} == {1.0}  # columns go by name


def test_a_run_is_judged_otherwise_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path / "run")
    assert cli.main(["evaluate", str(run)]) == 0
    assert "45 patients (max score of 90 images)" in capsys.readouterr().out
    first = (run / "report" / "auc.csv").read_bytes()
    assert cli.main(["evaluate", str(run), "--unit", "image", "evaluation.prevalence=0.05"]) == 0
    told = json.loads((run / "evaluation.json").read_text())
    assert told["data"] == {"unit": "image", "merge": "max"} and told["evaluation"]["prevalence"] == 0.05
    assert told["evaluation"]["seed"] == 3 and told["evaluation"]["replicates"] == 100  # the run's own
    assert (run / "report" / "auc.csv").read_bytes() != first
    assert cli.main(["report", str(run), "--no-figures"]) == 0  # from the files alone: judged as it was last
    assert "90 images" in capsys.readouterr().out
    out = tmp_path / "elsewhere"
    assert cli.main(["evaluate", str(run), "--interval", "logit", "--out", str(out)]) == 0
    assert len(json.loads((run / "history.json").read_text())) == 3  # that it was judged elsewhere counts too
    assert not (out / "report" / "auc.csv").samefile(run / "report" / "auc.csv")
    assert cli.main(["evaluate", str(run)]) == 0
    assert not (run / "evaluation.json").exists() and (run / "report" / "auc.csv").read_bytes() == first


def test_settings_come_from_the_config_files_the_run_and_the_words() -> None:
    plain = settings([])
    assert plain["data"] == {"unit": "image", "merge": "mean"} and plain["evaluation"]["replicates"] == 2000
    stored = {"data": {"unit": "study"}, "evaluation": {"seed": 9, "threshold": "f1"}}
    found = settings(["evaluation.threshold=cost"], stored)
    assert found["data"]["unit"] == "study" and found["evaluation"]["seed"] == 9
    assert found["evaluation"]["threshold"] == "cost"
    with pytest.raises(ConfigError, match="chooses images") as error:
        settings(["data.root=/x", "data.csv=y"])
    assert len(error.value.faults) == 2


def test_all_faults_of_the_settings_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--interval", "foo", "--replicates", "3", "--prevalence=2", "evaluation.sed=1"]
    assert cli.main(["evaluate", str(tmp_path / "t.csv"), "--out", str(tmp_path / "o"), *words]) == 2
    error = capsys.readouterr().err
    for told in ("4 faults", "interval must be one of", "replicates must be", "prevalence must be", "evaluation.seed"):
        assert told in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "takes one table or run and was given nothing"),
        (["{t}", "{t}"], "to compare runs or tables: dam compare A B"),
        (["{t}"], "say where the report goes"),
        (["{t}", "--out", "{run}"], "is a run: it is not written over"),
        (["{t}", "--out", "{t}"], "is a file; give a new or empty directory"),
        (["{t}", "--out", "{o}", "--scores", "prob"], "--scores prob: choose one of auto, probability, logit"),
        (["{t}", "--out", "{o}", "--data", "phantom"], "only a run can score images"),
        (["{t}", "--out", "{o}", "--readers", "none.csv"], "there is no file"),
        (["{t}", "--out", "{o}", "--metadata", "none.csv"], "there is no file none.csv, which --metadata names"),
        (["{t}", "--out", "{o}", "--metadata", "agee"], "no column agee, which --metadata names"),
        (["{t}", "--out", "{o}", "--out", "{o}"], "--out is given 2 times"),
        (["{t}", "--out"], "--out needs a value"),
        (["{t}", "--outt", "x"], "--outt is no option of `dam evaluate`; did you mean --out?"),
        (["{run}", "--name", "x"], "add --data NAME"),
        (["{run}", "--score", "x"], "in dam's own form"),
        (["{run}", "--out", "{run}"], "is a run: it is not written over"),
        (["{run}/predictions"], "is no run directory"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_long(tmp_path / "t.csv", n=20)
    run = a_run(tmp_path / "run")
    names = {"t": tmp_path / "t.csv", "o": tmp_path / "out", "run": run}
    assert cli.main(["evaluate", *(word.format(**names) for word in words)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_validation_needs_the_same_models_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_long(tmp_path / "t.csv")
    (tmp_path / "v.csv").write_text("file,PatientID,finding,truth,net\na,p,A,1,.5\nb,q,A,0,.4\n")
    words = ["evaluate", str(tmp_path / "t.csv"), "--out", str(tmp_path / "o"), "--val", str(tmp_path / "v.csv")]
    assert cli.main([*words, *FORM]) == 2
    assert "has no scores of other, which" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dam evaluate run --inter", ["--interval"]),
        ("dam evaluate run --interval b", ["bootstrap"]),
        ("dam evaluate run --data pha", ["phantom"]),
        ("dam evaluate run evaluation.thres", ["evaluation.threshold="]),
        ("dam evaluate ", []),
        ("dam compare a b --uni", ["--unit"]),
        ("dam compare a b --split v", ["val"]),
        ("dam report --no", ["--no-figures"]),
        ("dam evaluate t.csv --layout ", ["long", "wide"]),
    ],
)
def test_completion_knows_flags_and_their_words(line: str, expected: list[str]) -> None:
    assert complete(line) == expected
