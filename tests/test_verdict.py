"""The verdict's word, its interval's law, what the test set could have shown, the seeds and the sentence."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from dam.evaluation.judge import ComparisonRow, Judgement, judge
from dam.evaluation.predictions import Units, make_predictions, merge_units
from dam.evaluation.verdict import Verdict, make_verdict, smallest_detectable, verdict_word

NAN = math.nan


def verdict(low: float, high: float, seeds: tuple[float, ...] = (), p: float = 0.78) -> Verdict:
    middle = (low + high) / 2
    row = ComparisonRow("mean", "auc", "ce", middle, low, high, p, p, (high - low) / 3.92, "influence")
    return make_verdict(Judgement((), (row,), ("X",)), "auc", "ce", "AUC against CE at equal training", seeds)


def units_of(seed: int, gain: float, labels: int = 2, n: int = 400) -> Units:
    rng = np.random.default_rng(seed)
    y = (rng.random((n, labels)) < 0.2).astype(float)
    noise = rng.normal(size=(n, labels))
    scores = {"ce": y + noise + 0.5 * rng.normal(size=(n, labels))}
    scores["auc"] = (1 + gain) * y + noise + 0.5 * rng.normal(size=(n, labels))
    return Units("image", "mean", tuple(f"L{k}" for k in range(labels)), np.arange(n), y, scores, n)


def test_the_word_follows_the_interval() -> None:
    assert verdict(0.001, 0.02).word == "helps"
    assert verdict(-0.02, -0.001).word == "hurts"
    for low, high in ((-0.02, 0.01), (0.0, 0.02), (-0.02, 0.0)):
        assert verdict(low, high).word == "tie"
    assert verdict_word(ComparisonRow("mean", "a", "b", 0.1, NAN, NAN, NAN, NAN)) == "not testable"


def test_the_sentence() -> None:
    assert verdict(-0.016, 0.012).text == (
        "AUC against CE at equal training: tie, difference of the mean AUC -.002 [-.016, +.012], p .780; "
        "this test set could have shown .020 (80 % power); one seed"
    )
    assert "p <.001; " in verdict(0.001, 0.02, p=0.0001).text
    assert "AUC .000 [-.020, +.020]" in verdict(-0.02, 0.02).text


def test_smallest_detectable_has_80_percent_power() -> None:
    se = 0.01
    delta = smallest_detectable(se)
    assert delta == pytest.approx((1.959963984540054 + 0.8416212335729143) * se, abs=1e-12)
    assert stats.norm.sf(stats.norm.ppf(0.975) - delta / se) == pytest.approx(0.8, abs=1e-12)
    assert smallest_detectable(se, power=0.5) == pytest.approx(1.959963984540054 * se, abs=1e-12)
    assert math.isnan(smallest_detectable(0)) and math.isnan(smallest_detectable(NAN))


def test_seeds_are_described_and_do_not_change_the_word() -> None:
    found = verdict(0.001, 0.02, (0.01, -0.02, NAN, 0.04))
    assert (found.word, found.seeds) == ("helps", 3)
    assert found.seeds_mean == pytest.approx(0.01) and found.seeds_sd == pytest.approx(0.03)
    assert found.text.endswith("; 3 seeds: mean +.010, SD .030")
    one = verdict(0.001, 0.02, (0.01,))
    assert one.seeds == 1 and math.isnan(one.seeds_sd) and one.text.endswith("; one seed")


def test_of_a_judgement() -> None:
    units = units_of(0, 0.0)
    found = make_verdict(judge(units, [("auc", "ce")]), "auc", "ce")
    row = judge(units, [("auc", "ce")]).comparisons[-1]
    assert found.word == "tie" and (found.difference, found.p_value) == (row.difference, row.p_value)
    assert found.text.startswith("auc against ce: tie, ") and found.test.startswith("influence, t with ")
    assert found.smallest_detectable == pytest.approx(2.801585218 * row.se, rel=1e-8)
    assert make_verdict(judge(units_of(1, 1.0), [("auc", "ce")]), "auc", "ce").word == "helps"
    assert make_verdict(judge(units_of(1, 1.0), [("ce", "auc")]), "ce", "auc").word == "hurts"
    by_draws = make_verdict(judge(units, [("auc", "ce")], "bootstrap", 500), "auc", "ce")
    assert by_draws.test == "patient bootstrap, 500 replicates"
    assert by_draws.smallest_detectable == pytest.approx(found.smallest_detectable, rel=0.15)
    assert all(isinstance(v, str | int | float) for v in asdict(found).values())
    with pytest.raises(ValueError, match="was not compared"):
        make_verdict(judge(units), "auc", "ce")


def test_the_law_is_t_by_default_and_normal_by_the_published_methods() -> None:
    units = units_of(3, 0.0, labels=1, n=60)
    positives = int(units.targets.sum())
    by_t, by_z = (judge(units, [("auc", "ce")], m).comparisons[-1] for m in ("auto", "delong"))
    assert by_t.test == f"paired DeLong, t with {positives - 1} df" and by_z.test == "paired DeLong"
    ratio = (by_t.ci_high - by_t.ci_low) / (by_z.ci_high - by_z.ci_low)
    assert ratio == pytest.approx(stats.t.ppf(0.975, positives - 1) / stats.norm.ppf(0.975), abs=1e-9)


def test_what_cannot_be_tested_says_why() -> None:
    def table(y: list[int], a: list[float], b: list[float]) -> Units:
        names = [f"{i}" for i in range(len(y))]
        columns = {"a": np.array(a, dtype=float)[:, None], "b": np.array(b, dtype=float)[:, None]}
        return merge_units(make_predictions(names, ("X",), np.array(y, dtype=float)[:, None], columns))

    def found(y: list[int], a: list[float], b: list[float]) -> Verdict:
        return make_verdict(judge(table(y, a, b), [("a", "b")]), "a", "b")

    few = found([1, 0, 0, 0], [4, 1, 2, 3], [1, 2, 3, 4])
    assert few.word == "not testable"
    assert few.text == (
        "a against b: not testable, difference of the mean AUC +1.000, not estimable (1 positive); one seed"
    )
    absent = found([0, 0, 0, 0], [4, 1, 2, 3], [1, 2, 3, 4])
    assert absent.text.startswith("a against b: not testable, undefined (") and math.isnan(absent.smallest_detectable)
    alike = found([1, 1, 0, 0], [4, 1, 2, 3], [8, 2, 4, 6])
    assert (alike.word, alike.p_value) == ("tie", 1) and math.isnan(alike.smallest_detectable)
    assert alike.text.endswith("p 1.000; the two rank all cases alike; one seed")
    constant = found([1, 1, 0, 0], [4, 3, 2, 1], [1, 1, 1, 1])
    assert constant.word == "not testable" and "not estimable (no variance)" in constant.text


def test_methods_that_ignore_patients_say_so() -> None:
    units = units_of(4, 0.0)
    repeated = Units("image", "mean", units.labels, np.arange(400) // 2, units.targets, units.scores, 400)
    for method in ("delong", "logit"):
        found = judge(repeated, [("auc", "ce")], method)
        assert "clustered" not in found.aucs[0].interval and "clustered" not in found.comparisons[0].test
        assert found.aucs == judge(units, [], method).aucs
        (note,) = [n for n in found.notes if n.startswith(f"interval={method}")]
        assert "400 units (image) of 200 patients" in note
        assert not [n for n in judge(units, [], method).notes if n.startswith("interval=")]
    for method in ("auto", "clustered"):
        found = judge(repeated, [("auc", "ce")], method)
        assert found.aucs[0].interval.startswith("clustered logit")
        assert found.comparisons[0].test.startswith("clustered paired DeLong")
    with pytest.raises(ValueError, match=r"choose one of auto, delong, logit, clustered, bootstrap"):
        judge(units, [], "exact")


def test_the_degrees_of_freedom_of_a_mean_are_those_of_its_labels() -> None:
    rng = np.random.default_rng(4)
    y = np.zeros((120, 2))
    y[:6, 0] = y[30:90, 1] = 1  # few positives, and many: the first label makes most of the variance
    scores = {m: y + rng.normal(size=y.shape) for m in ("a", "b")}
    table = make_predictions([f"i{i}" for i in range(120)], ("few", "many"), y, scores)
    found = judge(merge_units(table), [("a", "b")]).comparisons
    variances = np.array([row.se**2 for row in found[:2]])
    welch = variances.sum() ** 2 / np.sum(variances**2 / [5, 59])
    assert 5 < welch < 20 and found[2].test == f"influence, t with {welch:.0f} df"
    half = stats.t.ppf(0.975, welch) * found[2].se
    assert found[2].ci_high - found[2].difference == pytest.approx(half, rel=1e-9)
