"""Curves beyond the whole area: published numbers, scikit-learn, and the bootstrap against resampling by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from dam.evaluation.auc import roc_curve
from dam.evaluation.bootstrap import Draws
from dam.evaluation.curves import (
    average_precision,
    partial_auc,
    pr_at,
    pr_curve,
    roc_at,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)
from dam.evaluation.resampled import (
    CurveSampler,
    average_precisions,
    partial_aucs,
    roc_band,
    sensitivities_at,
    specificities_at,
)

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])
G = np.array([1, 1, 2, 3, 4, 4, 4, 5, 6, 6, 7, 7]) - 1


def random_cases(seed: int, n: int = 300, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(int)
    s = rng.normal(size=n) + y
    return y, np.round(s, 1) if ties else s


def test_average_precision_and_points() -> None:
    assert average_precision(Y, A) == pytest.approx(0.771111111111, abs=1e-9)
    assert average_precision(Y, np.ones(12)) == pytest.approx(5 / 12, abs=1e-12)
    assert average_precision([1, 1], [0.2, 0.1]) == 1 and np.isnan(average_precision([0, 0, np.nan], [1, 2, 3]))
    curve = pr_curve(Y, A)
    np.testing.assert_allclose(curve.thresholds[::-1], [0.05, 0.1, 0.2, 0.3, 0.5, 0.55, 0.8, 0.9])
    wanted = [0.416667, 0.454545, 0.5, 0.555556, 0.571429, 0.8, 0.75, 1]
    np.testing.assert_allclose(curve.precision[::-1], wanted, atol=5e-7)
    np.testing.assert_allclose(curve.recall[::-1], [1, 1, 1, 1, 0.8, 0.8, 0.6, 0.2])
    assert (pr_at(curve, 0.8), pr_at(curve, 0.81)) == pytest.approx((0.8, 5 / 9))
    with pytest.raises(ValueError, match="no positives"):
        pr_curve([0, 0], [1, 2])
    with pytest.raises(ValueError, match="finite"):
        average_precision([1, 0], [np.inf, 0])


@pytest.mark.parametrize("seed", range(4))
def test_scikit_learn_agrees(seed: int) -> None:
    y, s = random_cases(seed)
    w = np.random.default_rng(seed).integers(0, 3, len(y))
    assert average_precision(y, s) == pytest.approx(average_precision_score(y, s), abs=1e-12)
    assert average_precision(y, s, w) == pytest.approx(average_precision_score(y, s, sample_weight=w), abs=1e-12)
    precision, recall, _ = precision_recall_curve(y, s)
    ours = pr_curve(y, s)
    np.testing.assert_allclose(precision[:-1][::-1], ours.precision)
    np.testing.assert_allclose(recall[:-1][::-1], ours.recall)
    for f in (0.05, 0.1, 0.33):
        assert partial_auc(y, s, f) == pytest.approx(roc_auc_score(y, s, max_fpr=f), abs=1e-12)


def test_partial_auc() -> None:
    raw = [partial_auc(Y, A, f, standardized=False) for f in (0.1, 0.2, 0.5)]
    np.testing.assert_allclose(raw, [0.034, 0.102857142857, 0.346428571429], atol=1e-9)
    np.testing.assert_allclose(
        [partial_auc(Y, A, f) for f in (0.1, 0.2, 0.5)], [0.652631578947, 0.730158730159, 0.795238095238], atol=1e-9
    )
    assert partial_auc(Y, Y.astype(float), 0.1) == 1 and partial_auc(Y, np.ones(12), 0.1) == pytest.approx(0.5)
    assert np.isnan(partial_auc([1, 1], [1, 2]))
    with pytest.raises(ValueError, match="max_fpr"):
        partial_auc(Y, A, 0)


def test_points_are_attained_ones() -> None:
    curve = roc_curve(Y, A)
    for s in (0.8, 0.85):
        assert sensitivity_at_specificity(curve, s) == pytest.approx((0.8, 0.857142857142857, 0.55), abs=1e-12)
    for s in (0.9, 0.95, 1.0):
        assert sensitivity_at_specificity(curve, s) == pytest.approx((0.2, 1, 0.9))
    assert specificity_at_sensitivity(curve, 0.8) == pytest.approx((0.8, 6 / 7, 0.55))
    assert specificity_at_sensitivity(curve, 0.9) == pytest.approx((1, 3 / 7, 0.3))
    # the point where nobody is positive is allowed
    assert sensitivity_at_specificity(roc_curve([0, 1], [0.9, 0.1]), 0.9).threshold == np.inf


def test_roc_between_and_on_vertical_parts() -> None:
    curve = roc_curve(Y, A)
    found = [roc_at(curve, x) for x in (0, 0.05, 0.1, 1 / 7, 0.5, 1)]
    np.testing.assert_allclose(found, [0.2, 0.34, 0.48, 0.8, 0.9, 1], atol=1e-12)


@pytest.mark.parametrize(("y", "s", "g"), [(Y, A, G), (*random_cases(1, 60), np.arange(60) // 3)])
def test_bootstrap_is_resampling_the_rows(y: np.ndarray, s: np.ndarray, g: np.ndarray) -> None:
    count = int(g.max()) + 1
    weights = next(Draws(count, 60, 0).weights())
    drawn = CurveSampler(y, s, g, count).draw(weights)
    found = [
        average_precisions(drawn),
        partial_aucs(drawn, 0.2),
        sensitivities_at(drawn, 0.8),
        specificities_at(drawn, 0.8),
    ]
    for r in range(60):
        rows = np.repeat(np.arange(len(y)), weights[g, r].astype(int))
        if len(set(y[rows])) < 2:
            assert np.isnan([f[r] for f in found[1:]]).all()
            continue
        curve = roc_curve(y[rows], s[rows])
        wanted = [
            average_precision(y[rows], s[rows]),
            partial_auc(y[rows], s[rows], 0.2),
            sensitivity_at_specificity(curve, 0.8).sensitivity,
            specificity_at_sensitivity(curve, 0.8).specificity,
        ]
        np.testing.assert_allclose([f[r] for f in found], wanted, atol=2e-6)


def test_roc_band_holds_the_curve() -> None:
    y, s = random_cases(3, ties=False)
    band = roc_band(y, s, replicates=300)
    assert band.fpr[0] == 0 and band.fpr[-1] == 1 and len(band.low) == 101
    assert np.all(band.low <= band.tpr + 1e-9) and np.all(band.tpr <= band.high + 1e-9)
    np.testing.assert_allclose(band.tpr, [roc_at(roc_curve(y, s), x) for x in band.fpr], atol=1e-12)
    # twice every case in its patient: no narrower; as cases of their own: narrower
    twice = roc_band(np.tile(y, 2), np.tile(s, 2), np.tile(np.arange(len(y)), 2), replicates=300)
    np.testing.assert_allclose(twice.high, band.high, atol=1e-6)
    alone = roc_band(np.tile(y, 2), np.tile(s, 2), replicates=300)
    assert np.mean(alone.high - alone.low) < 0.8 * np.mean(band.high - band.low)
    with pytest.raises(ValueError, match="no negatives"):
        roc_band([1, 1], [1, 2])
