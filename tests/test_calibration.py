"""Platt's scaling and the blend, against published values and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from dam.config import EvaluationConfig
from dam.errors import UserError
from dam.evaluation.agreement import (
    agreement,
    brier,
    equal_mass,
    equal_width,
    recalibration,
    reliability,
    smooth_calibration,
)
from dam.evaluation.calibration import (
    Blend,
    Platt,
    blend_tables,
    fit_blend,
    fit_logistic,
    fit_platt,
    fit_temperature,
    shift_of_prevalence,
)
from dam.evaluation.fitted import Fitted, LabelFit, cross_fitted, fit, fit_label
from dam.evaluation.predictions import make_predictions, merge_units

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])
B = np.array([0.7, 0.9, 0.4, 0.6, 0.2, 0.65, 0.5, 0.3, 0.35, 0.25, 0.1, 0.15])


def test_platt_with_smoothed_targets() -> None:
    fit = fit_platt(Y, logit(A))
    assert (fit.slope, fit.intercept) == pytest.approx((0.66270794, -0.3087655), abs=1e-8)
    assert (fit.positives, fit.negatives) == (5, 7) and fit.usable
    np.testing.assert_allclose(expit(fit.logits(logit(A))), expit(0.66270794 * logit(A) - 0.3087655), atol=1e-8)


def test_separated_validation_data_stay_finite() -> None:
    fit = fit_platt([1, 1, 1, 0, 0, 0], logit([0.9, 0.8, 0.7, 0.3, 0.2, 0.1]))
    assert (fit.slope, fit.intercept) == pytest.approx((0.8609, 0.0), abs=5e-5)


def test_plain_targets_are_logistic_regression() -> None:
    slope, intercept = fit_logistic(Y, logit(A))
    assert (slope, intercept) == pytest.approx((1.05553968, -0.40676891), abs=1e-7)
    nll = np.mean(np.logaddexp(0, slope * logit(A) + intercept) - Y * (slope * logit(A) + intercept))
    assert nll == pytest.approx(0.493676950799, abs=1e-11)
    rng = np.random.default_rng(0)
    s = rng.normal(50, 20, 500)
    y = (rng.random(500) < expit((s - 60) / 15)).astype(int)
    twin = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(((s - 50) / 20)[:, None], y)
    expected = twin.coef_[0, 0] / 20
    assert fit_logistic(y, s) == pytest.approx((expected, twin.intercept_[0] - 50 * expected), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_any_scale_of_scores(scale: float) -> None:
    fit = fit_platt(Y, scale * logit(A) + 3 * scale)
    assert fit.slope * scale == pytest.approx(0.66270794, abs=1e-7)
    assert fit.intercept == pytest.approx(-0.3087655 - 3 * 0.66270794, abs=1e-6)


def test_an_order_that_would_turn_round_is_flagged_and_refused() -> None:
    fit = fit_platt(Y, -logit(A))
    assert fit.slope == pytest.approx(-0.66270794, abs=1e-8) and not fit.usable
    with pytest.raises(ValueError, match="not positive"):
        fit.logits(A)
    assert not fit_platt(Y, np.ones(12)).usable
    assert fit_platt([0, 0, np.nan], [1.0, 2.0, 3.0]) == Platt(0.0, 0.0, 0, 2)
    with pytest.raises(ValueError, match="finite"):
        fit_platt(Y, np.where(A > 0.85, np.nan, A))


def test_blend_is_the_mean_of_calibrated_logits() -> None:
    blend = fit_blend(Y, {"auc": logit(A), "ce": logit(B)})
    expected = (fit_platt(Y, logit(A)).logits([0.3]) + fit_platt(Y, logit(B)).logits([-1.2])) / 2
    np.testing.assert_allclose(blend.apply({"auc": [0.3], "ce": [-1.2]}), expected, atol=1e-14)
    stored = json.loads(json.dumps(blend.as_dict()))
    assert stored["fits"]["auc"]["slope"] == fit_platt(Y, logit(A)).slope and stored["left_out"] == {}


def test_blend_leaves_out_a_model_that_is_no_use_and_says_so() -> None:
    blend = fit_blend(Y, {"auc": logit(A), "ce": -logit(B)})
    assert list(blend.fits) == ["auc"] and "slope" in blend.left_out["ce"]
    np.testing.assert_allclose(blend.apply({"auc": [0.3], "ce": [9.0]}), fit_platt(Y, logit(A)).logits([0.3]))
    with pytest.raises(ValueError, match="nothing to blend"):
        Blend({}, {"auc": "why"}).apply({"auc": [1.0]})


def test_blend_of_tables_is_fitted_on_validation_and_applied_to_all() -> None:
    targets = np.stack([Y, np.zeros(12), Y], axis=1).astype(float)
    first = np.stack([logit(A)] * 3, axis=1)
    second = np.stack([logit(B), logit(B), np.full(12, np.nan)], axis=1)
    names = [f"{i}.png" for i in range(12)]
    val = make_predictions(names, ("X", "Y", "Z"), targets, {"ce": first, "auc": second})
    test = make_predictions(names, ("X", "Y", "Z"), np.full((12, 3), np.nan), {"ce": first + 1, "auc": second})
    tables, blends, notes = blend_tables(val, {"val": val, "test": test}, ("ce", "auc"))
    assert list(blends) == ["X"] and tables["val"].models == ("ce", "auc", "blend")
    expected = blends["X"].apply({"ce": first[:, 0] + 1, "auc": second[:, 0]})
    np.testing.assert_array_equal(tables["test"].scores["blend"][:, 0], expected)
    assert np.isnan(tables["test"].scores["blend"][:, 1:]).all()
    assert any("one class only" in n for n in notes) and any("auc has no scores" in n for n in notes)


# ---------------------------------------------------------------- temperature, prevalence, storing


def test_temperature() -> None:
    t = fit_temperature(Y, logit(A))
    # the published 0.978613680 stopped 3e-9 short of where the derivative of the loss is 0
    assert t == pytest.approx(0.978613680, abs=5e-9)
    z = logit(A) / t
    assert np.mean(np.logaddexp(0, z) - Y * z) == pytest.approx(0.507083413808, abs=1e-11)
    assert logit(A) @ (expit(z) - Y) == pytest.approx(0, abs=1e-10)
    assert fit_temperature([1, 1, 0, 0], [2.0, 1, -1, -2]) == pytest.approx(np.exp(-5))  # separated: at the bound
    assert fit_temperature([0, 0, 1, 1], [2.0, 1, -1, -2]) == pytest.approx(np.exp(5))
    with pytest.raises(ValueError, match="cannot shift the prior"):
        fit_temperature(Y, logit(A), rebalanced=True)
    with pytest.raises(ValueError, match="both classes"):
        fit_temperature([1, 1], [0.0, 1.0])


def test_shift_of_prevalence_is_bayes() -> None:
    p = np.array([0.1, 0.5, 0.9])
    shifted = expit(logit(p) + shift_of_prevalence(0.5, 0.01))
    np.testing.assert_allclose(shifted, p * 0.01 / (p * 0.01 + (1 - p) * 0.99), atol=1e-12)
    assert shift_of_prevalence(0.3, 0.3) == 0


def config(**changes: object) -> EvaluationConfig:
    values: dict[str, object] = dict(
        interval="auto", replicates=200, seed=0, calibration="platt", threshold="youden", sensitivity=0.9,
        specificity=0.9, cost=1.0, prevalence=None, readers=None, subgroups=[], min_group=10,
    )  # fmt: skip
    return EvaluationConfig(**(values | changes))  # type: ignore[arg-type]


def test_fits_come_back_from_strict_json() -> None:
    table = make_predictions(
        [str(i) for i in range(12)],
        ("a", "b"),
        np.stack([Y, np.zeros(12)], axis=1),
        {"m": np.stack([logit(A)] * 2, axis=1), "n": np.stack([-logit(A)] * 2, axis=1)},
    )
    fitted = fit(merge_units(table), config(prevalence=0.1))
    text = json.dumps(fitted.as_dict(), allow_nan=False)
    again = Fitted.from_dict(json.loads(text))
    assert json.dumps(again.as_dict(), allow_nan=False) == text
    a = again.get("m", "a")
    assert a is not None and (a.method, a.rule, a.threshold) == ("platt", "youden", pytest.approx(logit(0.55)))
    assert {"method", "slope", "intercept", "positives", "negatives", "threshold", "rule"} <= set(a.as_dict())
    np.testing.assert_allclose(a.probabilities(logit(A), shifted=False), fit_platt(Y, logit(A)).probabilities(logit(A)))
    np.testing.assert_allclose(a.logits(0.0) - a.logits(0.0, shifted=False), logit(0.1) - logit(5 / 12))
    assert not again.fits["m"]["b"].usable and "no positives" in again.fits["m"]["b"].note
    assert not again.fits["n"]["a"].usable and "order" in again.fits["n"]["a"].note
    assert any("fewer than 20" in note for note in fitted.notes)
    with pytest.raises(ValueError, match="no calibration"):
        again.fits["n"]["a"].logits(0.0)
    never = fit_label(np.array([1.0, 0]), np.array([0.0, 1]), config(threshold="cost", cost=0.5))
    assert never.threshold == np.inf and LabelFit.from_dict(json.loads(json.dumps(never.as_dict()))).threshold == np.inf


@pytest.mark.parametrize(
    ("stored", "match"),
    [
        ([], "model"),
        ({"m": {"a": 3}}, "slope"),
        ({"m": {"a": {"slope": "1; import os", "positives": 1, "negatives": 1}}}, "slope"),
        ({"m": {"a": {"slope": 1, "intercept": 0, "positives": 1, "negatives": 1, "prevalence": 2}}}, "prevalence"),
    ],
)
def test_stored_fits_that_are_something_else(stored: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Fitted.from_dict(stored)


def test_blend_comes_back() -> None:
    blend = fit_blend(Y, {"auc": logit(A), "ce": -logit(B)})
    assert Blend.from_dict(json.loads(json.dumps(blend.as_dict()))) == blend
    with pytest.raises(ValueError, match="slope"):
        Blend.from_dict({"fits": {"auc": {"slope": None}}})
    with pytest.raises(ValueError, match="stored blend"):
        Blend.from_dict({"fits": 3})


def test_temperature_after_rebalancing_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="platt"):
        fit_label(Y.astype(float), logit(A), config(calibration="temperature"), rebalanced=True)
    found = fit_label(Y.astype(float), logit(A), config(calibration="temperature"))
    assert found.method == "temperature" and 1 / found.slope == pytest.approx(0.97861368, abs=1e-8)


def test_cross_fit_keeps_patients_whole_and_sees_no_case_it_calibrates() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 3)
    y = (rng.random(60) < 0.4).astype(float)[patients]
    s = rng.normal(size=180) + 2 * y
    found = cross_fitted(y, s, patients, config(), False)
    assert found.folds == 5 and not found.note and np.isfinite(found.logits).all()
    np.testing.assert_array_equal(found.logits, cross_fitted(y, s, patients, config(), False).logits)
    # a patient's own targets do not move its logits, and one fold has one line
    slopes = np.array([np.ptp(found.logits[patients == p]) / np.ptp(s[patients == p]) for p in range(60)])
    assert len(np.unique(slopes.round(9))) == 5
    few = cross_fitted(np.array([1.0, 0, 0]), np.arange(3.0), np.arange(3), config(), False)
    assert np.isnan(few.logits).all() and "fewer than 2 patients" in few.note
    marked = cross_fitted(Y.astype(float), logit(A), np.arange(12), config(), False)
    assert "fewer than 20" in marked.note


# ---------------------------------------------------------------- agreement


def test_reliability_of_the_shared_vector() -> None:
    bins = reliability(Y, A, equal_width(A, 5))
    np.testing.assert_allclose(bins.n, [3, 2, 3, 3, 1])
    np.testing.assert_allclose(bins.mean_p, [0.116667, 0.3, 0.516667, 0.8, 0.9], atol=5e-7)
    np.testing.assert_allclose(bins.rate, [0, 0.5, 0.333333, 0.666667, 1], atol=5e-7)
    assert (bins.ece, bins.mce) == pytest.approx((0.15, 0.2), abs=1e-9)
    assert reliability(Y, A, equal_width(A, 10)).ece == pytest.approx(0.225, abs=1e-9)
    p = A + 0.013
    found = [reliability(Y, p, equal_width(p, b)).ece for b in (5, 10, 15)]
    np.testing.assert_allclose(found, [0.1065, 0.1565, 0.229333333333], atol=1e-9)
    codes = np.empty(12, dtype=int)
    codes[np.argsort(A, kind="stable")] = np.repeat(range(4), 3)
    bins = reliability(Y, A, codes)
    np.testing.assert_allclose(bins.mean_p, [0.116667, 0.366667, 0.616667, 0.833333], atol=5e-7)
    assert bins.ece == pytest.approx(0.0916666667, abs=1e-9)
    assert bins.intervals()[0] == pytest.approx((0, 0.5614970), abs=1e-6)


def test_equal_mass_never_parts_equal_values() -> None:
    rng = np.random.default_rng(0)
    p = np.round(rng.random(500), 2)
    codes = equal_mass(p, 10)
    for value in np.unique(p):
        assert len(set(codes[p == value])) == 1
    assert set(codes) == set(range(10)) and np.all(np.abs(np.bincount(codes) - 50) <= 8)
    order = np.argsort(p)
    assert (np.diff(codes[order]) >= 0).all()
    shuffle = rng.permutation(500)
    np.testing.assert_array_equal(equal_mass(p[shuffle], 10), codes[shuffle])
    assert set(equal_mass(np.full(9, 0.3))) == {0} and list(equal_mass(np.array([0.1, 0.2]), 2)) == [0, 1]
    assert len(set(equal_mass(rng.random(100), 10))) == 10


def test_brier_and_its_parts() -> None:
    found = brier(Y, A)
    np.testing.assert_allclose(found[:4], [0.172083333333, 0.0748611111, 0.1458333333, 0.2430555556], atol=1e-9)
    assert found.skill == pytest.approx(0.292, abs=5e-4)
    found = brier(Y, A, equal_width(A, 5))
    np.testing.assert_allclose(found, [0.1720833333, 0.02375, 0.0902777778, 0.2430555556, -0.0044444444], atol=1e-9)
    assert brier(Y, A + 0.013).score == pytest.approx(0.173985666667, abs=1e-9)
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 200), rng.random(200)
    codes = equal_mass(p)
    parts, bins = brier(y, p, codes), reliability(y, p, codes)
    o, pbar = bins.rate[codes], bins.mean_p[codes]
    within = np.mean((p - pbar) ** 2 - 2 * (p - pbar) * (y - o))
    assert parts.within_bin == pytest.approx(within, abs=1e-12)


def test_agreement_of_the_shared_vector() -> None:
    found = agreement([*Y, np.nan], [*logit(A), np.nan])
    assert found.o_over_e == pytest.approx(0.8620689655, abs=1e-9)
    # the published -0.3945762151 stopped 6e-9 short of the root
    assert found.intercept == pytest.approx(-0.3945762151, abs=1e-8)
    assert expit(logit(A) + found.intercept).sum() == pytest.approx(5, abs=1e-12)
    assert found.slope == pytest.approx(1.05553968, abs=2e-8)
    assert found.nll == pytest.approx(0.507138500185, abs=1e-11)
    assert found.brier_low < found.brier.score < found.brier_high
    errors = (np.array(A) - np.array(Y)) ** 2  # the normal interval of a mean, divisor n - 1
    assert found.brier_high - found.brier.score == pytest.approx(1.959963984540054 * errors.std(ddof=1) / 12**0.5)
    twice = agreement(np.tile(Y, 2), np.tile(logit(A), 2), np.tile(np.arange(12), 2))
    assert (twice.brier_low, twice.brier_high) == pytest.approx((found.brier_low, found.brier_high), abs=1e-12)


def test_agreement_at_the_edges() -> None:
    separated = agreement([1, 1, 0, 0], [3.0, 2, -2, -3])
    assert np.isnan(separated.slope) and "perfect separation" in separated.note and np.isfinite(separated.intercept)
    one = agreement([0, 0], [0.0, 1.0])
    assert np.isnan(one.intercept) and "no positives" in one.note and np.isnan(one.brier.skill)
    huge = agreement([1, 0, 1, 0], [900.0, -900, -800, 800])
    assert np.isfinite([huge.nll, huge.brier.score, huge.intercept]).all()
    assert "equal" in recalibration(np.array([0.0, 1]), np.zeros(2))[2]
    with pytest.raises(ValueError, match="no known"):
        agreement([np.nan], [0.0])


def test_smooth_curve_finds_a_known_distortion() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=8000) * 1.5
    y = (rng.random(8000) < expit(0.5 * z - 1)).astype(int)
    curve = smooth_calibration(y, expit(z))
    wanted = expit(0.5 * logit(curve.p) - 1)
    assert np.max(np.abs(curve.rate - wanted)) < 0.06
    assert np.mean((curve.low <= wanted) & (wanted <= curve.high)) > 0.8
    assert np.isfinite(np.stack(smooth_calibration([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1]))).all()
    assert len(smooth_calibration([1, 0], [0.5, 0.5]).p) == 1
    with pytest.raises(ValueError, match="both classes"):
        smooth_calibration([1, 1], [0.5, 0.6])
