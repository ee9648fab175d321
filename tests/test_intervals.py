"""Variances, intervals, paired tests, the macro mean and Holm, against published vectors and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dam.evaluation.auc import Placements, placements
from dam.evaluation.comparisons import difference_test, holm, influence, macro_mean, paired_test
from dam.evaluation.intervals import (
    Counts,
    auc_interval,
    clustered_covariance,
    count_cases,
    delong_covariance,
    logit_interval,
    wald_interval,
)

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])
B = np.array([0.7, 0.9, 0.4, 0.6, 0.2, 0.65, 0.5, 0.3, 0.35, 0.25, 0.1, 0.15])
G = np.array([1, 1, 2, 3, 4, 4, 4, 5, 6, 6, 7, 7])
AB = np.stack([A, B])


def clustered(y: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> np.ndarray:
    return clustered_covariance(placements(y, scores), patients[y == 1], patients[y == 0])


def psi(x: float, y: float) -> float:
    return 1.0 if x > y else 0.5 if x == y else 0.0


def brute_force_clustered(y: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Obuchowski's formulae written out, one patient and one pair at a time."""
    models = len(scores)
    m, n = int(np.sum(y == 1)), int(np.sum(y == 0))
    names = sorted(set(patients))
    with_p = len({p for p, t in zip(patients, y, strict=True) if t == 1})
    with_n = len({p for p, t in zip(patients, y, strict=True) if t == 0})
    x, z = np.zeros((models, len(names))), np.zeros((models, len(names)))
    for r, s in enumerate(scores):
        auc = sum(psi(s[i], s[j]) for i in np.flatnonzero(y == 1) for j in np.flatnonzero(y == 0)) / (m * n)
        for g, name in enumerate(names):
            for i in np.flatnonzero(patients == name):
                if y[i] == 1:
                    x[r, g] += sum(psi(s[i], s[j]) for j in np.flatnonzero(y == 0)) / n - auc
                else:
                    z[r, g] += sum(psi(s[j], s[i]) for j in np.flatnonzero(y == 1)) / m - auc
    result = np.zeros((models, models))
    for r in range(models):
        for s in range(models):
            s10 = with_p / ((with_p - 1) * m) * np.sum(x[r] * x[s])
            s01 = with_n / ((with_n - 1) * n) * np.sum(z[r] * z[s])
            s11 = len(names) / (len(names) - 1) * np.sum(x[r] * z[s])
            s11_turned = len(names) / (len(names) - 1) * np.sum(x[s] * z[r])
            result[r, s] = s10 / m + s01 / n + (s11 + s11_turned) / (m * n)
    return result


# ---------------------------------------------------------------- variance


def test_delong_covariance() -> None:
    covariance = delong_covariance(placements(Y, AB))
    expected = [[0.0144557823129, 0.0168367346939], [0.0168367346939, 0.0240816326531]]
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [0.1202322016, 0.1551825784], atol=1e-10)


def test_clustered_covariance() -> None:
    covariance = clustered(Y, AB, G)
    np.testing.assert_allclose(covariance, [[0.0313265, 0.04005898], [0.04005898, 0.05568857]], atol=1e-8)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [0.17699295, 0.23598427], atol=1e-8)
    np.testing.assert_allclose(covariance, brute_force_clustered(Y, AB, G), atol=1e-14)


@given(st.integers(0, 2**32 - 1))
def test_clustered_covariance_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.append([1, 1, 0, 0], rng.integers(0, 2, 16))
    patients = np.append([100, 101, 102, 103], rng.integers(0, 8, 16))
    scores = rng.integers(0, 6, (2, 20)).astype(float)
    np.testing.assert_allclose(clustered(y, scores, patients), brute_force_clustered(y, scores, patients), atol=1e-13)


def test_one_case_a_patient_is_delong_exactly() -> None:
    placed = placements(Y, AB)
    np.testing.assert_allclose(clustered(Y, AB, np.arange(12)), delong_covariance(placed), rtol=0, atol=1e-17)
    named = np.array([f"p{i}" for i in range(12)], dtype=object)
    np.testing.assert_allclose(clustered(Y, AB, named), delong_covariance(placed), rtol=0, atol=1e-17)


def test_duplicated_cases_of_a_patient_add_no_information() -> None:
    twice = np.repeat(np.arange(12), 2)
    covariance = clustered(Y[twice], AB[:, twice], twice)
    assert covariance[0, 0] == pytest.approx(0.0144557823129, abs=1e-12)
    naive = delong_covariance(placements(Y[twice], AB[:, twice]))
    assert naive[0, 0] == pytest.approx(0.0065375894, abs=1e-10)


def test_too_few_patients_have_no_variance() -> None:
    assert np.isnan(clustered(Y, A, np.where(Y == 1, 0, G))).all()
    assert np.isnan(delong_covariance(placements([1, 0, 0, 0], [0.6, 0.7, 0.2, 0.1]))).all()


