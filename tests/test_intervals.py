"""Variances, intervals, paired tests, the macro mean and Holm, against published vectors and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from dam.evaluation.auc import Placements, placements
from dam.evaluation.comparisons import (
    contrast_test,
    difference_test,
    holm,
    influence,
    macro_mean,
    paired_test,
    unpaired_test,
    welch_df,
)
from dam.evaluation.intervals import (
    Counts,
    auc_interval,
    clustered_covariance,
    count_cases,
    delong_covariance,
    logit_interval,
    patient_codes,
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


def test_covariance_is_that_of_the_components() -> None:
    placed = placements(Y, AB)
    s10, s01 = np.cov(placed.positive), np.cov(placed.negative)
    np.testing.assert_allclose(s10, [[0.0392857143, 0.0545918367], [0.0545918367, 0.0877551020]], atol=1e-10)
    np.testing.assert_allclose(s01, [[0.0461904762, 0.0414285714], [0.0414285714, 0.0457142857]], atol=1e-10)
    np.testing.assert_allclose(delong_covariance(placed), s10 / 5 + s01 / 7, atol=1e-16)


def hanley_mcneil(a: float, m: int, n: int) -> float:
    """Variance of an AUC by Hanley and McNeil (1982), from the AUC alone: a formula of another make."""
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    return (a * (1 - a) + (m - 1) * (q1 - a**2) + (n - 1) * (q2 - a**2)) / (m * n)


def test_delong_agrees_with_hanley_and_mcneil() -> None:
    assert hanley_mcneil(29.5 / 35, 5, 7) == pytest.approx(0.016224606146, abs=1e-12)
    table = {0.8: (0.126, 0.088, 0.062, 0.039, 0.028), 0.9: (0.096, 0.067, 0.047, 0.030, 0.021)}
    for auc, expected in table.items():
        found = [math.sqrt(hanley_mcneil(auc, m, 5 * m)) for m in (5, 10, 20, 50, 100)]
        assert found == pytest.approx(expected, abs=6e-4)
    rng = np.random.default_rng(0)
    y = np.repeat([1, 0], [400, 2000])
    placed = placements(y, rng.exponential(np.where(y == 1, 4.0, 1.0)))  # the law it is exact for
    auc, variance = float(placed.auc[0]), float(delong_covariance(placed)[0, 0])
    assert variance == pytest.approx(hanley_mcneil(auc, 400, 2000), rel=0.1)


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
    variance = 0.0144557823129252
    found = auc_interval(29.5 / 35, variance, count_cases(Y))
    logit, se = math.log(29.5 / 5.5), math.sqrt(variance) / (29.5 / 35 * 5.5 / 35)
    half = stats.t.ppf(0.975, 4) * se
    expected = (1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit)))
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-10)
    assert found.method == "logit-t"
    wide = auc_interval(29.5 / 35, variance, count_cases(Y, G))
    assert wide.method == "clustered logit-t" and wide.low < found.low and wide.high > found.high


def test_each_method_is_named_and_clustered_is_the_logit_interval_with_a_normal_quantile() -> None:
    auc, variance = 29.5 / 35, 0.0144557823129252
    found = {m: auc_interval(auc, variance, count_cases(Y), m) for m in ("delong", "logit", "clustered")}
    assert {m: f.method for m, f in found.items()} == {
        "delong": "delong",
        "logit": "logit",
        "clustered": "clustered logit",
    }
    assert found["delong"].low == pytest.approx(0.607206357847, abs=1e-11)
    assert (found["clustered"].low, found["clustered"].high) == (found["logit"].low, found["logit"].high)
    wide = auc_interval(auc, 0.0313265, count_cases(Y, G), "clustered")
    assert wide.method == "clustered logit" and wide.low < found["clustered"].low
    with pytest.raises(ValueError, match="auto, delong, logit, clustered"):
        auc_interval(auc, variance, count_cases(Y), "bootstrap")


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


def test_a_t_quantile_widens_and_agrees_with_scipy() -> None:
    found = paired_test(placements(Y, AB), 0, 1, df=4)
    se = 0.0697419929327
    assert found.se == pytest.approx(se, abs=1e-12)
    assert found.p_value == pytest.approx(2 * stats.t.sf(found.difference / se, 4), abs=1e-10)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 4, found.difference, se), abs=1e-10)
    normal = paired_test(placements(Y, AB), 0, 1)
    assert normal.p_value == pytest.approx(2 * stats.norm.sf(1.024183112998), abs=1e-11)


def test_unpaired_differences() -> None:
    groups = unpaired_test(0.90, 0.0004, 0.84, 0.0009)
    assert groups.difference / groups.se == pytest.approx(1.664100589, abs=1e-9)
    assert groups.p_value == pytest.approx(0.0960923295, abs=1e-10)
    assert (groups.low, groups.high) == pytest.approx((-0.0106675, 0.1306675), abs=1e-7)
    # what it would be wrong to do with paired models
    wrong = unpaired_test(29.5 / 35, 0.0144557823129, 27 / 35, 0.0240816326531)
    assert wrong.difference / wrong.se == pytest.approx(0.36386, abs=1e-5)
    assert wrong.p_value == pytest.approx(0.71596, abs=1e-5)


def test_welch_degrees_of_freedom() -> None:
    df = welch_df([0.0004, 0.0009], [60, 40])
    assert df == pytest.approx(0.0013**2 / (0.0004**2 / 59 + 0.0009**2 / 39), abs=1e-9)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=12), 3 * rng.normal(size=7)
    expected = stats.ttest_ind(x, y, equal_var=False)
    assert welch_df([x.var(ddof=1) / 12, y.var(ddof=1) / 7], [12, 7]) == pytest.approx(expected.df, abs=1e-10)
    found = unpaired_test(0.9, 0.0004, 0.84, 0.0009, df)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.06 / math.sqrt(0.0013), df), abs=1e-12)
    assert welch_df([0.01, 0.0], [5, 1]) == 4 and math.isnan(welch_df([0.0], [5]))


def test_contrasts_of_several_models() -> None:
    placed = placements(Y, AB)
    one = contrast_test(placed.auc, delong_covariance(placed), [1, -1])
    paired = paired_test(placed, 0, 1)
    assert one.chi_square == pytest.approx(1.024183112998**2, abs=1e-9) and one.df == 1
    assert one.p_value == pytest.approx(paired.p_value, abs=1e-12)
    # groups that share nobody: Q = sum w (a - mean)^2
    aucs, variances = [0.90, 0.84, 0.87], [0.0004, 0.0009, 0.0006]
    groups = contrast_test(aucs, np.diag(variances), [[1, -1, 0], [0, 1, -1]])
    assert (groups.chi_square, groups.df) == (pytest.approx(2.9210526316, abs=1e-10), 2)
    assert groups.p_value == pytest.approx(0.2321140773, abs=1e-10)
    assert groups.p_value == pytest.approx(stats.chi2.sf(groups.chi_square, 2), abs=1e-14)
    again = contrast_test(aucs, np.diag(variances), [[1, -1, 0], [0, 1, -1], [1, 0, -1]])
    assert (again.chi_square, again.df) == (pytest.approx(groups.chi_square, abs=1e-9), 2)


def test_contrasts_without_variance() -> None:
    placed = placements(Y, np.stack([A, A**3, B]))
    covariance = delong_covariance(placed)
    assert contrast_test(placed.auc, covariance, [1, -1, 0]) == (0.0, 0, 1.0)
    three = contrast_test(placed.auc, covariance, [[1, -1, 0], [0, 1, -1]])
    assert three.df == 1 and three.p_value == pytest.approx(0.305748793425, abs=1e-9)
    assert math.isnan(contrast_test([1.0, 0.5], np.zeros((2, 2)), [1, -1]).p_value)
    assert math.isnan(contrast_test([0.7, 0.5], np.full((2, 2), np.nan), [1, -1]).p_value)


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


def test_corrected_influence_is_delong_exactly() -> None:
    placed = placements(Y, AB)
    positive, negative = np.flatnonzero(Y == 1), np.flatnonzero(Y == 0)
    f = influence(placed, positive, negative, 12, corrected=True)
    np.testing.assert_allclose(f @ f.T, delong_covariance(placed), atol=1e-16)
    alone = influence(placements([1, 0, 0], [2, 1, 3]), np.array([0]), np.array([1, 2]), 3, corrected=True)
    assert np.isfinite(alone).all()


def test_degrees_of_freedom_of_a_mean_follow_the_label_that_varies_most() -> None:
    placed, f = _influence(Y, AB, np.arange(12))
    macro = macro_mean([placed.auc] * 3, [f, f, f])
    assert macro.df([5, 5, 5], 0) == pytest.approx(12, abs=1e-9)
    large = macro_mean([placed.auc] * 2, [f, 1e-3 * f])
    assert large.df([5, 1000], 0, 1) == pytest.approx(4, abs=1e-4)
    assert math.isnan(macro.df([5, 5, 5], 0, 0))


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


@pytest.mark.parametrize("patients", [[5, 2, 5, 0], [7, 900, 7, 3], [-1, 4, 4, 2], ["b", "a", "b", "c"], [0]])
def test_patient_codes_are_numpys_inverse(patients):
    codes, count = patient_codes(np.array(patients))
    names, inverse = np.unique(patients, return_inverse=True)
    assert codes.tolist() == inverse.tolist()
    assert count == len(names)
