"""Subgroups: how units are grouped, what is tested, and how."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dam.config import EvaluationConfig
from dam.errors import UserError
from dam.evaluation.auc import roc_auc
from dam.evaluation.comparisons import contrast_test, holm, unpaired_test
from dam.evaluation.groups import group_units
from dam.evaluation.operating import confusion, wilson
from dam.evaluation.predictions import Predictions, make_predictions, merge_units
from dam.evaluation.subgroups import Settled, rate_by_patient, subgroup_rows

CFG = EvaluationConfig("auto", 400, 0, "platt", "youden", 0.9, 0.9, 1.0, None, None, [], 10)


def table(n: int = 400, per: int = 1, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 2)) < 0.4).astype(float)
    scores = {"a": rng.normal(size=(n, 2)) + y, "b": rng.normal(size=(n, 2)) + 0.5 * y}
    patients = [f"p{i // per}" for i in range(n)]
    return make_predictions([f"i{i}" for i in range(n)], ("L", "M"), y, scores, patients=patients)


def frame(t: Predictions, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"image": t.images, **columns})


def test_bands_unknowns_and_defaults() -> None:
    t = table(12)
    ages = ["0", "39", "40", "59.5", "79", "80", "100", "", "nan", "-3", "unknown", "20"]
    f = frame(t, Age=ages, sex=["F", "M"] * 5 + ["", None], dose=np.arange(12) * 1.5, hospital=list("abcabcabcabc"))
    found, notes = group_units(f, t, "image")
    assert [g.column for g in found] == ["sex", "Age"] and not notes
    assert found[1].names == ("0-39", "40-59", "60-79", "80+", "unknown")
    assert list(found[1].of_unit) == [
        "0-39", "0-39", "40-59", "40-59", "60-79", "80+", "80+", "unknown", "unknown", "unknown", "unknown", "0-39",
    ]  # fmt: skip
    assert found[0].names == ("F", "M", "unknown")
    (dose, hospital), _ = group_units(f, t, "image", ["dose", "hospital"])
    assert [n.split(": ")[1] for n in dose.names] == [
        "below 4.125", "4.125 to below 8.25", "8.25 to below 12.375", "12.375 and above",
    ]  # fmt: skip
    assert [list(dose.of_unit).count(n) for n in dose.names] == [3, 3, 3, 3] and hospital.names == ("a", "b", "c")
    with pytest.raises(UserError, match=r"'race'.*dose"):
        group_units(f, t, "image", ["race"])
    with pytest.raises(UserError, match="no column image"):
        group_units(f.drop(columns="image"), t, "image")


def test_many_names_missing_images_and_one_group() -> None:
    t = table(60)
    f = frame(t, site=["big"] * 30 + [f"s{i}" for i in range(30)], view="AP").iloc[::-1]
    found, notes = group_units(f[f["image"] != "i0"], t, "image", ["site", "view"])
    assert len(found[0].names) == 22 and {"other", "unknown", "big"} <= set(found[0].names)
    assert found[0].of_unit[0] == "unknown" and "1 of 60 images" in notes[0]
    assert found[1].names == ("AP", "unknown")
    _, notes = group_units(f, t, "image", ["view"])
    assert "AP throughout" in notes[0]


def test_units_take_the_value_of_their_images_or_are_mixed() -> None:
    t = table(6, per=2)
    found, _ = group_units(frame(t, sex=["F", "F", "F", "M", "M", "M"]), t, "patient")
    assert list(found[0].of_unit) == ["F", "mixed", "M"] and found[0].names == ("F", "M", "mixed")


def test_groups_of_different_patients_have_the_z_test() -> None:
    t = table()
    units = merge_units(t)
    age = np.random.default_rng(1).choice([30, 50, 70], 400)
    groupings, _ = group_units(frame(t, age=age), t, "image")
    threshold, p = 0.4, np.full(400, 0.25)
    rows, notes = subgroup_rows(units, groupings, {("L", "a"): Settled(threshold, p)}, CFG)
    assert not notes and len(rows) == 3 * 2 * 2
    row = rows[0]
    assert (row.column, row.group, row.label, row.model, row.test) == ("age", "0-39", "L", "a", "z")
    inside, y, s = age == 30, units.targets[:, 0], units.scores["a"][:, 0]
    assert (row.n, row.patients, row.n_pos) == (inside.sum(), inside.sum(), y[inside].sum())
    assert row.auc == roc_auc(y[inside], s[inside]) and row.low < row.auc < row.high and row.interval == "logit-t"
    assert row.difference_to_rest == pytest.approx(row.auc - roc_auc(y[~inside], s[~inside]))
    c = confusion(y[inside], s[inside], threshold)
    assert (row.sensitivity, row.specificity) == (c.sensitivity, c.specificity)
    assert (row.sensitivity_low, row.sensitivity_high) == pytest.approx(wilson(c.tp, c.tp + c.fn))
    assert row.o_over_e == pytest.approx(y[inside].mean() / 0.25)
    for model in ("a", "b"):
        mine = [r for r in rows if r.model == model]
        np.testing.assert_allclose([r.p_holm for r in mine], holm([r.p_value for r in mine]))


def test_published_difference() -> None:
    found = unpaired_test(0.90, 0.0004, 0.84, 0.0009)
    assert (found.low, found.high) == pytest.approx((-0.0106675, 0.1306675), abs=5e-8)
    assert found.p_value == pytest.approx(0.0960923295, abs=1e-9)
    # more than two groups: the weighted sum of squares is the chi-square of the contrasts
    several = contrast_test([0.90, 0.84, 0.87], np.diag([0.0004, 0.0009, 0.0006]), [[1, -1, 0], [0, 1, -1]])
    assert several == pytest.approx((2.9210526316, 2, 0.2321140773), abs=1e-9)
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005, 0.2]), [0.04, 0.09, 0.09, 0.025, 0.2])


def test_two_groups_are_one_test() -> None:
    t = table()
    groupings, _ = group_units(frame(t, sex=["F", "M"] * 200), t, "image")
    rows, _ = subgroup_rows(merge_units(t), groupings, {}, CFG)
    f, m = (next(r for r in rows if (r.group, r.label, r.model) == (g, "L", "a")) for g in "FM")
    assert f.p_value == pytest.approx(m.p_value) and f.difference_to_rest == pytest.approx(-m.difference_to_rest)
    family = [r.p_value for r in rows if r.group == "F" and r.model == "a"]
    assert [r.p_holm for r in rows if r.group == "F" and r.model == "a"] == pytest.approx(list(holm(family)))
    assert f.p_holm == m.p_holm and np.isnan(f.threshold) and np.isnan(f.sensitivity)


def test_groups_that_share_patients_are_bootstrapped() -> None:
    t = table(per=2)
    groupings, _ = group_units(frame(t, view=["AP", "PA"] * 200), t, "image")
    rows, notes = subgroup_rows(merge_units(t), groupings, {}, CFG)
    assert {r.test for r in rows} == {"patient bootstrap"} and "400 replicates" in notes[0]
    for r in rows:
        assert r.diff_low < r.difference_to_rest < r.diff_high and 0 < r.p_value <= 1


def test_small_and_unknown_groups_are_marked_and_not_tested() -> None:
    t = table()
    sex = np.array(["F"] * 340 + ["M"] * 20 + ["X"] * 2 + [""] * 38, dtype=object)
    groupings, _ = group_units(frame(t, sex=sex), t, "image")
    rows, _ = subgroup_rows(merge_units(t), groupings, {}, CFG)
    by = {r.group: r for r in rows if r.label == "L" and r.model == "a"}
    assert "rest has fewer than 10" in by["F"].note and np.isfinite(by["F"].auc)
    assert "fewer than 10" in by["M"].note and np.isfinite(by["M"].auc) and by["M"].test == ""
    assert "no AUC" in by["X"].note and np.isnan(by["X"].auc)
    assert "not compared" in by["unknown"].note and np.isfinite(by["unknown"].auc)
    assert all(np.isnan(r.p_holm) for r in by.values())


def test_rates_count_patients_once() -> None:
    hits = np.array([True, True, False, True, False])
    assert rate_by_patient(hits, np.arange(5)) == (0.6, *wilson(3, 5))
    tripled = rate_by_patient(np.repeat(hits, 3), np.repeat(np.arange(5), 3))
    assert tripled == pytest.approx((0.6, *wilson(3, 5)))
    assert rate_by_patient(np.ones(6, dtype=bool), np.repeat(np.arange(2), 3)) == (1.0, *wilson(2, 2))
    assert np.isnan(rate_by_patient(np.zeros(0, dtype=bool), np.zeros(0, dtype=int))).all()
