"""The benchmark suite measures and judges as docs/performance.md says. Nothing here is timed."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

benchmarks = pytest.importorskip("benchmarks")  # beside the package, not in the wheel

from benchmarks import (  # noqa: E402
    __main__ as command,
    gpu,
    growth,
    machine,
    results,
    workload,
)
from benchmarks.goals import GOALS, find  # noqa: E402
from benchmarks.measure import Line, Report, Rounds, cpu_seconds, line_of  # noqa: E402


def test_every_goal_has_its_script_and_its_line_in_the_document() -> None:
    assert [goal.key for goal in GOALS][:13] == [str(number) for number in range(1, 14)]
    folder = Path(benchmarks.__file__).parent
    assert all((folder / f"{goal.module}.py").exists() for goal in GOALS)
    text = (folder.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    assert all(f"| {number} |" in text for number in range(1, 14))
    with pytest.raises(SystemExit, match="unknown: 14"):
        find(["14"])
    assert [goal.key for goal in find(["7", "3"])] == ["3", "7"]


def test_ratios_are_paired_within_a_round_and_the_first_round_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gc.collect", lambda: 0)  # seconds in a process with much in it
    clock, order = itertools.count().__next__, []
    cost = {"a": itertools.chain([100], itertools.repeat(6)), "b": itertools.repeat(2)}

    def work(name: str) -> float:
        order.append(name)
        for _ in range(next(cost[name]) - 1):
            clock()
        return 2.0

    rounds = Rounds({"a": lambda: work("a"), "b": lambda: work("b")}, lambda: float(clock())).run(3)
    assert rounds.seconds == {"a": [3.0] * 3, "b": [1.0] * 3}
    assert rounds.ratios("a", "b") == [3.0] * 3
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]  # each round begins with another
    assert rounds.line("a", "b", "x", bound=2.5).missed


def test_a_bound_is_missed_from_its_own_side_and_by_nan() -> None:
    assert Line("x", 1.04, 1.03).missed
    assert not Line("x", 1.03, 1.03).missed
    assert not Line("x", 9.0).missed
    assert Line("x", 4.0, 5.0, at_least=True).missed
    assert not Line("x", 6.0, 5.0, at_least=True).missed
    assert Line("x", math.nan, 5.0, at_least=True).missed
    line = line_of([1.0, 2.0, 3.0, 4.0, 100.0], "x")
    assert (line.ratio, line.low, line.high, line.rounds) == (3.0, 2.0, 4.0, 5)


def test_children_count_once_they_are_reaped() -> None:
    import subprocess
    import sys

    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < .1: pass"], check=True)
    assert cpu_seconds() - before >= 0.1


def test_results_name_the_machine_generically_and_keep_other_goals(tmp_path: Path) -> None:
    import socket

    first = Report([Line("pesg", 2.0, 2.5, note="n")], {"rates": [{"case": "x", "images/s": 12.5}]}).as_dict()
    file = results.place(machine.kind(), tmp_path / "new", quick=False)
    results.write({"3": first}, file)
    missed = Report([Line("auc", 0.2, 0.08, 0.1, 0.3, 5)], profile="where it goes").as_dict()
    found = {"7": missed, "gpu": {"skipped": "needs cuda"}, "3": {"failed": "OSError"}}
    shown = results.write(found, file)
    assert results.missed(found) == ["goal 7: auc: 0.2, bound 0.08"]
    text = shown.read_text(encoding="utf-8")
    for expected in (
        "| 3 | pesg | 2 | <= 2.5 met | 1 | n |",
        "<= 0.08 **missed**",
        "needs cuda",
        "where it goes",
        "12.5",
    ):
        assert expected in text
    assert socket.gethostname() not in text
    assert set(json.loads(shown.with_suffix(".json").read_text(encoding="utf-8"))["goals"]) == {"3", "7", "gpu"}


def test_what_could_not_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="give another --out"):
        command.main(["13", "--out", str(tmp_path / "file" / "x")])
    (tmp_path / f"{machine.kind()}.json").write_text("{ no")
    with pytest.raises(SystemExit, match="holds no results of this command; remove it"):
        command.main(["13", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        command.main(["13", "--core", "4096", "--out", str(tmp_path / "other")])
    assert "--core 4096: this process may use" in capsys.readouterr().err


def test_exit_code_and_names_of_what_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {"3": Line("pesg", 3.0, 2.5), "13": Line("loss", 4.0, 4.5)}
    monkeypatch.setattr(command, "_measure", lambda goal, *_: Report([lines[goal.key]]).as_dict() | {"wall": 1.0})
    monkeypatch.setattr(command, "_installed", lambda name: name != "sklearn")
    assert command.main(["13", "7", "--out", str(tmp_path)]) == 0
    assert "7  skipped: needs sklearn" in capsys.readouterr().out
    assert command.main(["3", "13", "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "MISSED  goal 3: pesg: 3, bound 2.5" in out
    assert "MISSED  goal 13" not in out


def test_exponents() -> None:
    sizes = (10, 100, 1_000, 10_000)
    assert growth.exponent(sizes, [5.0, 7e4, 7e6, 7e8]) == pytest.approx(2.0)
    assert growth.exponent(sizes, [9.0, 1.0, 10.0, 100.0]) == pytest.approx(1.0)
    assert growth.exponent(sizes, [1.0, 3.0, 3.0, 3.0]) == pytest.approx(0.0)


def test_what_the_gpu_script_calls_busy() -> None:
    assert gpu.share_of([(0.0, 4.0), (1.0, 2.0), (6.0, 10.0)]) == pytest.approx(0.8)
    assert gpu.share_of([(0.0, 10.0), (1.0, 2.0), (3.0, 4.0)]) == 1.0
    assert math.isnan(gpu.share_of([]))


def test_the_gpu_script_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)  # minutes of a C++ compiler
    report = gpu.measure("cpu", gpu.TOY, steps=2, workers=1)
    parts = [row["part"] for row in report.facts["rates"]]
    assert parts == ["warm start", "AUC stage", "step on data in memory", "loader alone", "evaluation"]
    assert all(row["images/s"] > 0 for row in report.facts["rates"])
    assert [row["compile"] for row in report.facts["torch.compile"]] == [False, True]
    assert all(row["images/s"] > 0 for row in report.facts["torch.compile"])
    assert len(report.facts["optimizer step, ms"]) == 3


def test_the_bare_step_does_what_the_products_does(tmp_path: Path) -> None:
    """Same network, layout, precision and number of images, or the denominator would be another's."""
    words = ("model=timm", "model.name=resnet8_cifar", "augment=none", "image_size=32", "precision=bf16")
    stage = workload.one_stage(words, 4, 1, 4)
    bare = workload.bare_of(stage)
    assert bare._model is stage.network.model
    assert bare._device is stage.device
    before = [p.detach().clone() for p in stage.network.model.parameters()]
    assert bare(2) == 8
    assert all(p.grad is not None for p in stage.network.model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(before, stage.network.model.parameters(), strict=True))
    assert workload.train(stage, 3) == 12
    assert stage.step == 3
    assert not all(torch.equal(p, q) for p, q in zip(before, stage.network.model.parameters(), strict=True))
    stored = stage.tools.inputs.store.take(np.array([0, 1]))
    assert stored.shape == (2, 32, 32, 1)
    assert len(np.unique(stored)) > 8
