"""What happens when a machine misbehaves: memory, clock, threads, checkpoints, stores, losses that are not finite."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import contents, tiny

from dam import report
from dam.compose import read_config
from dam.data.store import _locked
from dam.errors import UserError
from dam.inference.predict_files import Partial
from dam.sweep_resume import held
from dam.training import checkpoint, failures, run as run_module, rundir
from dam.training.failures import NonFiniteLoss
from dam.training.interrupt import StopRequest
from dam.training.loop import Loop
from dam.training.module import TrainingModule
from dam.training.stage import Stage
from dam.training.warmstart import _turn

SMALL = ("auc=none", "warm_start.steps=4", "data.patients=30", "data.labels=[Edema]", "batch_size=8")


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAM_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setattr(report, "build_report", partial(report.build_report, figures=False))
        yield


@pytest.fixture(scope="module")
def whole(store: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert run_module.start(tiny(path, *SMALL), ["dam"]).exit_code == 0
    return path


@pytest.fixture
def said():
    """The lines of dam's log."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("dam")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def state(step: int) -> dict[str, object]:
    return {"step": step, "w": torch.full((1000,), float(step))}


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_is_a_copy_of_the_moment_and_is_written_beside_training(tmp_path: Path, monkeypatch) -> None:
    go_on = threading.Event()
    write = checkpoint.atomic_write_bytes
    monkeypatch.setattr(checkpoint, "atomic_write_bytes", lambda *a: (go_on.wait(10), write(*a)))
    writer, weights = checkpoint.Writer(tmp_path), torch.ones(4)
    writer.save({"step": 1, "w": weights, "rows": [["a"]]})
    weights.fill_(7)  # training goes on while it is written
    assert not (tmp_path / checkpoint.NEWEST).exists()
    go_on.set()
    writer.close()
    assert checkpoint.load(tmp_path)["w"].tolist() == [1, 1, 1, 1]


def test_the_newest_takes_its_place_only_when_it_was_read_back(tmp_path: Path, monkeypatch) -> None:
    checkpoint.save(tmp_path, state(1))
    write = checkpoint.atomic_write_bytes

    def damaging(path: Path, data: memoryview) -> None:
        content = bytearray(data)
        content[content.find(b"\0\0\0@" * 8)] ^= 1  # 2.0 in float32
        write(path, bytes(content))

    monkeypatch.setattr(checkpoint, "atomic_write_bytes", damaging)
    with pytest.raises(OSError, match="checksum"):
        checkpoint.save(tmp_path, state(2))
    assert checkpoint.load(tmp_path)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NEWEST]


def test_a_full_disk_costs_a_checkpoint_and_no_training(tmp_path: Path, monkeypatch, said) -> None:
    write, turn = checkpoint.atomic_write_bytes, [0]

    def full(path: Path, data: memoryview) -> None:
        turn[0] += path.name == checkpoint.NEXT
        if turn[0] == 2 and path.name == checkpoint.NEXT:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(checkpoint, "atomic_write_bytes", full)
    writer = checkpoint.Writer(tmp_path)
    for step in (1, 2):
        writer.save(state(step))
        writer.wait()
    assert checkpoint.load(tmp_path)["step"] == 1
    assert "checkpoint of step 2 could not be written" in said[-1] and "No space left" in said[-1]
    writer.save(state(3))
    writer.close()
    assert checkpoint.load(tmp_path)["step"] == 3


def test_what_no_full_disk_explains_is_raised(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "save", lambda *a: 1 / 0)
    writer = checkpoint.Writer(tmp_path)
    writer.save(state(1))
    with pytest.raises(ZeroDivisionError):
        writer.close()


