"""Run directories, checkpoints and selection, without any training."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from dam.errors import UserError
from dam.files import atomic_path, atomic_write_text, slugs
from dam.training import checkpoint, rundir, selection
from dam.training.metrics import MetricsFile, columns_of


def test_two_runs_in_one_second_do_not_share_a_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = rundir.create(None, "x", "a: 1\n"), rundir.create(None, "x", "a: 1\n")
    assert first.path != second.path
    assert second.config_file.read_text() == "a: 1\n"


def test_a_run_is_never_written_over(tmp_path) -> None:
    run = rundir.create(str(tmp_path / "run"), "x", "a: 1\n")
    run.close()
    with pytest.raises(UserError, match=r"already holds a run.*resume="):
        rundir.check_free(run.path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        rundir.create(str(tmp_path / "other"), "x", "a: 1\n")


def test_a_directory_that_was_only_begun_is_empty(tmp_path) -> None:
    for name in (".lock", ".config.yaml.123.tmp"):
        (tmp_path / name).write_text("")
    rundir.create(str(tmp_path), "x", "a: 1\n").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.yaml"]


def test_no_run_directory_is_said(tmp_path) -> None:
    with pytest.raises(UserError, match="there is no directory"):
        rundir.open_run(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no config.yaml"):
        rundir.open_run(tmp_path)


def test_second_process_is_refused_and_a_dead_owner_leaves_no_lock(tmp_path) -> None:
    run = rundir.create(str(tmp_path / "run"), "x", "a: 1\n")
    code = f"from pathlib import Path; from dam.training.rundir import open_run; open_run(Path({str(run.path)!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "in use by another process" in result.stderr
    run.close()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_slugs_are_safe_and_unique() -> None:
    names = slugs(("Pleural Effusion", "pleural-effusion", "../../x", "日本"))
    assert names == {
        "Pleural Effusion": "pleural_effusion",
        "pleural-effusion": "pleural_effusion_2",
        "../../x": "x",
        "日本": "label",
    }


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, {"step": step, "w": torch.full((100,), float(step))})
    newest = tmp_path / checkpoint.NEWEST
    data = bytearray(newest.read_bytes())
    at = data.find(np.full(4, 2.0, dtype=np.float32).tobytes())
    data[at] ^= 0xFF
    newest.write_bytes(bytes(data))
    assert checkpoint.load(tmp_path)["step"] == 1
    newest.write_bytes(newest.read_bytes()[:200])
    assert checkpoint.load(tmp_path)["step"] == 1
    newest.unlink()  # killed between the two renames
    assert checkpoint.load(tmp_path)["step"] == 1
    checkpoint.remove(tmp_path)
    assert checkpoint.load(tmp_path) is None


def test_malicious_checkpoint_is_not_executed(tmp_path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    torch.save({"step": Evil()}, tmp_path / checkpoint.NEWEST)
    assert checkpoint.load(tmp_path) is None
    assert not marker.exists()


def test_atomic_path_leaves_the_old_file_on_failure(tmp_path) -> None:
    atomic_write_text(tmp_path / "f", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "f") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "f").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(("positives", "rule"), [(49, "last"), (50, "smoothed")])
def test_auto_takes_the_last_weights_below_fifty_positives(positives: int, rule: str) -> None:
    targets = np.zeros((200, 2))
    targets[:positives, 0] = 1
    targets[:150, 1] = 1
    targets[190:, 0] = np.nan
    assert selection.resolve("auto", targets) == rule
    assert selection.resolve("last", targets) == "last"


def test_selection_smooths_over_three_and_never_takes_nan() -> None:
    values = [0.5, 0.9, 0.4, math.nan, 0.6, 0.6, 0.7, 0.8, 0.1]
    chosen = selection.Selection("smoothed")
    kept = [chosen.add(value, step)[1] for step, value in enumerate(values, start=1)]
    # Means of three: - - .6 nan nan nan .633 .7 .533
    assert kept == [False, False, True, False, False, False, True, True, False]
    assert chosen.best == pytest.approx(0.7) and chosen.best_step == 8
    plain = selection.Selection("best")
    assert [plain.add(value, step)[1] for step, value in enumerate(values, start=1)][:2] == [True, True]
    assert (plain.best, plain.best_step) == (0.9, 2)
    last = selection.Selection("last")
    assert not any(last.add(value, step)[1] for step, value in enumerate(values, start=1)) and last.best_step == 0


def test_metrics_file_is_cut_back_to_the_checkpoint(tmp_path) -> None:
    metrics = MetricsFile(tmp_path, columns_of(("a", "b")))
    metrics.add({"step": 1, "epoch": 0.1, "val_auc": 0.1 + 0.2, "val_auc/b": math.nan}, 1.0, 2.0)
    state = metrics.state_dict()
    state = {key: [list(row) for row in rows] for key, rows in state.items()}
    expected = (tmp_path / "metrics.csv").read_text()
    metrics.add({"step": 2, "epoch": 0.2, "a3": 1.5}, 1.0, 2.0)
    assert metrics.column("a3") == [1.5]
    again = MetricsFile(tmp_path, columns_of(("a", "b")))
    again.load_state_dict(state)
    assert again.column("a3") == []
    again.add({"step": 2, "epoch": 0.2, "a3": 1.5}, 9.0, 2.0)
    assert (tmp_path / "metrics.csv").read_text().startswith(expected)
    assert "0.30000000000000004" in expected
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
