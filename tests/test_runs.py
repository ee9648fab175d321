"""`dam runs`: states, numbers and damage are said from small files alone; `clean` asks."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dam.cli import main
from dam.errors import UserError
from dam.report import overview_table
from dam.report.leftovers import leftovers, remove
from dam.report.overview import find_runs, read_row, read_runs


def report(val: float, test: float, low: float = 0.01, high: float = 0.05) -> dict:
    rows = [
        {
            "split": s,
            "label": "mean",
            "model": m,
            "n": 9,
            "n_pos": 4,
            "auc": v - d,
            "ci_low": v - 0.1,
            "ci_high": v + 0.1,
        }
        for s, v in (("test", test), ("val", val))
        for m, d in (("warm_start", 0.2), ("auc", 0.0))
    ]
    pairs = [
        {"split": s, "label": label, "a": "auc", "b": "ce", "difference": 0.03, "ci_low": low, "ci_high": high}
        for s in ("test", "val")
        for label in ("Edema", "mean")
    ]
    return {"headline_split": "test", "auc": rows, "comparisons": pairs}


def make(path: Path, progress: dict | None = None, found: dict | None = None, lr: float = 0.1) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(f"name: quick\nauc:\n  optimizer:\n    lr: {lr}\n  loss: {{name: auc_margin}}\n")
    (path / ".lock").touch()
    (path / "environment.json").write_text(json.dumps({"started": "2026-01-31T12:00:00+0000"}))
    if progress is not None:
        (path / "progress.json").write_text(json.dumps(progress))
    if found is not None:
        (path / "report").mkdir()
        (path / "report" / "auc.json").write_text(json.dumps(found))
    stage = path / "auc" / "edema"
    stage.mkdir(parents=True)
    (stage / "timing.csv").write_text("step,seconds,images_per_second\n1,2.5,9\n2,61.5,9\n")
    return path


DONE = {"state": "done", "stage": "report"}
AT = {"stage": "auc/edema", "step": 120, "steps": 600}


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "outputs"
    make(root / "quick" / "done", DONE, report(0.8, 0.75))
    make(root / "quick" / "stopped", {"state": "running", **AT})
    make(root / "quick" / "interrupted here", {"state": "interrupted", **AT})
    make(root / "quick" / "failed", {"state": "failed", "stage": "warm_start", "reason": "NonFiniteLoss: it\nbroke"})
    make(root / "quick" / "begun")
    return root


def test_states_numbers_and_the_way_on(outputs) -> None:
    rows = {row.path.name: row for row in read_runs([Path("outputs")])}
    done = rows["done"]
    assert (done.experiment, done.state, done.verdict, done.pair) == ("quick", "done", "helps", "auc - ce")
    assert (done.model, done.val.auc, done.test.auc, done.seconds) == ("auc", 0.8, 0.75, 61.5)
    assert done.test.low == pytest.approx(0.65) and done.resume == ""
    assert {name: row.state for name, row in rows.items()} == {
        "done": "done", "stopped": "stopped", "interrupted here": "stopped", "failed": "failed", "begun": "not begun",
    }  # fmt: skip
    assert rows["stopped"].where == "auc/edema step 120/600" and "without a word" in rows["stopped"].reason
    assert rows["failed"].reason == "NonFiniteLoss: it broke"
    assert rows["interrupted here"].resume == "dam train resume='outputs/quick/interrupted here'"
    with open(outputs / "quick" / "stopped" / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_row(outputs / "quick" / "stopped").state == "running"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.05, "helps"),
        (-0.01, 0.05, "tie"),
        (0.0, 0.05, "tie"),
        (-0.05, -0.01, "hurts"),
        (None, None, "not testable"),
    ],
)
def test_verdict_is_the_reports(tmp_path, low, high, word) -> None:
    assert read_row(make(tmp_path / "r", DONE, report(0.8, 0.7, low, high))).verdict == word


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", ""),
        ("progress.json", '{"state": "do'),
        ("report/auc.json", "[]"),
        ("report/auc.json", '{"auc": [{"split": 3}]}'),
        ("environment.json", "\x00\xff"),
    ],
)
def test_damaged_files_are_named_and_stop_nothing(outputs, name, content, capsys) -> None:
    (outputs / "quick" / "done" / name).write_text(content, encoding="latin-1")
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert f"damaged: outputs/quick/done: {name}" in out and "quick/failed" in out


def test_table_filter_sort_and_csv(outputs, capsys, tmp_path) -> None:
    make(outputs / "other", DONE, report(0.9, 0.5, -0.1, 0.1), lr=0.2)
    assert main(["runs", "--sort", "-val", "--csv", str(tmp_path / "x.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("outputs/other") and ".500 [.400, .600]" in lines[1] and "auc - ce: tie" in lines[1]
    assert any("6 runs: 2 done" in line or "2 done" in line for line in lines)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text())))
    assert len(rows) == 6 and {row["run"] for row in rows} >= {"outputs/other"} and rows[0]["val_auc"] == "0.9"
    for words, expected in (
        (["state=done"], {"done", "other"}),
        (["auc.optimizer.lr=.2"], {"other"}),
        (["auc.loss=auc_margin", "experiment=quick", "verdict=helps"], {"done"}),
        (["nonfinite"], {"failed"}),
        (["auc.nothing=1"], set()),
    ):
        found = overview_table.select(read_runs([outputs]), words)
        assert {row.path.name for row in found} == expected
    assert main(["runs", "--filter", "state=gone"]) == 0
    assert "passes the filter (of 6)" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean verdict"):
        overview_table.order([], "verdikt")


def test_sweeps_and_folds_are_one_line_each(outputs, capsys) -> None:
    sweep = outputs / "quick" / "sweeps" / "t"
    make(sweep / "0_a", DONE, report(0.7, 0.6))
    make(sweep / "1_b", DONE, report(0.9, 0.8))
    make(sweep / "2_c", {"state": "failed", "reason": "no"})
    (sweep / "sweep.json").write_text("{}")
    outer = make(outputs / "cv", DONE, report(0.6, 0.6))
    for fold in range(3):
        make(outer / f"fold_{fold}", DONE, report(0.6, 0.6))
    make(outputs / "judged", DONE, report(0.6, 0.6))
    (outputs / "judged" / "evaluation.json").write_text('{"source": {}}')
    kinds = [kind for _, kind, _ in find_runs(outputs)]
    assert (kinds.count("job"), kinds.count("fold"), kinds.count("evaluation")) == (3, 3, 1)
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "sweep of 3: 2 done, 1 failed; best 1_b" in out and "3 folds" in out and "judged" not in out
    assert "0_a" not in out and "resume=outputs/quick/sweeps/t/2_c" in out
    assert main(["runs", "--all"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("0_a", "fold_2", "judged"))


def test_mistakes(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        ["runs"],
        ["runs", "--sort"],
        ["runs", "--nope"],
        ["runs", "clean", str(tmp_path)],
        ["runs", "clean"],
    ):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "outputs").mkdir()
    assert main(["runs"]) == 0 and "no run under outputs" in capsys.readouterr().out


def test_hundreds_are_fast_and_no_torch_is_imported(tmp_path) -> None:
    for number in range(200):
        make(tmp_path / "outputs" / "quick" / str(number), DONE, report(0.8, 0.7))
    began = time.process_time()
    assert len(read_runs([tmp_path])) == 200
    assert time.process_time() - began < 2
    code = "import sys; from dam.cli import main; main(['runs']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def litter(path: Path) -> None:
    (path / "auc" / "edema" / "last.ckpt").write_bytes(b"x" * 1000)
    (path / "auc" / "edema" / "previous.ckpt").write_bytes(b"x" * 500)
    (path / ".config.yaml.77.tmp").write_bytes(b"x")
    (path / ".m.onnx.77.partial").mkdir()
    (path / ".m.onnx.77.partial" / "m.onnx").write_bytes(b"x" * 10)


def test_clean_without_a_terminal_needs_yes(outputs, capsys) -> None:
    litter(outputs / "quick" / "done")
    litter(outputs / "quick" / "stopped")
    assert main(["runs", "clean"]) == 2
    out = capsys.readouterr()
    assert "last.ckpt" in out.out and "1.51 kB" in out.out and "say --yes" in out.err
    assert main(["runs", "clean", "--yes"]) == 0
    out = capsys.readouterr().out
    assert "removed 1.51 kB" in out and "stopped is stopped: left alone" in out
    assert not leftovers(outputs / "quick" / "done").paths
    assert len(leftovers(outputs / "quick" / "stopped").paths) == 4
    assert (outputs / "quick" / "done" / "auc" / "edema" / "timing.csv").exists()


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("", 4), ("n", 4)])
def test_clean_asks_about_an_unfinished_run(outputs, monkeypatch, answer, left) -> None:
    run = outputs / "quick" / "stopped"
    litter(run)
    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)
    assert main(["runs", "clean", str(run)]) == 0
    assert "NOT finished (stopped at auc/edema step 120/600)" in asked[0]
    assert len(leftovers(run).paths) == left


def test_a_running_run_is_never_cleaned(outputs, capsys) -> None:
    run = outputs / "quick" / "stopped"
    litter(run)
    with open(run / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(["runs", "clean", str(run), "--yes"]) == 0
        assert "is running: left alone" in capsys.readouterr().out
        with pytest.raises(UserError, match="in use"):
            remove(leftovers(run))
    assert len(leftovers(run).paths) == 4
