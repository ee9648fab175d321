"""Jobs that need the same warm start: one trains it, the others wait by a lock that dies with its owner."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from dam.data import load_table
from dam.training import warmstart
from dam.training.interrupt import Interrupted
from dam.training.rundir import RunDirectory

FORK = multiprocessing.get_context("fork")  # the parent has imported everything; nothing is computed in the children


@pytest.fixture(autouse=True)
def _one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmstart, "_key", lambda tools: "key")
    monkeypatch.setattr(warmstart, "_LOOK_EVERY", 0.01)


def job(folder: Path, stop: bool = False) -> tuple[Any, Any]:
    run = RunDirectory(folder)
    tools = SimpleNamespace(
        cfg=SimpleNamespace(warm_start=None), run=run, stop=SimpleNamespace(requested=stop), inputs=None
    )
    return SimpleNamespace(spec=SimpleNamespace(folder=run.stage("warm_start"))), tools


def train(planned: Any, tools: Any) -> None:
    folder = planned.spec.folder
    folder.mkdir(parents=True)
    for name in ("best.safetensors", "last.safetensors", "metrics.csv", "timing.csv"):
        (folder / name).write_text(tools.run.path.name)
    tools.run.mark_done(folder, {"val_auc": 0.5})


def never_ends(planned: Any, tools: Any) -> None:
    planned.spec.folder.mkdir(parents=True)
    (planned.spec.folder / "begun").touch()
    time.sleep(600)


def fails(planned: Any, tools: Any) -> None:
    raise ValueError("boom")


def obtain(folder: Path, how: Any) -> None:
    handler = logging.FileHandler(folder.with_suffix(".log"), delay=True)
    logging.getLogger("dam").addHandler(handler)
    logging.getLogger("dam").setLevel(logging.INFO)
    warmstart.obtain(*job(folder), folder.parent / "warm_starts", how)


def wait_for(path: Path, text: str = "") -> None:
    for _ in range(3000):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} never said {text!r}")


def content(folder: Path) -> str:
    return (folder / "warm_start" / "best.safetensors").read_text()


def test_the_next_job_trains_where_the_owner_was_killed_and_others_take_its_warm_start(tmp_path: Path) -> None:
    names = ("first", "second", "third")
    first, second, third = (
        FORK.Process(target=obtain, args=(tmp_path / name, never_ends if name == "first" else train)) for name in names
    )
    first.start()
    wait_for(tmp_path / "first" / "warm_start" / "begun")
    second.start()
    wait_for(tmp_path / "second.log", "waits for the warm start that another job trains")
    assert not (tmp_path / "second" / "warm_start").exists()
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    second.join(30)
    third.start()
    third.join(30)
    assert (second.exitcode, third.exitcode) == (0, 0)
    assert content(tmp_path / "second") == content(tmp_path / "third") == "second"
    assert json.loads((tmp_path / "third/warm_start/stage.json").read_text())["taken_from"] == str(tmp_path / "second")
    assert "waits" not in (tmp_path / "third.log").read_text()


def test_a_job_that_fails_leaves_the_warm_start_to_the_next(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        warmstart.obtain(*job(tmp_path / "first"), tmp_path / "warm_starts", fails)
    warmstart.obtain(*job(tmp_path / "second"), tmp_path / "warm_starts", train)
    assert content(tmp_path / "second") == "second"


def test_a_warm_start_that_was_removed_since_is_trained_again(tmp_path: Path) -> None:
    for name in ("first", "second"):
        warmstart.obtain(*job(tmp_path / name), tmp_path / "warm_starts", train)
        for file in (tmp_path / "first" / "warm_start").iterdir():
            file.unlink()
    assert content(tmp_path / "second") == "second"


def test_a_record_that_leads_out_of_the_sweep_is_not_followed(tmp_path: Path) -> None:
    warmstart.obtain(*job(tmp_path / "elsewhere" / "first"), tmp_path / "elsewhere" / "warm_starts", train)
    (tmp_path / "sweep" / "warm_starts").mkdir(parents=True)
    (tmp_path / "sweep" / "warm_starts" / "key.run").write_text(str(tmp_path / "elsewhere" / "first"))
    warmstart.obtain(*job(tmp_path / "sweep" / "second"), tmp_path / "sweep" / "warm_starts", train)
    assert content(tmp_path / "sweep" / "second") == "second"


def test_a_job_that_waits_can_be_stopped(tmp_path: Path) -> None:
    owner = FORK.Process(target=obtain, args=(tmp_path / "first", never_ends))
    owner.start()
    wait_for(tmp_path / "first" / "warm_start" / "begun")
    with pytest.raises(Interrupted):
        warmstart.obtain(*job(tmp_path / "second", stop=True), tmp_path / "warm_starts", train)
    owner.kill()
    owner.join(30)


def test_the_key_is_of_all_that_a_warm_start_depends_on_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    table = load_table(tiny.tiny("x").data)

    def key(*words: str, note: str = "") -> str:
        inputs = SimpleNamespace(table=table.with_frame(table.frame, note), store=SimpleNamespace(path=Path("store")))
        return warmstart._key(SimpleNamespace(cfg=tiny.tiny("y", *words), device="cpu", inputs=inputs))  # type: ignore[arg-type]

    same = key()
    assert key("auc.optimizer.lr=0.3", "workers=0", "name=other", "evaluation.replicates=200", "control=ce") == same
    assert key(note="image store built: 144 images of 32 pixels") == same  # the first job's alone says so
    others = ("seed=1", "batch_size=8", "warm_start.optimizer.lr=0.3", "augment.train=[]", "precision=bf16",
              "model.drop_rate=0.1", "select=last", "deterministic=false", "warm_start.steps=7")  # fmt: skip
    assert len({same, *(key(word) for word in others)}) == 1 + len(others)
