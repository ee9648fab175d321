"""How often a test set was scored: a new way to judge counts, the same again does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dam.errors import UserError
from dam.report import history


def a_run(folder: Path) -> Path:
    (folder / "predictions").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "predictions" / "test.csv").write_text("image\n")
    (folder / "predictions" / "val.csv").write_text("image\n")
    return folder


def test_only_what_changed_is_counted(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    first = history.record(run)
    assert [entry["what"] for entry in first] == ["test"] and set(first[0]) == {"time", "what", "digest"}
    before = (run / history.FILE).read_bytes()
    assert history.record(run) == first and (run / history.FILE).read_bytes() == before
    (run / "predictions" / "val.csv").write_text("other\n")  # validation chooses, it is not counted
    assert history.times_scored(history.record(run), "test") == 1
    (run / "evaluation.json").write_text('{"evaluation": {"threshold": "f1"}}')
    assert history.times_scored(history.record(run), "test") == 2
    (run / "evaluation.json").unlink()  # back to how it was judged before
    assert history.times_scored(history.record(run), "test") == 2
    (run / "config.yaml").write_text("seed: 1\n")
    (run / "predictions" / "external_b.csv").write_text("image\n")
    entries = history.record(run)
    assert history.times_scored(entries, "test") == 3 and history.times_scored(entries, "external_b") == 1


def test_what_was_judged_elsewhere_counts_for_the_run(tmp_path: Path) -> None:
    run, copy = a_run(tmp_path / "run"), a_run(tmp_path / "copy")
    history.record(run)
    history.record(copy)
    history.merge(copy, run)
    assert history.times_scored(history.read(run), "test") == 1
    (copy / "evaluation.json").write_text("{}")
    history.record(copy)
    history.merge(copy, run)
    assert history.times_scored(history.read(run), "test") == 2


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]"])
def test_a_damaged_history_is_named(tmp_path: Path, text: str) -> None:
    run = a_run(tmp_path / "run")
    (run / history.FILE).write_text(text)
    with pytest.raises(UserError, match=r"history\.json is damaged"):
        history.record(run)


def test_times_are_in_the_file_only_as_text(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    history.record(run)
    assert json.loads((run / history.FILE).read_text())[0]["time"][4] == "-"
