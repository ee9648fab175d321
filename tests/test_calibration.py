"""Platt's scaling and the blend, against published values and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from dam.evaluation.calibration import Blend, Platt, blend_tables, fit_blend, fit_logistic, fit_platt
from dam.evaluation.predictions import make_predictions

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
