"""The patient bootstrap against fixed vectors, repeated rows, scikit-learn and SciPy; and what judge makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from dam.evaluation.auc import roc_auc
from dam.evaluation.bootstrap import Draws, RankedCases, Replicates, bootstrap_aucs
from dam.evaluation.judge import Judgement, judge
from dam.evaluation.predictions import Units, make_predictions, merge_units

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])
B = np.array([0.7, 0.9, 0.4, 0.6, 0.2, 0.65, 0.5, 0.3, 0.35, 0.25, 0.1, 0.15])
G = np.array([1, 1, 2, 3, 4, 4, 4, 5, 6, 6, 7, 7]) - 1
RANKED = [RankedCases(Y, s, G, 7) for s in (A, B)]


# ---------------------------------------------------------------- draws


def test_draws_are_those_of_one_generator_call_a_replicate() -> None:
    rng = np.random.default_rng(0)
    expected = [rng.integers(0, 7, 7) for _ in range(600)]
    assert [list(e) for e in expected[:3]] == [[5, 4, 3, 1, 2, 0, 0], [0, 1, 5, 4, 6, 3, 4], [6, 5, 4, 3, 3, 6, 1]]
    chunks = list(Draws(7, 600, 0).weights())
    assert len(chunks) > 1 and max(c.shape[1] for c in chunks) <= 256
    weights = np.concatenate(chunks, axis=1)
    np.testing.assert_array_equal(weights, np.stack([np.bincount(e, minlength=7) for e in expected], axis=1))


def test_a_chunk_of_many_patients_stays_small() -> None:
    weights = next(iter(Draws(500_000, 50, 0).weights()))
    assert weights.nbytes <= 16e6 and weights.sum(axis=0).tolist() == [500_000] * weights.shape[1]


def test_draws_that_cannot_be_made_are_errors() -> None:
    for wrong in ((0, 10, 0), (7, 0, 0), (7, 10, -1)):
        with pytest.raises(ValueError, match="a bootstrap needs"):
            Draws(*wrong)


# ---------------------------------------------------------------- AUCs of replicates


def test_vector_of_the_draws() -> None:
    a, b = bootstrap_aucs(RANKED, Draws(7, 2000, 0))
    found, difference = Replicates(a), Replicates(a - b)
    interval = found.interval()
    assert (interval.low, interval.high) == pytest.approx((0.42045455, 1.0), abs=1e-8)
    assert interval.method == "patient bootstrap, 2000 replicates, 12 with one class dropped"
    assert (found.dropped, found.doubtful, found.too_few) == (12, False, False)
    assert (found.se, difference.se) == pytest.approx((0.1729279775, 0.0802047273), abs=1e-10)
    assert (difference.interval().low, difference.interval().high) == pytest.approx((-0.03125, 0.25), abs=1e-12)
    assert difference.p_value() == pytest.approx(0.8878833585, abs=1e-10)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.15, 0.5, 0.85]))
def test_a_replicate_is_the_auc_of_repeated_rows(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(30) < 0.1, np.nan, (rng.random(30) < share).astype(float))
    y[:2] = 0, 1
    scores, patients = rng.integers(-3, 4, 30).astype(float), rng.integers(0, 9, 30)
    found = bootstrap_aucs([RankedCases(y, scores, patients, 9)], Draws(9, 10, seed))[0]
    for auc, drawn in zip(found, np.concatenate(list(Draws(9, 10, seed).weights()), axis=1).T, strict=True):
        weights = drawn[patients]
        rows = np.repeat(np.arange(30), weights.astype(int))
        rows = rows[~np.isnan(y[rows])]
        if len(set(y[rows])) < 2:
            assert math.isnan(auc)
            continue
        assert auc == pytest.approx(roc_auc_score(y[rows], scores[rows]), abs=1e-12)
        assert auc == pytest.approx(roc_auc(y, scores, weights), abs=1e-12)
        known = ~np.isnan(y)
        by_weight = roc_auc_score(y[known], scores[known], sample_weight=weights[known])
        assert auc == pytest.approx(by_weight, abs=1e-12)


def test_weights_of_one_are_the_sample_and_weights_are_repeated_rows() -> None:
    assert RankedCases(Y, A, np.arange(12), 12).aucs(np.ones((12, 1)))[0] == pytest.approx(29.5 / 35, abs=1e-15)
    w = np.array([2, 0, 1, 1, 1, 1, 0, 3, 1, 1, 1, 1], dtype=float)
    assert RankedCases(Y, A, np.arange(12), 12).aucs(w[:, None])[0] == pytest.approx(0.85, abs=1e-15)


def test_cases_without_rank_or_class_are_errors() -> None:
    with pytest.raises(ValueError, match="no positives"):
        RankedCases([0, 0], [1, 2], [0, 1], 2)
    with pytest.raises(ValueError, match="not finite"):
        RankedCases([0, 1], [1, math.nan], [0, 1], 2)
    RankedCases([0, 1, np.nan], [1, 2, math.nan], [0, 1, 2], 3)


def test_percentiles_agree_with_scipy_on_independent_cases() -> None:
    rng = np.random.default_rng(5)
    y = np.repeat([1, 0], [60, 140])
    scores = y + rng.normal(size=200)
    ours = Replicates(bootstrap_aucs([RankedCases(y, scores, np.arange(200), 200)], Draws(200, 4000, 0))[0]).interval()

    def auc(index: np.ndarray, axis: int = -1) -> float:
        rows = index.astype(int)
        return roc_auc(y[rows], scores[rows])

    theirs = stats.bootstrap(
        (np.arange(200),), auc, n_resamples=4000, vectorized=False, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_linear_quantiles_are_stated() -> None:
    found = Replicates(np.arange(1, 1001) / 1000).interval()
    assert (found.low, found.high) == pytest.approx((0.025975, 0.975025), abs=1e-12)


# ---------------------------------------------------------------- dropped replicates and p


def test_dropped_replicates_are_named_marked_and_in_the_end_too_many() -> None:
    def values(dropped: int) -> Replicates:
        return Replicates(np.append(np.full(dropped, np.nan), np.linspace(0.6, 0.9, 100 - dropped)))

    assert not values(5).doubtful and values(6).doubtful and not values(50).too_few
    assert values(50).interval().low == pytest.approx(np.quantile(np.linspace(0.6, 0.9, 50), 0.025))
    lost = values(51)
    assert lost.too_few and math.isnan(lost.interval().low) and math.isnan(lost.se) and math.isnan(lost.p_value())
    assert lost.method == "not estimable (patient bootstrap: 51 of 100 replicates had one class)"


def test_p_is_two_sided_and_never_0() -> None:
    assert Replicates(np.full(999, 0.1)).p_value() == pytest.approx(2 / 1000)
    assert Replicates(-np.full(999, 0.1)).p_value() == pytest.approx(2 / 1000)
    assert Replicates(np.zeros(999)).p_value() == 1
    assert Replicates(np.append(np.full(9, -1.0), np.ones(990))).p_value() == pytest.approx(2 * 10 / 1000)


# ---------------------------------------------------------------- judge


def two_labels() -> Units:
    second = np.array([1, 0, 1, 0, 1, 1, 0, 0, np.nan, 0, 1, 0])
    targets = np.stack([Y, second], axis=1).astype(float)
    scores = {"a": np.stack([A, B], axis=1), "b": np.stack([B, A], axis=1), "c": np.stack([A, B], axis=1) ** 3}
    names = [f"{i}" for i in range(12)]
    return merge_units(make_predictions(names, ("X", "Z"), targets, scores, [f"{g}" for g in G]))


def rows_of(found: Judgement) -> dict:
    return {(r.label, r.model): r for r in found.aucs}


def test_judge_by_bootstrap_names_it_and_keeps_pairs() -> None:
    units = two_labels()
    found = judge(units, [("a", "b"), ("a", "c")], "bootstrap", 2000, 0)
    row = rows_of(found)["X", "a"]
    assert (row.ci_low, row.ci_high) == pytest.approx((0.42045455, 1.0), abs=1e-8)
    assert row.auc == 29.5 / 35 and row.interval == "patient bootstrap, 2000 replicates, 12 with one class dropped"
    x, z, mean, *twins = found.comparisons
    assert (x.ci_low, x.ci_high, x.p_value, x.se) == pytest.approx((-0.03125, 0.25, 0.8878833585, 0.08020473), abs=1e-8)
    assert x.test.startswith("patient bootstrap, 2000")
    assert z.p_value < x.p_value and z.p_holm == pytest.approx(min(1, 2 * z.p_value), abs=1e-12)
    draws = Draws(7, 2000, 0)
    drawn = {}
    for model in ("a", "b"):
        cases = [RankedCases(units.targets[:, k], units.scores[model][:, k], units.patients, 7) for k in range(2)]
        drawn[model] = bootstrap_aucs(cases, draws).mean(axis=0)
    expected = Replicates(drawn["a"] - drawn["b"])
    assert (mean.ci_low, mean.ci_high) == (expected.interval().low, expected.interval().high)
    assert mean.se == expected.se and mean.p_value == expected.p_value()
    assert mean.difference == pytest.approx((x.difference + z.difference) / 2, abs=1e-15)
    macro = rows_of(found)["mean", "a"]
    assert (macro.ci_low, macro.interval) == (Replicates(drawn["a"]).interval().low, Replicates(drawn["a"]).method)
    for twin in twins:
        assert (twin.difference, twin.ci_low, twin.ci_high, twin.p_value, twin.se) == (0, 0, 0, 1, 0)
        assert twin.test == "the two rank all cases alike"


def test_judge_by_bootstrap_is_deterministic_and_the_seed_counts() -> None:
    units = two_labels()
    first, again, other = (judge(units, [], "bootstrap", 300, seed) for seed in (3, 3, 4))
    assert first == again and first != other


def test_judge_with_one_label_by_bootstrap_has_the_labels_mean() -> None:
    table = make_predictions([f"{i}" for i in range(12)], ("X",), Y[:, None].astype(float), {"a": A[:, None]})
    label, mean = judge(merge_units(table), [], "bootstrap", 200).aucs
    assert (mean.label, mean.ci_low, mean.interval) == ("mean", label.ci_low, label.interval)


@pytest.mark.parametrize(
    ("y", "scores", "says"),
    [
        ([1, 1, 1, 0, 0, 0], [0.9, 0.8, 0.7, 0.3, 0.2, 0.1], "not estimable (perfect separation)"),
        ([1, 1, 0, 0], [5, 5, 5, 5], "not estimable (no variance: scores all tied or too few patients)"),
        ([1, 0, 0, 0], [0.6, 0.7, 0.2, 0.1], "not estimable (1 positive)"),
        ([0, 0, 0, 0], [0.6, 0.7, 0.2, 0.1], "undefined (no positives)"),
    ],
)
@pytest.mark.parametrize("method", ["auto", "clustered", "bootstrap"])
def test_judge_never_has_an_interval_it_cannot_have(y: list, scores: list, says: str, method: str) -> None:
    targets, column = np.array(y, dtype=float)[:, None], np.array(scores, dtype=float)[:, None]
    units = merge_units(make_predictions([f"{i}" for i in range(len(y))], ("X",), targets, {"a": column, "b": -column}))
    found = judge(units, [("a", "b")], method, 200)
    assert found.aucs[0].interval == says and math.isnan(found.aucs[0].ci_low)
    assert math.isnan(found.comparisons[0].p_value) or found.comparisons[0].p_value == 1


def test_judge_marks_labels_that_lose_replicates() -> None:
    y = np.zeros((60, 1))
    y[:2] = 1
    scores = np.random.default_rng(0).normal(size=(60, 1))
    units = merge_units(make_predictions([f"{i}" for i in range(60)], ("R",), y, {"a": scores}))
    found = judge(units, [], "bootstrap", 1000)
    (note,) = [n for n in found.notes if "replicates had one class" in n]
    dropped = int(note.split()[1])
    assert note.startswith("R: ") and dropped == pytest.approx(1000 * (58 / 60) ** 60, abs=45)
    assert f"{dropped} with one class dropped" in found.aucs[0].interval


def test_judge_marks_a_mean_that_loses_replicates_of_several_labels() -> None:
    rng = np.random.default_rng(0)
    y = np.zeros((90, 4))
    for k in range(4):
        y[3 * k : 3 * k + 3, k] = 1
    units = Units("image", "mean", tuple("ABCD"), np.arange(90), y, {"a": y + rng.normal(size=(90, 4))}, 90)
    found = judge(units, [], "bootstrap", 1000)
    # a label keeps its positives with 1 - (1 - 3/90)^90 = .953 and the mean only what all four keep
    (note,) = [n for n in found.notes if n.startswith("the mean: ")]
    assert int(note.split()[2]) > 130 and found.aucs[-1].interval.endswith("with one class dropped")


def test_bootstrap_and_formula_agree_on_a_large_clustered_sample() -> None:
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(400), 3)
    y = (rng.random((400, 2)) < 0.3).astype(float)[patients]
    shared = rng.normal(size=(400, 2))[patients]
    scores = {m: y + shared + 0.7 * rng.normal(size=(1200, 2)) for m in ("a", "b")}
    units = Units("image", "mean", ("X", "Z"), patients, y, scores, 1200)
    drawn, formula = judge(units, [("a", "b")], "bootstrap", 1000), judge(units, [("a", "b")], "clustered")
    for one, other in zip(drawn.comparisons, formula.comparisons, strict=True):
        assert one.se == pytest.approx(other.se, rel=0.1)
    for one, other in zip(drawn.aucs, formula.aucs, strict=True):
        assert one.ci_high - one.ci_low == pytest.approx(other.ci_high - other.ci_low, rel=0.1)


def test_fourteen_labels_of_25000_images_in_seconds() -> None:
    import time

    rng = np.random.default_rng(0)
    n, k = 25_000, 14
    y = (rng.random((n, k)) < 0.1).astype(float)
    scores = {m: y + rng.normal(size=(n, k)) for m in ("ce", "auc")}
    units = Units("image", "mean", tuple(f"L{i}" for i in range(k)), rng.integers(0, 8000, n), y, scores, n)
    start = time.process_time()
    found = judge(units, [("auc", "ce")], "bootstrap", replicates=100)
    assert time.process_time() - start < 4  # about .5 s alone; 1,000 replicates 3 s
    assert all(r.interval == "patient bootstrap, 100 replicates" for r in found.aucs)
