"""``dam report``: from the run's files alone, the same again, with the table, the page and the 23 points on screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_evaluate import a_run

from dam import cli


def test_a_report_is_rebuilt_from_the_files_alone_and_says_which_points_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path / "run")
    assert cli.main(["report", str(run), "--no-figures"]) == 0
    shown = capsys.readouterr().out
    assert "AUC on test" in shown and "verdict: auc against ce" in shown and "report.html" in shown
    points = [line for line in shown.splitlines() if line[:2].strip().isdigit() and "  " in line]
    assert len(points) == 23 and "pass" in shown.splitlines()[-1]
    files = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    (run / "history.json").write_text(json.dumps([{**json.loads(files[run / "history.json"])[0], "time": "1970"}]))
    assert cli.main(["report", str(run), "--no-figures"]) == 0
    again = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "history.json"}
    del files[run / "history.json"]
    assert again == files  # nothing depends on the clock, nor on when the test set was scored


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "takes a run directory"),
        (["{t}/none"], "there is no run directory"),
        (["{t}"], "is no run directory"),
        (["{t}/table.csv"], "dam evaluate {t}/table.csv --out DIR"),
        (["{t}", "evaluation.seed=1"], "judge otherwise with `dam evaluate RUN evaluation.seed=1`"),
        (["{t}", "--figures"], "did you mean --no-figures?"),
    ],
)
def test_mistakes_name_the_next_command(
    tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text("x")
    assert cli.main(["report", *(word.format(t=tmp_path) for word in words)]) == 2
    assert says.format(t=tmp_path) in capsys.readouterr().err