# ---------------------------------------------------------------- intervals


def test_wald_and_logit_intervals() -> None:
    auc_a, auc_b = 29.5 / 35, 27 / 35
    var_a, var_b = 0.0144557823129252, 0.0240816326530612
    assert wald_interval(auc_a, var_a) == pytest.approx((0.607206357847, 1.0), abs=1e-11)
    assert wald_interval(auc_b, var_b) == pytest.approx((0.467276306647, 1.0), abs=1e-11)
    assert logit_interval(auc_a, var_a) == pytest.approx((0.475135673792, 0.969493197093), abs=1e-11)
    assert logit_interval(auc_b, var_b) == pytest.approx((0.375535309270, 0.949852256616), abs=1e-11)
    with pytest.raises(ValueError, match="undefined at AUC 1"):
        logit_interval(1.0, 0.1)


def test_two_of_each_class() -> None:
    placed = placements([1, 1, 0, 0], [0.6, 0.3, 0.4, 0.1])
    variance = float(delong_covariance(placed)[0, 0])
    assert (float(placed.auc[0]), variance) == pytest.approx((0.75, 0.125), abs=1e-15)
    assert logit_interval(0.75, variance) == pytest.approx((0.069323277, 0.991791607), abs=1e-9)
    assert wald_interval(0.75, variance)[0] == pytest.approx(0.057, abs=1e-3)


def test_auto_is_the_logit_interval_with_t_of_the_smaller_class() -> None:
    from scipy import stats

    variance = 0.0144557823129252
    found = auc_interval(29.5 / 35, variance, count_cases(Y))
    logit, se = math.log(29.5 / 5.5), math.sqrt(variance) / (29.5 / 35 * 5.5 / 35)
    half = stats.t.ppf(0.975, 4) * se
    expected = (1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit)))
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-10)
    assert found.method == "logit-t"
    wide = auc_interval(29.5 / 35, variance, count_cases(Y, G))
    assert wide.method == "clustered logit-t" and wide.low < found.low and wide.high > found.high


def test_counts_take_patients_where_they_repeat() -> None:
    counts = count_cases(np.append(Y.astype(float), np.nan), np.append(G, 99))
    assert counts == Counts(5, 7, 4, 4, clustered=True)
    assert (counts.n, counts.df) == (12, 3)
    assert count_cases(Y, np.arange(12)) == Counts(5, 7, 5, 7, clustered=False)
    assert count_cases(Y).df == 4


@pytest.mark.parametrize(
    ("y", "scores", "patients", "says"),
    [
        ([1, 1, 1, 0, 0, 0], [0.9, 0.8, 0.7, 0.3, 0.2, 0.1], None, "not estimable (perfect separation)"),
        ([1, 1, 0, 0], [1, 2, 3, 4], None, "not estimable (perfect separation, reversed)"),
        ([1, 1, 0, 0], [5, 5, 5, 5], None, "not estimable (no variance: scores all tied or too few patients)"),
        ([1, 0, 0, 0], [0.6, 0.7, 0.2, 0.1], None, "not estimable (1 positive)"),
        ([1, 1, 1, 0], [0.6, 0.7, 0.2, 0.3], None, "not estimable (1 negative)"),
        ([1, 1, 0, 0], [0.6, 0.3, 0.4, 0.1], [1, 1, 2, 3], "not estimable (all positives of 1 patient)"),
    ],
)
def test_what_cannot_be_estimated_says_so(y: list, scores: list, patients: list | None, says: str) -> None:
    placed = placements(y, scores)
    targets, groups = np.array(y), np.arange(len(y)) if patients is None else np.array(patients)
    variance = float(clustered(targets, np.array([scores], dtype=float), groups)[0, 0])
    for method in ("auto", "delong", "logit"):
        found = auc_interval(float(placed.auc[0]), variance, count_cases(targets, groups), method)
        assert found.method == says and math.isnan(found.low) and math.isnan(found.high)


def test_an_absent_class_and_an_unknown_method() -> None:
    assert auc_interval(math.nan, math.nan, count_cases([0, 0, 0])).method == "undefined (no positives)"
    with pytest.raises(ValueError, match="bootstrapp"):
        auc_interval(0.7, 0.01, count_cases(Y), "bootstrapp")


# ---------------------------------------------------------------- paired test


def test_paired_test() -> None:
    found = paired_test(placements(Y, AB), 0, 1)
    assert found.difference == pytest.approx(0.0714285714286, abs=1e-12)
    assert found.p_value == pytest.approx(0.305748793425, abs=1e-11)
    assert (found.low, found.high) == pytest.approx((-0.065263222930, 0.208120365787), abs=1e-11)
    turned = paired_test(placements(Y, AB), 1, 0)
    assert (turned.low, turned.p_value) == pytest.approx((-found.high, found.p_value), abs=1e-14)


