"""A disk that is full from any write on: one sentence, no half files, and the same run once there is room again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from fault_harness import everything
from full_disk import WORDS, Disk, half_files, installed
from tiny import words

from dam import report
from dam.cli import main


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "build_report", partial(report.build_report, figures=False))
        yield


def train(folder: Path) -> int:
    """What a user would type next."""
    run = folder / "run"
    return main(["train", f"resume={run}"] if (run / "config.yaml").exists() else ["train", *words(run, *WORDS)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, bytes]]:
    """The writes of a run that never sees a full disk, and its files."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, installed(Disk()) as disk:
        patch.setenv("DAM_STORE", str(folder / "store"))
        assert train(folder) == 0
    return disk.writes, everything(folder / "run")


def check_full_from(place: int, whole, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("DAM_STORE", str(folder / "store"))
    with installed(Disk(full_at=place)):
        code = train(folder)
    last = capsys.readouterr().err.splitlines()[-1]
    assert (code == 2 and last.startswith("dam: error: ") and "make room" in last) or "free some space" in last, last
    assert not half_files(folder)
    assert train(folder) == 0
    assert everything(folder / "run") == whole[1]


def test_the_writes_are_known(whole) -> None:
    for name in ("rows of the image store", "index.json", "config.yaml", "environment.json", "progress.json"):
        assert name in whole[0]
    for name in ("metrics.csv", "timing.csv", "next.ckpt", "best.safetensors", "stage.json", "val.csv", "auc.csv"):
        assert name in whole[0]


@pytest.mark.parametrize("name", ["rows of the image store", "next.ckpt", "metrics.csv", "val.csv"])
def test_full_from_one_write_on(whole, tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    check_full_from(whole[0].index(name), whole, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_full_from_every_write_on(whole, tmp_path: Path, monkeypatch, capsys) -> None:
    for place in range(len(whole[0])):
        check_full_from(place, whole, tmp_path / str(place), monkeypatch, capsys)


@pytest.mark.parametrize("name", ["train.log"])
def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, name: str) -> None:
    """/dev/full takes no byte."""
    import logging

    from dam.training.progress import attach_log, detach_log

    (tmp_path / name).symlink_to("/dev/full")
    handlers = attach_log(tmp_path / name, quiet=True)
    logging.getLogger("dam").info("a line")
    detach_log(handlers)
