"""Faults that only a process of its own can have: signals, locks, two at once, SIGKILL. One interpreter forks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

DRIVER = """
import json, os, signal, sys, time
from functools import partial
from pathlib import Path
sys.path.insert(0, {here!r})
from fault_harness import Scene, child, dam, ended, everything, prepare, standing
from tiny import words

SMALL = ("auc=none", "warm_start.steps=8", "data.patients=30", "data.labels=[Edema]", "batch_size=8")
folder, scenes, found = Path({folder!r}), {scenes!r}, {{}}


class Small(Scene):
    def command(self):
        if (self.run / "config.yaml").exists():
            return ["train", f"resume={{self.run}}"]
        return ["train", *words(self.run, *SMALL)]


def until(condition, patience=60):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def slow(scene, at, seconds=30.0):
    "A run whose step `at` takes long."
    from dam.cli import main
    from dam.training.loop import Loop
    step = Loop._train_step
    def slower(self, batch):
        step(self, batch)
        if self.step == at - 1:
            (scene.folder / "there").touch()
            time.sleep(seconds)
    Loop._train_step = slower
    return main(scene.command())


def note(name, scene, code):
    found[name] = {{
        "code": code, "output": (scene.folder / "output.txt").read_text(), "where": standing(scene.run),
        "checkpoint": (scene.run / "warm_start" / "last.ckpt").exists(),
    }}


prepare()
whole = Small(folder / "whole")
assert ended(dam(whole), 120) == 0

SIGNALS = {{
    "term": (signal.SIGTERM, None), "interrupt": (signal.SIGINT, None), "twice": (signal.SIGINT, signal.SIGTERM),
}}
for name, (first, second) in SIGNALS.items():
    if name not in scenes:
        continue
    scene = Small(folder / name)
    number = child(scene, partial(slow, scene, 3, 30 if second else 1))
    until((scene.folder / "there").exists)
    os.kill(number, first)
    if second:
        time.sleep(0.2)
        os.kill(number, second)
    began = time.monotonic()
    note(name, scene, ended(number, 60))
    found[name]["seconds"] = time.monotonic() - began
    assert ended(dam(scene), 120) == 0
    found[name]["equal"] = everything(scene.run) == everything(whole.run)

if "killed" in scenes:
    scene = Small(folder / "killed")
    number = child(scene, partial(slow, scene, 3))
    until((scene.folder / "there").exists)
    note("second", scene, ended(dam(scene), 60))
    os.kill(number, signal.SIGKILL)
    found["killed"] = ended(number, 10)
    note("after", scene, ended(dam(scene), 120))
    found["after"]["equal"] = everything(scene.run) == everything(whole.run)

if "building" in scenes:  # SIGTERM while the store is built
    scene = Small(folder / "building")
    number = dam(scene)
    until(lambda: any(scene.store.glob("images-*")))
    os.kill(number, signal.SIGTERM)
    note("building", scene, ended(number, 60))
    found["building"]["made"] = scene.run.exists()
    assert ended(dam(scene), 120) == 0
    found["building"]["equal"] = everything(scene.run) == everything(whole.run)

if "pair" in scenes:  # two that want one store at once
    both = [Small(folder / "pair" / str(i)) for i in range(2)]
    for scene in both:
        scene.__class__ = type("Shared", (Small,), {{"store": folder / "pair" / "store"}})
    numbers = [dam(scene) for scene in both]
    for i, (scene, number) in enumerate(zip(both, numbers)):
        note(f"pair{{i}}", scene, ended(number, 120))
        found[f"pair{{i}}"]["equal"] = everything(scene.run) == everything(whole.run)
    found["stores"] = sorted(path.name for path in (folder / "pair" / "store").glob("images-*") if path.is_dir())

print(json.dumps(found))
"""


def played(factory: pytest.TempPathFactory, *scenes: str) -> dict:
    folder = factory.mktemp("processes")
    code = DRIVER.format(here=str(HERE), folder=str(folder), scenes=scenes)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return played(tmp_path_factory, "term", "twice", "killed")


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return played(tmp_path_factory, "interrupt", "building", "pair")


def finished_its_step(end: dict) -> bool:
    assert "interrupted; go on with: dam train resume=" in end["output"] and "Traceback" not in end["output"]
    assert (end["where"]["state"], end["where"]["step"]) == ("interrupted", 3)
    return end["code"] == 130 and end["checkpoint"] and end["equal"]


def test_sigterm_finishes_the_step_and_saves(found: dict) -> None:
    assert finished_its_step(found["term"])


@pytest.mark.slow
def test_so_does_ctrl_c(more: dict) -> None:
    assert finished_its_step(more["interrupt"])


def test_the_second_signal_stops_at_once(found: dict) -> None:
    end = found["twice"]
    assert end["code"] == 130 and end["seconds"] < 15 and end["equal"]
    assert (end["where"]["state"], end["where"]["step"]) == ("interrupted", 2)  # the checkpoint of step 2
    assert "go on with: dam train resume=" in end["output"] and "Traceback" not in end["output"]


def test_a_second_process_is_refused_and_the_lock_dies_with_its_owner(found: dict) -> None:
    assert found["second"]["code"] == 2 and "is in use by another process" in found["second"]["output"]
    assert found["killed"] == -9 and found["after"]["code"] == 0


def test_a_killed_run_goes_on_to_the_same_bits(found: dict) -> None:
    assert found["after"]["equal"]


@pytest.mark.slow
def test_sigterm_while_the_store_is_built_leaves_no_run(more: dict) -> None:
    end = more["building"]
    assert end["code"] == 130 and not end["made"] and end["equal"]
    assert "dam: interrupted" in end["output"] and "Traceback" not in end["output"]


@pytest.mark.slow  # the normal suite has two that build one store in tests/test_store.py
def test_two_that_build_one_store_at_once_share_it(more: dict) -> None:
    assert more["pair0"]["code"] == more["pair1"]["code"] == 0
    assert more["pair0"]["equal"] and more["pair1"]["equal"] and len(more["stores"]) == 1


def harness(kills: int, seed: int, *more: str) -> str:
    command = [sys.executable, str(HERE / "fault_harness.py"), "--kills", str(kills), "--seed", str(seed), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills in" in done.stdout and "0 runs differ" in done.stdout
    return done.stdout


@pytest.mark.slow
def test_five_kills_change_nothing() -> None:
    harness(5, 2, "--small")


@pytest.mark.slow
def test_thirty_kills_change_nothing() -> None:
    assert "inside the write of" in harness(30, 1)
