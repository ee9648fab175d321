"""Two processes train as one does: the same curves, the same weights, and the first alone writes."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed_worker as worker
import numpy as np
import pytest
import torch
from tiny import tiny

from dam import processes
from dam.cli import main
from dam.errors import ToldByAnother, UserError
from dam.training import device, distributed, elastic, single
from dam.training.replicas import step_seed
from dam.training.rundir import RunDirectory


@dataclass(frozen=True)
class Two:
    """What one process left, and what two did."""

    alone: Path
    together: Path

    def one(self, name: str) -> dict[str, Any]:
        return torch.load(self.alone / f"{name}.0.pt")  # type: ignore[no-any-return]

    def both(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        first, second = (torch.load(self.together / f"{name}.{rank}.pt") for rank in (0, 1))
        return first, second

    def facts(self) -> list[dict[str, Any]]:
        return [json.loads((self.together / f"facts.{rank}.json").read_text()) for rank in (0, 1)]


def environment(**more: object) -> dict[str, str]:
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, str(Path(here).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in more.items()}}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    folder = tmp_path_factory.mktemp("distributed")
    found = Two(folder / "alone", folder / "together")
    found.alone.mkdir()
    found.together.mkdir()
    store, port = folder / "store", free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAM_STORE", str(store))
        worker.main(found.alone)
    ranks = [
        subprocess.Popen(
            [sys.executable, str(Path(worker.__file__)), str(found.together)],
            env=environment(
                RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, DAM_STORE=store
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in ranks:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
    return found


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("name", worker.SCENARIOS)
def test_two_processes_give_the_curve_and_the_weights_of_one(two: Two, name: str) -> None:
    one, (first, _) = two.one(name), two.both(name)
    for column, values in one["columns"].items():
        assert values or column == "alpha"
        np.testing.assert_allclose(first["columns"][column], values, rtol=1e-5, err_msg=column)
    np.testing.assert_allclose(first["logits"], one["logits"], rtol=1e-4, atol=1e-5)
    for part in ("network", "loss"):
        for key, tensor in one[part].items():
            # Adam divides by gradients near zero, which is where rounding shows.
            torch.testing.assert_close(first[part][key], tensor, rtol=1e-4, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", worker.SCENARIOS)
def test_the_processes_end_alike_to_the_last_bit(two: Two, name: str) -> None:
    first, second = two.both(name)
    assert first["columns"] == second["columns"]
    assert first["saved_step"] == second["saved_step"] == 8  # checkpoint.every=2, none after the last of ten steps
    for part in ("network", "loss", "optimizer"):
        assert first[part].keys() == second[part].keys()
        for key, tensor in first[part].items():
            assert torch.equal(tensor, second[part][key]), key
    assert torch.equal(first["logits"], second["logits"])
    if name.startswith("pesg"):
        assert any(key.endswith("reference") for key in first["optimizer"])
        assert {"a", "b", "alpha"} <= first["loss"].keys()


def test_only_the_first_process_writes(two: Two) -> None:
    def names(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.glob("*/**/*") if path.is_file()}

    assert names(two.together) == names(two.alone)


@pytest.mark.parametrize("case", worker.GRADIENTS, ids=repr)
def test_the_mean_gradient_is_that_of_the_whole_batch(two: Two, case: tuple[Any, ...]) -> None:
    """Batch score normalization, class means and class counts are those of all; float64, so that nothing hides."""
    one, (first, second) = two.one("gradients")[repr(case)], two.both("gradients")
    assert any(float(g.abs().max()) > 1e-3 for g in one if g.numel())
    for mine, other, whole in zip(first[repr(case)], second[repr(case)], one, strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-12, atol=1e-14)
        assert torch.equal(mine, other)


# ---------------------------------------------------------------- exchanges


def test_rows_judged_in_turns_come_back_once_and_in_order(two: Two) -> None:
    for facts in two.facts():
        for count, rows in facts["turns"].items():
            assert rows == np.arange(2.0 * int(count)).reshape(-1, 2).tolist()


def test_a_flag_of_one_process_is_known_to_all_a_step_later(two: Two) -> None:
    for facts in two.facts():
        assert [stop for stop, _ in facts["agreed"]] == [False, False, False, True, False, False]
        assert facts["any"] == [False, True]


def test_what_the_first_process_finds_is_told_to_all(two: Two) -> None:
    first, second = two.facts()
    assert first["answer"] == second["answer"] == {"rank": 0}
    assert first["refused"] == second["refused"] == "the disk is on fire; put it out"


def test_a_failure_outside_what_the_others_wait_for_is_told_to_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They would wait for good in the midst of training, where a signal is only noted."""
    store, run = torch.distributed.HashStore(), a_run(tmp_path / "r")

    def fill() -> single.RunResult:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(distributed, "_group", distributed._Group(processes.Place(0, 2), store))
    with pytest.raises(UserError, match="is full"):
        single.guarded(tiny(run.path), run, ({}, {}), fill)
    monkeypatch.setattr(distributed, "_group", distributed._Group(processes.Place(1, 2), store))
    with pytest.raises(ToldByAnother, match="is full"), distributed.main_first():
        pass