def test_paired_test_of_clustered_cases() -> None:
    found = paired_test(placements(Y, AB), 0, 1, G[Y == 1], G[Y == 0])
    assert found.p_value == pytest.approx(0.3897460047, abs=1e-9)
    assert (found.high - found.difference) / 1.959963984540054 == pytest.approx(0.0830489386, abs=1e-9)


def test_models_that_rank_alike_tie_exactly() -> None:
    for twin in (A, A**3, np.exp(A) - 4):
        found = paired_test(placements(Y, np.stack([A, twin])), 0, 1)
        assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
        found = paired_test(placements(Y, np.stack([A, twin])), 0, 1, G[Y == 1], G[Y == 0])
        assert (found.difference, found.p_value) == (0, 1)


def test_a_difference_without_variance_has_no_p() -> None:
    y = [1, 1, 1, 0, 0, 0]
    perfect, tied = [6, 5, 4, 3, 2, 1], [1, 1, 1, 1, 1, 1]
    found = paired_test(placements(y, [perfect, tied]), 0, 1)
    assert found.difference == 0.5 and math.isnan(found.p_value) and math.isnan(found.low)
    assert math.isnan(difference_test(0.1, math.nan).p_value)


# ---------------------------------------------------------------- macro mean


def _influence(y: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> tuple[Placements, np.ndarray]:
    placed = placements(y, scores)
    return placed, influence(placed, patients[y == 1], patients[y == 0], int(patients.max()) + 1)


def test_macro_mean_of_two_labels() -> None:
    second = np.array([1, 0, 1, 0, 1, 1, 0, 0, np.nan, 0, 1, 0])
    images = np.arange(12)
    first, f1 = _influence(Y, A, images)
    other, f2 = _influence(second, B, images)
    macro = macro_mean([first.auc, other.auc], [f1, f2])
    assert float(other.auc[0]) == pytest.approx(0.4666666667, abs=1e-10)
    assert float(macro.mean[0]) == pytest.approx(0.6547619048, abs=1e-10)
    assert math.sqrt(macro.variance(0)) == pytest.approx(0.1068249757, abs=1e-10)


def test_influence_is_delong_up_to_its_small_sample_factors() -> None:
    placed, f = _influence(Y, A, np.arange(12))
    assert f[0].sum() == pytest.approx(0, abs=1e-15)
    corrected = 5 / 4 * np.sum(f[0, Y == 1] ** 2) + 7 / 6 * np.sum(f[0, Y == 0] ** 2)
    assert corrected == pytest.approx(float(delong_covariance(placed)[0, 0]), abs=1e-15)


def test_influence_sums_over_a_patients_images() -> None:
    _, by_image = _influence(Y, AB, np.arange(12))
    _, by_patient = _influence(Y, AB, G)
    for g in np.unique(G):
        np.testing.assert_allclose(by_patient[:, g], by_image[:, g == G].sum(axis=1), atol=1e-16)
    assert not by_patient[:, 0].any()


def test_means_of_twin_models_tie_and_differences_are_paired() -> None:
    placed, f = _influence(Y, np.stack([A, A**3, B]), G)
    macro = macro_mean([placed.auc, placed.auc], [f, f])
    twin = macro.compare(0, 1)
    assert (twin.difference, twin.p_value) == (0, 1)
    found = macro.compare(0, 2)
    assert found.difference == pytest.approx(2.5 / 35, abs=1e-15)
    delta = f[0] - f[2]
    assert found.high - found.difference == pytest.approx(1.959963984540054 * np.sqrt(delta @ delta), abs=1e-14)
    with pytest.raises(ValueError, match="at least one label"):
        macro_mean([], [])


def test_macro_mean_keeps_the_correlation_between_labels() -> None:
    rng = np.random.default_rng(4)
    means, estimates = [], []
    for _ in range(300):
        y1 = rng.random(200) < 0.3
        y2 = np.where(rng.random(200) < 0.8, y1, rng.random(200) < 0.3)
        noise = rng.normal(size=200)
        scores = [y1 + noise, y2 + 0.8 * noise + 0.6 * rng.normal(size=200)]
        parts = [_influence(y.astype(int), s, np.arange(200)) for y, s in zip((y1, y2), scores, strict=True)]
        macro = macro_mean([p.auc for p, _ in parts], [f for _, f in parts])
        means.append(float(macro.mean[0]))
        estimates.append(math.sqrt(macro.variance(0)))
    assert np.mean(estimates) == pytest.approx(np.std(means), rel=0.1)


# ---------------------------------------------------------------- Holm


def test_holm() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005, 0.2]), [0.04, 0.09, 0.09, 0.025, 0.2], atol=1e-15)
    np.testing.assert_allclose(holm([0.01, np.nan, 0.9]), [0.02, np.nan, 0.9], atol=1e-15)
    assert holm([]).shape == (0,) and np.isnan(holm([np.nan])).all()
    assert holm([0.6, 0.7]).max() == 1
