"""``select=accuracy``: the F1 threshold of every evaluation, accuracy there, the best kept with its threshold."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import contents, tiny

from dam import report
from dam.training import run as run_module
from dam.training.selection import Selection
from dam.training.stage import Stage
from dam.training.validation import at_largest_f1

# facts/evaluation.md, vector V12
Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=float)
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])


def test_the_threshold_of_the_largest_f1_of_the_reference_vector() -> None:
    found = at_largest_f1(("a",), Y[:, None], A[:, None])
    assert found.thresholds == {"a": 0.55}
    assert found.f1 == pytest.approx(0.8)
    assert found.accuracy == pytest.approx(10 / 12)


@pytest.mark.parametrize("seed", range(20))
def test_against_brute_force_over_all_thresholds(seed: int) -> None:
    g = np.random.default_rng(seed)
    y, s = (g.uniform(size=(40, 2)) < 0.3).astype(float), g.integers(0, 12, (40, 2)).astype(float)
    y[0], y[1] = 0, 1
    y[5, 0] = np.nan
    found = at_largest_f1(("a", "b"), y, s)
    accuracies = []
    for k, label in enumerate("ab"):
        known = ~np.isnan(y[:, k])
        truth, scores = y[known, k] == 1, s[known, k]

        def f1(t: float, truth=truth, scores=scores) -> float:
            called = scores >= t
            return 2 * (truth & called).sum() / (truth.sum() + called.sum())

        best = max(sorted(set(scores), reverse=True), key=f1)  # the first of equal ones: the largest threshold
        assert found.thresholds[label] == best
        accuracies.append(float(np.mean((scores >= best) == truth)))
    assert found.accuracy == pytest.approx(np.mean(accuracies))


def test_a_label_with_one_class_is_left_out() -> None:
    found = at_largest_f1(("a", "b"), np.stack([Y, np.zeros(12)], axis=1), np.stack([A, A], axis=1))
    assert list(found.thresholds) == ["a"] and found.f1 == pytest.approx(0.8)
    assert math.isnan(at_largest_f1(("b",), np.zeros((12, 1)), A[:, None]).accuracy)


def test_of_equal_accuracies_the_first_is_kept_with_its_facts() -> None:
    chosen = Selection("accuracy")
    seen = [(0.9, 0.7), (0.5, 0.8), (0.8, 0.8), (0.8, math.nan)]
    kept = [chosen.add(auc, step, accuracy, t=step)[1] for step, (auc, accuracy) in enumerate(seen, 1)]
    assert kept == [True, True, False, False]
    assert (chosen.best_step, chosen.facts, chosen.chosen_auc()) == (2, {"t": 2}, 0.5)
    again = Selection("accuracy")
    again.load_state_dict(chosen.state_dict())
    assert again == chosen


WORDS = ("select=accuracy", "auc.labels=[Edema]", "auc.eval_every=0.2", "control=ce")


def test_a_run_keeps_the_weights_of_the_best_accuracy_and_resumes_exactly(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(report, "build_report", partial(report.build_report, figures=False))
    run_module.start(tiny(tmp_path / "whole", *WORDS), ["dam"])
    for stage in ("auc/edema", "control/edema", "warm_start"):
        metrics = pd.read_csv(tmp_path / "whole" / stage / "metrics.csv")
        facts = json.loads((tmp_path / "whole" / stage / "stage.json").read_text())
        best = metrics.loc[metrics["val_accuracy"].idxmax()]  # the first of equal ones
        assert facts["select"] == "accuracy" and facts["chosen_step"] == best["step"]
        assert facts["val_accuracy"] == best["val_accuracy"] and facts["val_f1"] == best["val_f1"]
        assert facts["val_auc"] == best["val_auc"]
        assert facts["threshold"]["Edema"] == best["threshold/Edema"]
    table = pd.read_csv(tmp_path / "whole" / "predictions" / "val.csv")
    table = table[(table["label"] == "Edema") & table["target"].notna()]
    facts = json.loads((tmp_path / "whole" / "auc" / "edema" / "stage.json").read_text())
    called = table["auc"] >= facts["threshold"]["Edema"]
    assert np.mean(called == (table["target"] == 1)) == pytest.approx(facts["val_accuracy"])

    class Killed(BaseException):
        pass

    after_step = Stage._after_step

    def killed(self: Stage, images: int) -> None:
        after_step(self, images)
        if self.spec.name == "auc/edema" and self.step == 5:
            raise Killed

    monkeypatch.setattr(Stage, "_after_step", killed)
    with pytest.raises(Killed):
        run_module.start(tiny(tmp_path / "run", *WORDS), ["dam"])
    monkeypatch.setattr(Stage, "_after_step", after_step)
    run_module.resume(tmp_path / "run", [], ["dam"])
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert (tmp_path / "run/auc/edema/stage.json").read_bytes() == (
        tmp_path / "whole/auc/edema/stage.json"
    ).read_bytes()