@pytest.mark.parametrize("at", ["gradient", "loss"])
def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_all(two: Two, at: str) -> None:
    """And BatchNorm's statistics, which each had renewed with its own images, are as before in all."""
    for facts in two.facts():
        assert facts["skipped"][at] == {"usable": [True, False, True], "taken": 1, "restored": True}


def test_the_smallest_difference_between_processes_is_named(two: Two) -> None:
    for facts in two.facts():
        assert facts["apart"].startswith("loss.alpha of process 1 and of process 0 have come apart")


def test_batchnorm_keeps_the_mean_of_the_running_statistics(two: Two) -> None:
    assert [facts["running_mean"] for facts in two.facts()] == [[0.5, 0.5]] * 2


def test_dropout_differs_between_processes_and_the_first_draws_as_one_does(two: Two) -> None:
    first, second = (facts["seed"] for facts in two.facts())
    assert first == step_seed(1, "auc/edema", 5) != second


def test_a_batch_is_shared_out_with_fillers_that_no_loss_sees(two: Two) -> None:
    first, second = (facts["shares"] for facts in two.facts())
    assert first["images"] == [[0, 1, 2], [7, 8], [18, 19]]
    assert second["images"] == [[3, 4, 2], [9, 10], [19, 19]]
    assert first["rows"] == second["rows"] == [[0, 1, 2, 3, 4], [7, 8, 9, 10], [18, 19]]
    for facts in (first, second):
        five, four, pair = (np.array(targets) * 20 for targets in facts["targets"])
        np.testing.assert_allclose(five, [0, 1, 2, 3, 4, np.nan], atol=1e-5)
        np.testing.assert_allclose(four, [7, 8, 9, 10], atol=1e-5)
        np.testing.assert_allclose(pair, [18, np.nan, 19, np.nan], atol=1e-5)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_image_of_a_batch_is_in_one_share(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    monkeypatch.setattr(distributed, "world", lambda: world)
    for size in range(2, 40):
        places = distributed.shared_out(size)
        assert places[places >= 0].tolist() == list(range(size))  # the order of the processes is that of the batch
        real = (places >= 0).sum(axis=1)
        assert real.max() - real.min() <= 1
        assert places.shape == (world, max(2, -(-size // world)))
        assert (np.diff((places >= 0).astype(int), axis=1) <= 0).all()  # fillers stand at the end


# ---------------------------------------------------------------- the launcher


def launched(monkeypatch: pytest.MonkeyPatch, **variables: str) -> processes.Place:
    for name in [*os.environ]:
        if name.startswith(("SLURM", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return processes.place()


def test_torchrun_and_srun_are_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(monkeypatch) == processes.Place()
    assert launched(monkeypatch, WORLD_SIZE="1", RANK="0") == processes.Place()
    here = launched(monkeypatch, WORLD_SIZE="4", RANK="3", LOCAL_RANK="1", SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="0")
    assert here == processes.Place(3, 4, 1, "env://")


def test_srun_says_where_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "5", "SLURM_LOCALID": "2", "SLURM_JOB_ID": "77"}
    here = launched(monkeypatch, **step, SLURM_STEP_NODELIST="gpu[03-05,9],big1", SLURM_NTASKS="6")
    assert (here.rank, here.world, here.local_rank) == (5, 6, 2)
    host, port = here.url.removeprefix("tcp://").split(":")
    assert host == "gpu03"
    assert 1024 < int(port) < 65536
    # A command in a batch script of several tasks, without srun: the job's number of tasks is not the step's.
    assert launched(monkeypatch, SLURM_NTASKS="6", SLURM_PROCID="0").world == 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node1", "node1"), ("a-1,b", "a-1"), ("n[1-3]", "n1"), ("x.y[007,9]", "x.y007"), ("", "127.0.0.1")],
)
def test_the_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert processes.first_host(nodes) == first


# ---------------------------------------------------------------- sentences


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were the first of three processes that have met."""
    launched(monkeypatch, WORLD_SIZE="3", RANK="0", LOCAL_RANK="0")
    monkeypatch.setattr(distributed, "world", lambda: 3)


@pytest.mark.usefixtures("three")
def test_a_batch_too_small_for_the_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size=5 is shared by 3 processes.*set batch_size=6"):
        single.check_setup(tiny(tmp_path, "batch_size=5"))
    single.check_setup(tiny(tmp_path, "batch_size=6"))


@pytest.mark.usefixtures("three")
def test_what_needs_cuda_devices_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sync_bn=true needs CUDA"):
        single.check_setup(tiny(tmp_path, "sync_bn=true"))
    with pytest.raises(UserError, match=r"device=cuda:1 with 3 processes: use device=cuda"):
        device.resolve(tiny(tmp_path, "device=cuda:1"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "-m", "seed=1,2"], "-m sweeps in one process"),
        (["predict", "run", "images"], "`dam predict` is for one process, 3 were started"),
    ],
)
@pytest.mark.usefixtures("three")
def test_what_is_for_one_process_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_is_for_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launched(monkeypatch, WORLD_SIZE="3", RANK="0")
    with pytest.raises(UserError, match="3 processes were started, but dry_run=true is for one"):
        single.check_setup(tiny(tmp_path, "dry_run=true"))


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("words", [["train", "--cfg", "job"], ["pretrain", "data=phantom"]], ids=["config", "result"])
def test_the_first_process_alone_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], rank: str
) -> None:
    done = single.RunResult(Path(), 0.5, "name: done")
    monkeypatch.setattr("dam.pretraining.run.start", lambda *_: done)
    launched(monkeypatch, WORLD_SIZE="2", RANK=rank)
    assert main(words) == 0
    assert ("name:" in capsys.readouterr().out) == (rank == "0")


def test_another_process_than_the_first_speaks_late(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("dam.cli.time.sleep", waited.append)
    launched(monkeypatch, WORLD_SIZE="3", RANK="2")
    assert main(["nothing"]) == 2
    assert waited
    assert "(process 2)" in capsys.readouterr().err


# ---------------------------------------------------------------- restarts


def a_run(folder: Path) -> RunDirectory:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    return RunDirectory(folder)


@pytest.mark.parametrize("given", [True, False])
def test_a_restarted_launch_finds_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: bool) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = tiny(tmp_path / "r") if given else tiny("null")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    run = a_run(tmp_path / "r" if given else tmp_path / "outputs" / cfg.name / "2026")
    elastic.remember(cfg, run, elastic.launch())
    assert elastic.earlier_run(cfg) is None  # not started by torchrun
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job/7")
    assert elastic.earlier_run(cfg) is None
    elastic.remember(cfg, run, elastic.launch())
    assert elastic.earlier_run(cfg) == run.path
    monkeypatch.setattr("os.getppid", lambda: 1)  # another launch of that name
    assert elastic.earlier_run(cfg) is None
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job/7")
    monkeypatch.setattr("sys.argv", ["dam", "train", "another"])  # in a container that began anew
    assert elastic.earlier_run(cfg) is None
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    if not given:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job/7")
    elastic.forget(cfg, run.path)  # a stopped launch's note goes also where one process brings the run to its end
    assert not list(tmp_path.glob("**/*launch*"))


def test_another_number_of_processes_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = a_run(tmp_path / "r")
    assert elastic.what_changes(run) is None
    run.write_json("environment.json", {"processes": 4})
    assert "trained by 4 processes and goes on with 1: the batches stay the same" in str(elastic.what_changes(run))
    run.append_json("resumed.json", {"processes": 1})
    assert elastic.what_changes(run) is None
