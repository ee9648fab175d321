"""The whole assessment: what is chosen where, what is left empty, and whether rows agree with their parts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from dam.config import EvaluationConfig
from dam.errors import UserError
from dam.evaluation.assess import assess
from dam.evaluation.bootstrap import Replicates
from dam.evaluation.calibration import fit_platt
from dam.evaluation.fitted import Fitted
from dam.evaluation.label_tables import basic_interval
from dam.evaluation.operating import choose_threshold, confusion, predictive_values, wilson
from dam.evaluation.predictions import Predictions, make_predictions
from dam.evaluation.resampled_labels import RATES, rates_job

CFG = EvaluationConfig("auto", 200, 0, "platt", "youden", 0.9, 0.9, 1.0, None, None, [], 10)


def table(seed: int, n: int = 300, per: int = 1, labels: tuple[str, ...] = ("L", "M")) -> Predictions:
    rng = np.random.default_rng(seed)
    y = (rng.random((n, len(labels))) < 0.35).astype(float)
    y[:4, 0] = np.nan
    scores = {m: 2 * rng.normal(size=y.shape) + a * np.nan_to_num(y) - 1 for m, a in (("ce", 1.5), ("auc", 2.5))}
    ids = [f"{seed}-{i // per}" for i in range(n)]
    return make_predictions([f"{seed}/{i}" for i in range(n)], labels, y, scores, patients=ids, studies=ids)


def test_fitted_on_validation_and_applied_to_test() -> None:
    test, val = table(0), table(1)
    found = assess(test, val, None, CFG, pairs=[("auc", "ce")])
    known = ~np.isnan(val.targets[:, 0])
    y, s = test.targets[4:, 0], test.scores["auc"][4:, 0]
    platt = fit_platt(val.targets[known, 0], val.scores["auc"][known, 0])
    row = next(r for r in found.calibration if (r.label, r.model, r.stage) == ("L", "auc", "after"))
    assert (row.slope, row.intercept) == (platt.slope, platt.intercept) and row.fitted_on == "validation"
    p = platt.probabilities(s)
    assert row.brier == pytest.approx(np.mean((p - y) ** 2)) and row.o_over_e == pytest.approx(y.sum() / p.sum())
    assert row.brier == pytest.approx(row.reliability - row.resolution + row.uncertainty + row.within_bin)
    assert row.brier_low < row.brier < row.brier_high and row.ece_low <= row.ece <= row.ece_high
    np.testing.assert_allclose(found.probabilities["auc"][4:, 0], p)
    trust = next(r for r in found.trust if (r.label, r.model, r.stage) == ("L", "auc", "after"))
    assert trust.net_trust == pytest.approx(1 - np.mean(np.abs(p - y))) and trust.brier == pytest.approx(row.brier)
    threshold = choose_threshold(val.targets[known, 0], val.scores["auc"][known, 0], "youden").value
    point = next(r for r in found.operating if (r.label, r.model, r.main) == ("L", "auc", True))
    counts = confusion(y, s, threshold)
    assert (point.threshold, point.rule, point.chosen_on, point.interval) == (threshold, "youden", "val", "Wilson")
    assert (point.tp, point.fp, point.fn, point.tn) == (counts.tp, counts.fp, counts.fn, counts.tn)
    assert (point.ppv_low, point.ppv_high) == wilson(counts.tp, counts.tp + counts.fp) and np.isnan(point.ppv_at)
    assert trust.threshold == pytest.approx(float(expit(platt.logits(threshold))))
    assert [r.rule for r in found.operating if not r.main] == ["specificity >= 0.9"] * 4
    assert found.verdict is not None and (found.verdict.a, found.verdict.b) == ("auc", "ce")
    assert found.judgement.comparisons[-1].label == "mean" and not found.subgroups and not found.readers


def test_rows_are_plain_and_labels_follow_one_another() -> None:
    meta = pd.DataFrame({"image": table(0).images, "sex": ["F", "M"] * 150})
    found = assess(table(0), table(1), meta, CFG)
    for f in fields(found):
        rows = getattr(found, f.name)
        for row in rows if isinstance(rows, tuple) and f.name != "notes" else ():
            for key, value in asdict(row).items():
                assert type(value) in (str, int, float, bool), (f.name, key, type(value))
    assert [r.label for r in found.performance] == ["L", "L", "M", "M"]
    assert all(r.ap_low < r.ap < r.ap_high and r.pauc_low < r.pauc < r.pauc_high for r in found.performance)
    assert all(r.sens_low <= r.sens_at_spec <= r.sens_high for r in found.performance)
    assert {r.group for r in found.subgroups} == {"F", "M"} and all(r.o_over_e > 0 for r in found.subgroups)
    stored = json.dumps(found.fitted.as_dict(), allow_nan=False)
    assert Fitted.from_dict(json.loads(stored)).fits == found.fitted.fits
    again = assess(table(0), table(1), meta, CFG)
    assert [repr(r) for r in again.performance] == [repr(r) for r in found.performance]


def test_without_validation() -> None:
    found = assess(table(0), None, None, CFG)
    assert {(r.rule, r.chosen_on) for r in found.operating} == {("not chosen", "")}
    assert all(np.isnan(r.sensitivity) and np.isnan(r.f1) and "no validation" in r.note for r in found.operating)
    after = [r for r in found.calibration if r.stage == "after"]
    assert len(after) == 4 and {r.fitted_on for r in after} == {"the cases judged, cross-fitted in 5 folds"}
    assert all(np.isnan(r.slope) and 0.7 < r.o_over_e < 1.4 for r in after)
    assert all(r.threshold == 0.5 for r in found.trust) and found.fitted == Fitted() and found.verdict is None
    assert any("no other table to fit on" in note for note in found.notes)


def test_patients_with_several_units_have_the_bootstrap() -> None:
    found = assess(table(0, per=3), table(1), None, CFG)
    assert {r.interval for r in found.operating} == {"patient bootstrap"}
    assert all(r.sensitivity_low < r.sensitivity < r.sensitivity_high for r in found.operating)
    by_patient = assess(table(0, per=3), table(1), None, CFG, unit="patient")
    assert {r.interval for r in by_patient.operating} == {"Wilson"} and by_patient.performance[0].n < 110


def test_one_class_and_missing_labels_do_not_stop_the_others() -> None:
    test, val = table(0, labels=("L", "M", "N")), table(1, labels=("L", "M"))
    test.targets[:, 1] = 0
    test.scores["ce"][:, 0] = np.nan
    val.targets[:, 0] = 1
    found = assess(test, val, None, CFG)
    rows = {(r.label, r.model): r for r in found.performance}
    assert ("L", "ce") not in rows and "no positives" in rows["M", "auc"].note and np.isnan(rows["M", "auc"].ap)
    points = {(r.label, r.model): r for r in found.operating if r.main}
    assert "no negatives" in points["L", "auc"].note and points["N", "auc"].rule == "not chosen"
    assert np.isnan(points["M", "auc"].sensitivity) and points["M", "auc"].specificity > 0
    stages = {(r.label, r.model, r.stage) for r in found.calibration}
    assert ("L", "auc", "after") not in stages and ("N", "auc", "after") in stages and ("M", "ce", "before") in stages
    empty = table(0)
    empty.targets[:, 0] = np.nan
    assert {r.label for r in assess(empty, table(1), None, CFG).calibration} == {"M"}


def test_stated_prevalence() -> None:
    found = assess(table(0), table(1), None, replace(CFG, prevalence=0.05))
    point = found.operating[0]
    assert (point.ppv_at, point.npv_at) == predictive_values(point.sensitivity, point.specificity, 0.05)
    rows = {r.stage: r for r in found.calibration if (r.label, r.model) == ("L", "ce")}
    assert list(rows) == ["before", "after", "at prevalence"]
    assert rows["at prevalence"].o_over_e > 2 and 0.7 < rows["after"].o_over_e < 1.4
    assert rows["at prevalence"].cal_slope == pytest.approx(rows["after"].cal_slope)
    assert {r.stage for r in found.reliability} == {"before", "after"}


def test_ways_to_calibrate() -> None:
    none = assess(table(0), table(1), None, replace(CFG, calibration="none"))
    assert {r.stage for r in none.calibration} == {"before"} and not none.net_benefit
    assert any("not calibrated" in note for note in none.notes)
    found = assess(table(0), table(1), None, replace(CFG, calibration="temperature"))
    assert all(r.intercept == 0 for r in found.calibration if r.stage == "after")
    with pytest.raises(UserError, match="cannot shift the prior"):
        assess(table(0), table(1), None, replace(CFG, calibration="temperature"), rebalanced=True)
    with pytest.raises(UserError, match="cannot shift the prior"):
        assess(table(0), None, None, replace(CFG, calibration="temperature"), rebalanced=True)
    few = assess(table(0), table(1, n=40), None, CFG)
    assert any("fewer than 20" in note for note in few.notes)
    assert all("fewer than 20" in r.note for r in few.calibration if r.stage == "after")


def test_readers_by_study_whatever_the_unit(tmp_path: Path) -> None:
    test = table(0, per=2)
    studies = sorted(set(test.studies))
    rng = np.random.default_rng(0)
    lines = [f"{s},{r},M,{rng.integers(0, 2)}" for r in ("r1", "r2") for s in studies]
    (tmp_path / "readers.csv").write_text("\n".join(["study,reader,label,value", *lines]))
    found = assess(test, table(1), None, replace(CFG, readers=str(tmp_path / "readers.csv")))
    assert [(r.label, r.reader, r.model) for r in found.readers] == [
        ("M", "r1", "ce"), ("M", "r1", "auc"), ("M", "r2", "ce"), ("M", "r2", "auc"),
    ]  # fmt: skip
    assert {r.n for r in found.readers} == {150} and [(r.model, r.curve) for r in found.nrbc][:2] == [
        ("ce", "roc"), ("ce", "pr"),
    ]  # fmt: skip
    assert all(r.nrbc == 2 and r.labels == "M" for r in found.nrbc if r.curve == "roc")


def test_a_huge_table_has_fewer_replicates_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["dam.evaluation.bootstrap"], "WORK", 1)
    found = assess(table(0), table(1), None, replace(CFG, replicates=1000))
    assert {r.replicates for r in found.performance} == {200} and any("200 instead of 1000" in n for n in found.notes)


def test_subgroup_columns_that_are_not_there() -> None:
    meta = pd.DataFrame({"image": table(0).images})
    with pytest.raises(UserError, match="race"):
        assess(table(0), None, meta, replace(CFG, subgroups=["race"]))
    assert not assess(table(0), None, meta, CFG).subgroups


def test_the_interval_of_a_calibration_error_is_mirrored_at_the_estimate() -> None:
    drawn = Replicates(np.linspace(0.2, 0.4, 41))  # 95 % of them within .205 and .395
    assert basic_interval(0.25, drawn) == (pytest.approx(0.105), pytest.approx(0.295))
    assert basic_interval(0.15, drawn) == (0.0, pytest.approx(0.095))


def test_rates_of_a_draw_are_those_of_its_cases_repeated() -> None:
    rng = np.random.default_rng(1)
    y, scores, patients = (rng.random(60) < 0.4).astype(float), rng.normal(size=60), np.arange(60) // 3
    weights = rng.integers(0, 3, (20, 5)).astype(float)
    found = rates_job((y, scores, patients), 20, 0.2).draw(weights)
    for r in range(5):
        rows = np.repeat(np.arange(60), weights[patients, r].astype(int))
        counts = confusion(y[rows], scores[rows], 0.2)
        assert found[:, r] == pytest.approx([getattr(counts, name) for name in RATES])


def test_perfect_separation_gets_exact_intervals_of_sensitivity_and_specificity() -> None:
    test, val = table(0, labels=("L",)), table(1, labels=("L",))
    apart = test.with_scores("auc", np.where(test.targets == 1, 5.0, -5.0) + 0.1 * test.scores["auc"])
    found = assess(apart, val, None, CFG)
    rows = {r.model: r for r in found.operating if r.main}
    exact, usual = rows["auc"], rows["ce"]
    assert (exact.interval, usual.interval) == ("Clopper-Pearson", "Wilson")
    assert exact.sensitivity == exact.specificity == 1
    n_pos = exact.tp + exact.fn
    assert exact.sensitivity_low == pytest.approx(0.025 ** (1 / n_pos)) and exact.sensitivity_high == 1
