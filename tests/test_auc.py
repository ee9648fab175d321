"""ROC AUC, curve and placements against closed forms, brute force over all pairs and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from dam.evaluation.auc import placements, roc_auc, roc_curve, why_undefined

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])
B = np.array([0.7, 0.9, 0.4, 0.6, 0.2, 0.65, 0.5, 0.3, 0.35, 0.25, 0.1, 0.15])


def brute_force(y: np.ndarray, s: np.ndarray, w: np.ndarray | None = None) -> float:
    w = np.ones(len(y)) if w is None else w
    wins = total = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            wins += w[i] * w[j] * (1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0)
            total += w[i] * w[j]
    return wins / total


tied_tables = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
        st.lists(st.integers(-4, 4), min_size=n, max_size=n),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
    )
)


def test_known_values() -> None:
    assert roc_auc(Y, A) == 29.5 / 35
    assert roc_auc(Y, B) == pytest.approx(0.771428571428571, abs=1e-14)
    assert roc_auc(Y, np.full(12, 0.3)) == 0.5


@given(tied_tables)
def test_equals_all_pairs(table: tuple[list[int], list[int], list[int]]) -> None:
    y, s, w = (np.array(column, dtype=float) for column in table)
    if why_undefined(y):
        assert np.isnan(roc_auc(y, s))
        return
    assert roc_auc(y, s) == pytest.approx(brute_force(y, s), abs=1e-12)
    assert roc_auc(y, s) == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    if w[y == 1].sum() and w[y == 0].sum():
        assert roc_auc(y, s, w) == pytest.approx(brute_force(y, s, w), abs=1e-12)


def test_equals_midranks_and_mann_whitney() -> None:
    for s in (A, B):
        ranks = stats.rankdata(s, method="average")
        assert roc_auc(Y, s) == pytest.approx((ranks[Y == 1].sum() - 15) / 35, abs=1e-15)
        assert roc_auc(Y, s) == pytest.approx(stats.mannwhitneyu(s[Y == 1], s[Y == 0]).statistic / 35, abs=1e-15)
        placed = placements(Y, s)
        inside = stats.rankdata(s[Y == 1]), stats.rankdata(s[Y == 0])
        np.testing.assert_allclose(placed.positive[0], (ranks[Y == 1] - inside[0]) / 7, atol=1e-15)
        np.testing.assert_allclose(placed.negative[0], 1 - (ranks[Y == 0] - inside[1]) / 5, atol=1e-15)


def test_weights_are_repeated_rows() -> None:
    w = np.array([2, 0, 1, 1, 1, 1, 0, 3, 1, 1, 1, 1])
    assert roc_auc(Y, A, w) == pytest.approx(0.85, abs=1e-15)
    assert roc_auc(np.repeat(Y, w), np.repeat(A, w)) == pytest.approx(0.85, abs=1e-15)
    assert roc_auc(Y, A, w) == pytest.approx(roc_auc_score(Y, A, sample_weight=w), abs=1e-15)
    assert np.isnan(roc_auc(Y, A, np.where(Y == 1, 0, 1)))


def test_only_order_matters_and_every_dtype_of_labels_works() -> None:
    for y in (Y.astype(np.uint8), Y.astype(bool), Y.astype(np.float32)):
        assert roc_auc(y, np.exp(3 * A) - 7) == 29.5 / 35


def test_unknown_targets_are_left_out() -> None:
    y = np.append(Y.astype(float), np.nan)
    assert roc_auc(y, np.append(A, 99.0)) == 29.5 / 35
    assert placements(y, np.append(A, 99.0)).positive.shape == (1, 5)


def test_an_absent_class_is_nan_with_a_reason() -> None:
    assert np.isnan(roc_auc([0, 0], [1, 2])) and why_undefined([0, 0]) == "no positives"
    assert np.isnan(roc_auc([1, np.nan], [1, 2])) and why_undefined([1, np.nan]) == "no negatives"
    assert why_undefined([np.nan]) == "no known targets" and why_undefined(Y) == ""
    with pytest.raises(ValueError, match="no positives"):
        placements([0, 0], [1, 2])
    with pytest.raises(ValueError, match="no negatives"):
        roc_curve([1, 1], [1, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_without_rank_is_an_error(bad: float) -> None:
    scores = A.copy()
    scores[3] = bad
    for function in (roc_auc, roc_curve, placements):
        with pytest.raises(ValueError, match="case 3 is not finite"):
            function(Y, scores)


def test_wrong_targets_lengths_and_weights_are_errors() -> None:
    with pytest.raises(ValueError, match="case 1 is -1"):
        roc_auc([1, -1], [0.1, 0.2])
    with pytest.raises(ValueError, match="one score a case"):
        roc_auc([1, 0], [0.1])
    with pytest.raises(ValueError, match="one dimension"):
        roc_auc([[1, 0]], [[0.1, 0.2]])
    with pytest.raises(ValueError, match="weights"):
        roc_auc([1, 0], [0.1, 0.2], [-1, 1])


def test_placements() -> None:
    placed = placements(Y, np.stack([A, B]))
    np.testing.assert_allclose(placed.positive[0], [1, 0.9285714286, 0.9285714286, 0.8571428571, 0.5], atol=1e-10)
    np.testing.assert_allclose(placed.positive[1], [1, 1, 0.7142857143, 0.8571428571, 0.2857142857], atol=1e-10)
    np.testing.assert_allclose(placed.negative[0], [0.4, 0.8, 0.8, 0.9, 1, 1, 1], atol=1e-10)
    np.testing.assert_allclose(placed.negative[1], [0.4, 0.6, 0.8, 0.8, 0.8, 1, 1], atol=1e-10)
    np.testing.assert_allclose(placed.positive.mean(axis=1), placed.auc, atol=1e-15)
    np.testing.assert_allclose(placed.negative.mean(axis=1), placed.auc, atol=1e-15)
    assert placed.auc[0] == roc_auc(Y, A)


def test_roc_curve() -> None:
    fpr, tpr, thresholds = roc_curve(Y, A)
    np.testing.assert_allclose(fpr * 7, [0, 0, 1, 1, 3, 4, 5, 6, 7], atol=1e-12)
    np.testing.assert_allclose(tpr, [0, 0.2, 0.6, 0.8, 0.8, 1, 1, 1, 1], atol=1e-15)
    np.testing.assert_array_equal(thresholds, [np.inf, 0.9, 0.8, 0.55, 0.5, 0.3, 0.2, 0.1, 0.05])
    assert np.trapezoid(tpr, fpr) == pytest.approx(29.5 / 35, abs=1e-15)
