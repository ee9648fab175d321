"""``torchrun -m dam train`` for real: a process killed and restarted, a launch stopped and taken up by one."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from tiny import contents, words

pytestmark = pytest.mark.slow

MORE = ("model.name=test_vit", "data.labels=[Edema]", "auc=auc_margin", "auc.steps=40", "checkpoint.every=5")


def torchrun(folder: Path, count: int, *more: str) -> subprocess.Popen[str]:
    """``count`` processes that train into ``folder``/run or, where that is not among the words, into outputs/."""
    root = Path(__file__).parent.parent
    environment = {**os.environ, "DAM_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with open(folder / "said.txt", "a") as said:
        return subprocess.Popen(
            [*launcher, "--max-restarts", "1", "-m", "dam", "train", *more],
            env=environment,
            cwd=folder,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
        )


def when(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if there():
            return
        assert process.poll() is None, "it ended before it was to be stopped"
        time.sleep(0.05)
    raise AssertionError("it did not come to the place where it was to be stopped")


def workers(launcher: subprocess.Popen[str]) -> list[int]:
    """The process ids of the ranks, in order."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = dict(one.split("=", 1) for one in (folder / "environ").read_text().split("\0") if "=" in one)
        except (OSError, ValueError):
            continue
        if parent == launcher.pid:
            found.append((int(variables["RANK"]), int(folder.name)))
    return [pid for _, pid in sorted(found)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert torchrun(folder, 3, *words(folder / "run", *MORE)).wait(600) == 0
    return folder / "run"


@pytest.mark.parametrize("given", [True, False], ids=["run_dir", "outputs"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_process_is_restarted_and_nothing_changes(
    undisturbed: Path, tmp_path: Path, rank: int, given: bool
) -> None:
    wanted = [*words(tmp_path / "run", *MORE), "name=killed"]
    launched = torchrun(tmp_path, 3, *(word for word in wanted if given or not word.startswith("run_dir=")))
    where = "run" if given else "outputs/killed/*"
    when(lambda: any(tmp_path.glob(f"{where}/auc/edema/last.ckpt")), launched)
    os.kill(workers(launched)[rank], signal.SIGKILL)
    began = time.monotonic()
    when(lambda: "(pid:" in (tmp_path / "said.txt").read_text(), launched)  # torchrun names the one that died
    assert time.monotonic() - began < 60
    assert launched.wait(600) == 0, (tmp_path / "said.txt").read_text()[-3000:]
    (run,) = tmp_path.glob(where)
    after, before = contents(run), contents(undisturbed)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name] and not name.startswith("report")] == []
    assert json.loads((run / "resumed.json").read_text())[0]["processes"] == 3
    assert not list(tmp_path.glob("**/*launch*"))  # the note of the launch has gone with its purpose


def test_a_stopped_launch_goes_on_with_one_process(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launched = torchrun(tmp_path, 2, *words(run, *MORE))
    when((run / "auc" / "edema" / "last.ckpt").exists, launched)
    launched.send_signal(signal.SIGTERM)
    assert launched.wait(60) != 0
    stopped = json.loads((run / "progress.json").read_text())
    assert (stopped["state"], stopped["stage"]) == ("interrupted", "auc/edema")
    assert 0 < stopped["step"] < 40
    assert torchrun(tmp_path, 1, f"resume={run}").wait(600) == 0
    assert "trained by 2 processes and goes on with 1" in (run / "train.log").read_text()
    for name in ("warm_start", "auc/edema"):
        one, other = (pd.read_csv(folder / name / "metrics.csv") for folder in (run, undisturbed))
        assert one["step"].tolist() == other["step"].tolist()
        np.testing.assert_allclose(one["train_loss"], other["train_loss"], rtol=1e-5)
        weights, others = (load_file(folder / name / "best.safetensors") for folder in (run, undisturbed))
        for key, value in weights.items():
            np.testing.assert_allclose(value, others[key], atol=1e-4, err_msg=key)


def test_the_others_end_by_themselves_when_the_first_meets_a_full_disk(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))  # a network's weights are more
    try:
        launched = torchrun(tmp_path, 2, *words(tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert launched.wait(600) != 0
    said = (tmp_path / "said.txt").read_text()
    assert "is full; free some space" in said
    assert "SIGKILL" not in said  # nobody waited until torchrun lost its patience


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    assert torchrun(tmp_path, 3, *words(tmp_path / "run", "batch_size=5")).wait(600) != 0
    said = (tmp_path / "said.txt").read_text()
    assert said.count("batch_size=5 is shared by 3 processes") <= 2  # once for each attempt of torchrun
    assert not (tmp_path / "run").exists()