def test_a_file_that_is_no_checkpoint_is_named_and_the_one_before_taken(tmp_path: Path, said) -> None:
    checkpoint.save(tmp_path, state(1))
    checkpoint.save(tmp_path, state(2))
    torch.save([1, 2], tmp_path / checkpoint.NEWEST)
    assert checkpoint.load(tmp_path)["step"] == 1
    assert "last.ckpt cannot be used (it is no checkpoint of a stage); trying the one before" in said[-1]
    (tmp_path / checkpoint.BEFORE).write_bytes(b"PK")
    assert checkpoint.load(tmp_path) is None
    assert "previous.ckpt" in said[-1] and said[-1].endswith("the stage begins anew")


# ---------------------------------------------------------------- clock


def test_a_clock_that_jumps_changes_nothing(whole: Path, tmp_path: Path, monkeypatch) -> None:
    jumps = iter([0.0, 1e9, -1e9, 5e8] * 100_000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    saves: list[int] = []
    save = Loop._save
    monkeypatch.setattr(Loop, "_save", lambda self: (saves.append(self.step), save(self)))
    more = ("checkpoint.every=null", "checkpoint.minutes=60")
    assert run_module.start(tiny(tmp_path / "run", *SMALL, *more), ["dam"]).exit_code == 0
    assert saves == []  # the minutes are those of the monotonic clock
    assert contents(tmp_path / "run") == contents(whole)


def test_minutes_between_checkpoints_are_those_of_a_clock_that_cannot_jump(tmp_path: Path, monkeypatch) -> None:
    from dam.training import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    saves: list[int] = []
    step = Loop._train_step
    monkeypatch.setattr(Loop, "_save", lambda self: saves.append(self.step))
    monkeypatch.setattr(Loop, "_train_step", lambda self, batch: (step(self, batch), now.__setitem__(0, now[0] + 45)))
    more = ("checkpoint.every=null", "checkpoint.minutes=1", "warm_start.steps=8")
    run_module.start(tiny(tmp_path / "run", *SMALL, *more), ["dam"])
    assert saves == [2, 3, 5, 6, 7]  # after 90, 135, 225, 270, 315 s; none at the stage's end


# ---------------------------------------------------------------- memory


def hungry(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> None:
    """A network that has memory for ``most`` images."""
    forward = TrainingModule.forward

    def limited(self: TrainingModule, images: torch.Tensor, *rest: torch.Tensor):
        if len(images) > most:
            raise error
        return forward(self, images, *rest)

    monkeypatch.setattr(TrainingModule, "forward", limited)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_out_of_memory_names_the_batch_that_fits(tmp_path: Path, monkeypatch, error: Exception) -> None:
    hungry(monkeypatch, 3, error)
    with pytest.raises(UserError, match=r"batch_size=8.*batch_size=2 fits; set it, or keep .* accumulate=4$"):
        run_module.start(tiny(tmp_path / "run", *SMALL), ["dam"])
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["state"] == "failed"


def test_out_of_memory_says_no_more_than_it_knows(tmp_path: Path, monkeypatch) -> None:
    hungry(monkeypatch, 1, ERRORS[0])
    with pytest.raises(UserError, match="lower batch_size or image_size, or raise accumulate to 2"):
        run_module.start(tiny(tmp_path / "run", *SMALL), ["dam"])
    cfg = tiny(tmp_path / "x", "auc=auc_direct", "control=none")  # whose batch cannot be computed in parts
    assert failures.memory_words(cfg, 4).endswith("batch_size=4 fits; set it")


def test_memory_and_threads_of_the_loader(whole: Path) -> None:
    cfg, run = read_config(whole / "config.yaml"), rundir.RunDirectory(whole)
    wrapped = RuntimeError("cannot read")
    wrapped.__cause__ = MemoryError()
    assert "out of memory" in str(failures.explained(wrapped, cfg, run))
    threads = failures.explained(RuntimeError("can't start new thread"), cfg, run)
    assert isinstance(threads, UserError) and "workers=0" in str(threads)
    broken = failures.explained(OSError(errno.EIO, "Input/output error"), cfg, run)
    assert isinstance(broken, UserError) and f"dam train resume={whole}" in str(broken)
    other = ValueError("x")
    assert failures.explained(other, cfg, run) is other


# ---------------------------------------------------------------- threads, images, stores


@pytest.mark.parametrize("ending", [SystemExit(3), ValueError("odd")])
def test_a_loader_thread_that_dies_names_its_image(tmp_path: Path, monkeypatch, ending: BaseException) -> None:
    from dam.data.store import ImageStore

    take, count = ImageStore.take, [0]

    def dying(self: ImageStore, rows, out=None):
        count[0] += 1
        if count[0] == 3:
            raise ending
        return take(self, rows, out)

    monkeypatch.setattr(ImageStore, "take", dying)
    with pytest.raises(RuntimeError, match=rf"image .*view1_frontal.jpg.*{type(ending).__name__}"):
        run_module.start(tiny(tmp_path / "run", *SMALL), ["dam"])


def disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change) -> Path:
    """A run whose store is changed by ``change(file of rows)`` after step 2; its directory."""
    after = Loop._after_step

    def changing(self: Loop, images: int) -> None:
        after(self, images)
        if self.step == 2:
            change(next((tmp_path / "store").glob("images-*/*.u8")))

    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(Loop, "_after_step", changing)
    run_module.start(tiny(tmp_path / "run", *SMALL, "warm_start.steps=12", "workers=0"), ["dam"])
    return tmp_path / "run"


def test_a_store_removed_in_the_middle_is_still_read(tmp_path: Path, monkeypatch) -> None:
    run = disturbed(tmp_path, monkeypatch, lambda file: shutil.rmtree(file.parent))
    assert json.loads((run / "progress.json").read_text())["state"] == "done"


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    with open(file, "r+b") as rows:
        rows.write(b"\0" * 1000)
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize("change", [cut, overwrite])
def test_a_store_changed_in_the_middle_is_named(tmp_path: Path, monkeypatch, change) -> None:
    with pytest.raises(RuntimeError, match=r"image store .*images-.* was changed by another program; remove that fold"):
        disturbed(tmp_path, monkeypatch, change)


def stopped(run: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """A run that was asked to stop in its second step."""
    after = Loop._after_step

    def stopping(self: Loop, images: int) -> None:
        self.tools.stop.requested = self.step == 1
        after(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_after_step", stopping)
        assert run_module.start(tiny(run, *SMALL, *more), ["dam"]).exit_code == 130


def test_images_that_changed_since_are_named(tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "phantom"
    stopped(tmp_path / "run", monkeypatch, f"data.root={root}")
    noted = json.loads((tmp_path / "run" / "data.json").read_text())
    images = sorted(root.rglob("*_frontal.jpg"))
    images[0].write_bytes(images[1].read_bytes())
    with pytest.raises(UserError, match=r"other data: the content of .*patient00001/.*view1_frontal.jpg changed since"):
        run_module.resume(tmp_path / "run", [], ["dam"])
    # One that is not in the sample that data.json notes is found by the store of then.
    (tmp_path / "run" / "data.json").write_text(json.dumps({**noted, "content": {}}))
    with pytest.raises(UserError, match=r"other data: the content of .*patient00001/.*view1_frontal.jpg changed since"):
        run_module.resume(tmp_path / "run", [], ["dam"])


def test_an_image_that_vanished_is_named(tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "phantom"
    stopped(tmp_path / "run", monkeypatch, f"data.root={root}")
    lost = min(root.rglob("*_frontal.jpg"))
    lost.unlink()
    with pytest.raises(UserError, match=lost.name):
        run_module.resume(tmp_path / "run", [], ["dam"])


# ---------------------------------------------------------------- damaged files of a run


@pytest.mark.parametrize("content", ['{"labels": [', "[]", "{}"])
def test_a_damaged_marker_is_found_before_anything_is_done(whole: Path, tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "progress.json").write_text('{"state": "interrupted"}')
    (run / "warm_start" / "stage.json").write_text(content)
    with pytest.raises(UserError, match=r"warm_start/stage.json is damaged .*remove it"):
        run_module.resume(run, [], ["dam"])
    (run / "warm_start" / "stage.json").unlink()  # the advice is good
    assert run_module.resume(run, [], ["dam"]).exit_code == 0
    assert contents(run) == contents(whole)


@pytest.mark.parametrize("rows", [3, 20, -1])
def test_a_cut_list_of_images_does_not_pass_as_whole(whole: Path, tmp_path: Path, rows: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    file = run / "predictions" / "images.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:rows]))
    with pytest.raises(UserError, match=r"images.csv is damaged: it has \d+ of \d+ images"):
        report.build_report(run)


def test_a_lock_that_the_disk_does_not_know_is_no_other_process(whole: Path, monkeypatch, said) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unknown)
    rundir.open_run(whole).close()
    assert "cannot be locked (No locks available)" in said[-1]


def test_sweeps_stores_and_lists_work_on_a_disk_without_locks_too(tmp_path: Path, monkeypatch, said) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unknown)
    with held(tmp_path, alone=True), _turn(tmp_path / "warm_starts", "k", StopRequest()), _locked(tmp_path, "images"):
        pass
    Partial(tmp_path / "out.csv", {}, restart=False).close()
    assert len([line for line in said if "cannot be locked (No locks available): see to it" in line]) == 5


@pytest.mark.parametrize("content", [{"step": 3}, None])
def test_a_checkpoint_of_another_run_is_told_as_such(whole: Path, tmp_path: Path, content: dict | None) -> None:
    def dying(self: Loop) -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_evaluate", dying)
        assert run_module.start(tiny(run, *SMALL, "checkpoint.every=1"), ["dam"]).exit_code == 130
    file = run / "warm_start" / "last.ckpt"
    found = torch.load(file, weights_only=True)
    found["network"] = {name: tensor.flatten()[:1] for name, tensor in found["network"].items()}
    torch.save(content or found, file)
    with pytest.raises(UserError, match=r"warm_start is none of this stage \(.* remove last.ckpt and previous.ckpt"):
        run_module.resume(run, [], ["dam"])
    file.unlink()
    (run / "warm_start" / "previous.ckpt").unlink(missing_ok=True)
    assert run_module.resume(run, [], ["dam"]).exit_code == 0
    assert contents(run) == contents(whole)


@pytest.mark.parametrize("content", ["null", "{}", "["])
def test_a_damaged_list_of_resumes_can_be_removed(whole: Path, tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "progress.json").unlink()
    (run / "resumed.json").write_text(content)
    with pytest.raises(UserError, match=r"resumed.json is damaged.* remove it and resume again"):
        run_module.resume(run, [], ["dam"])


# ---------------------------------------------------------------- losses that are not finite

SKIP = (
    *("on_non_finite=skip", "auc=auc_margin", "auc.labels=[Edema]", "auc.steps=6", "auc.ema=0.9", "warm_start.steps=6"),
    *("auc.optimizer.momentum=0.5", "auc.eval_every=0.5", "data.patients=30", "batch_size=8"),
)


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: set[int], gradient: bool = False) -> None:
    """In these steps of every stage the images, and so all activations, are NaN; or the gradient alone."""
    losses = Stage.losses

    def bad(self: Stage, batch):
        for loss in losses(self, batch):
            if self.step in steps and gradient:
                loss.register_hook(lambda g: g * float("nan"))
            yield loss

    forward = TrainingModule.forward

    def poisoned_forward(self: TrainingModule, images: torch.Tensor, *rest: torch.Tensor):
        current = STEP[0]
        if current in steps and not gradient:
            images = images.float() * float("nan")
        return forward(self, images, *rest)

    train = Loop._train_step

    def noting(self: Loop, batch) -> None:
        STEP[0] = self.step
        train(self, batch)

    monkeypatch.setattr(Stage, "losses", bad)
    monkeypatch.setattr(TrainingModule, "forward", poisoned_forward)
    monkeypatch.setattr(Loop, "_train_step", noting)


STEP = [0]


def everything(stage: Stage) -> list[torch.Tensor]:
    found = [*stage.module.state_dict().values(), *stage.monitor._loss.reshape(1)]
    found += [value for group in stage.optimizer.state.values() for value in group.values() if torch.is_tensor(value)]
    found += list(stage.ema.module.state_dict().values()) if stage.ema is not None else []
    found += list(stage.monitor._stream.state_dict().values()) if stage.monitor._stream is not None else []
    return [value.clone() for value in found]


@pytest.mark.parametrize("gradient", [False, True])
def test_a_skipped_step_leaves_no_trace_but_its_count(tmp_path: Path, monkeypatch, said, gradient: bool) -> None:
    poisoned(monkeypatch, {1, 3}, gradient)
    step, unchanged = Loop._train_step, []

    def watched(self: Stage, batch) -> None:
        before = everything(self)
        step(self, batch)
        if self.step in (1, 3):
            pairs = zip(before, everything(self), strict=True)
            unchanged.append(all(torch.equal(a, b) for a, b in pairs))

    monkeypatch.setattr(Loop, "_train_step", watched)
    run_module.start(tiny(tmp_path / "run", *SKIP), ["dam"])
    assert unchanged == [True] * 4
    for stage in ("warm_start", "auc/edema"):
        table = pd.read_csv(tmp_path / "run" / stage / "metrics.csv")
        assert table["skipped"].sum() == 2 and table["train_loss"].notna().all()
    skipped = [line for line in said if "is skipped" in line]
    assert len(skipped) == 4 and "view1_frontal.jpg" in skipped[0]
    assert ("gradient is not finite" if gradient else "loss is nan") in skipped[0]


def test_resume_is_exact_over_skipped_steps(tmp_path: Path, monkeypatch) -> None:
    poisoned(monkeypatch, {2, 4})
    words_ = (*SKIP, "auc.eval_every=5")  # so that the checkpoint of step 4 has a skip to remember
    run_module.start(tiny(tmp_path / "whole", *words_), ["dam"])
    after = Loop._after_step

    class Killed(BaseException):
        pass

    def dying(self: Loop, images: int) -> None:
        after(self, images)
        if self.spec.name == "auc/edema" and self.step == 5:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Loop, "_after_step", dying)
        run_module.start(tiny(tmp_path / "run", *words_), ["dam"])
    assert run_module.resume(tmp_path / "run", [], ["dam"]).exit_code == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_where_all_steps_were_skipped_there_is_no_loss(tmp_path: Path, monkeypatch) -> None:
    poisoned(monkeypatch, {0, 1, 2})
    run_module.start(tiny(tmp_path / "run", *SMALL, "warm_start.eval_every=0.5", "on_non_finite=skip"), ["dam"])
    table = pd.read_csv(tmp_path / "run" / "warm_start" / "metrics.csv")
    assert table["skipped"].tolist() == [3] + [0] * (len(table) - 1)
    assert table["train_loss"].isna().tolist() == [True] + [False] * (len(table) - 1)


def test_too_many_skips_in_a_row_end_the_run(tmp_path: Path, monkeypatch) -> None:
    from dam.training import skips

    monkeypatch.setattr(skips, "MOST_IN_A_ROW", 4)
    poisoned(monkeypatch, {0, 2, 3, 4, 5})
    with pytest.raises(NonFiniteLoss, match=r"warm start: 4 steps in a row, up to step 6, .*lower the learning rate"):
        run_module.start(tiny(tmp_path / "run", *SKIP), ["dam"])


def test_without_bad_steps_skip_is_the_same_training(whole: Path, tmp_path: Path) -> None:
    run_module.start(tiny(tmp_path / "run", *SMALL, "on_non_finite=skip"), ["dam"])
    ours, theirs = contents(tmp_path / "run"), contents(whole)
    assert {name for name in theirs if ours[name] != theirs[name]} == {"warm_start/metrics.csv"}  # it has a column more
