"""Thresholds, counts and intervals against published numbers and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score, matthews_corrcoef

from dam.evaluation.operating import (
    Counts2x2,
    choose_threshold,
    clopper_pearson,
    compare_answers,
    confusion,
    mcnemar,
    predictive_values,
    wilson,
)

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])


def test_thresholds_of_the_shared_vector() -> None:
    assert (choose_threshold(Y, A, "youden").value, choose_threshold(Y, A, "f1").value) == (0.55, 0.55)
    assert choose_threshold(Y, A, "sensitivity", 0.9) == choose_threshold(Y, A, "sensitivity", 1.0).__class__(
        0.3, "sensitivity >= 0.9"
    )
    assert choose_threshold(Y, A, "specificity", 0.9).value == 0.9
    f1 = [confusion(Y, A, t).f1 for t in np.unique(A)]
    wanted = [0.588235, 0.625, 0.666667, 0.714286, 0.666667, 0.8, 0.666667, 0.333333]
    np.testing.assert_allclose(f1, wanted, atol=5e-7)
    youden = [confusion(Y, A, t).sensitivity + confusion(Y, A, t).specificity - 1 for t in np.unique(A)]
    assert max(youden) == pytest.approx(0.657142857143, abs=1e-9)


def test_ties_take_the_largest_threshold() -> None:
    # J = 0.5 at both 3 and 1
    assert choose_threshold([1, 0, 1, 0], [3, 2, 1, 0], "youden").value == 3
    assert choose_threshold([1, 0, 1, 0], [3, 2, 1, 0], "cost", 1.0).value == 3
    assert choose_threshold([1, 0], [0, 1], "cost", 0.5).value == math.inf


@pytest.mark.parametrize("cost", [0.3, 1.0, 4.0, 20.0])
def test_cost_is_smallest(cost: float) -> None:
    rng = np.random.default_rng(1)
    y, s = rng.integers(0, 2, 80), rng.integers(0, 9, 80).astype(float)
    found = choose_threshold(y, s, "cost", cost)
    costs = {t: cost * c.fn + c.fp for t in [*np.unique(s), math.inf] for c in [confusion(y, s, t)]}
    assert found.rule == f"cost {cost:g}" and costs[found.value] == pytest.approx(min(costs.values()))
    assert found.value == max(t for t, c in costs.items() if c == pytest.approx(min(costs.values())))


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        choose_threshold(Y, A, "accuracy")
    with pytest.raises(ValueError, match="no positives"):
        choose_threshold([0, 0], [1, 2], "youden")


def test_counts_at_half() -> None:
    c = confusion([*Y, np.nan], [*A, 1.0], 0.5)
    assert (c.tp, c.fp, c.fn, c.tn) == (4, 3, 1, 4)
    np.testing.assert_allclose([c.sensitivity, c.specificity, c.ppv, c.npv], [0.8, 4 / 7, 4 / 7, 0.8], atol=1e-12)
    assert c.mcc == pytest.approx(matthews_corrcoef(Y, A >= 0.5)) and c.f1 == pytest.approx(f1_score(Y, A >= 0.5))
    assert c.accuracy == pytest.approx(8 / 12) and c.balanced_accuracy == pytest.approx((0.8 + 4 / 7) / 2)
    nobody = Counts2x2(0, 0, 0, 5)
    assert nobody.f1 == 0 and math.isnan(nobody.mcc) and math.isnan(nobody.sensitivity) and math.isnan(nobody.ppv)


@pytest.mark.parametrize(
    ("k", "n", "score", "exact"),
    [
        (4, 5, (0.375534629763, 0.963775891368), (0.283582063882, 0.994949236621)),
        (0, 10, (0, 0.277532799863), (0, 0.308497107819)),
        (10, 10, (0.722467200137, 1), (0.691502892181, 1)),
        (81, 100, (0.722211546209, 0.874852484902), (0.719302042026, 0.881556803867)),
        (1, 1, (0.206549314377, 1), (0.025, 1)),
        (184, 200, (0.874010511733, 0.950159414110), (0.873335143978, 0.953582391600)),
        (200, 200, (0.981154673623, 1), (0.981724659645, 1)),
    ],
)
def test_binomial_intervals(k: int, n: int, score: tuple[float, float], exact: tuple[float, float]) -> None:
    np.testing.assert_allclose(wilson(k, n), score, atol=1e-9)
    np.testing.assert_allclose(clopper_pearson(k, n), exact, atol=1e-9)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = binomtest(k, n).proportion_ci(method=method)
        np.testing.assert_allclose(ours(k, n), (theirs.low, theirs.high), atol=1e-9)
    assert wilson(k, n)[0] >= 0 and wilson(k, n)[1] <= 1
    assert np.isnan(wilson(0, 0)).all() and np.isnan(clopper_pearson(0, 0)).all()


def test_prevalence_shift() -> None:
    found = [predictive_values(0.8, 4 / 7, pi) for pi in (0.01, 0.1, 0.5)]
    wanted = [(0.018506278916, 0.996477101158), (0.171779141104, 0.962566844920), (0.651162790698, 0.740740740741)]
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert predictive_values(0.884, 0.996, 0.5)[0] == pytest.approx(0.9955, abs=5e-5)
    assert predictive_values(0.884, 0.996, 0.01)[0] == pytest.approx(0.6906, abs=5e-5)
    assert math.isnan(predictive_values(0.0, 1.0, 0.1)[0])


def test_mcnemar() -> None:
    assert mcnemar(10, 3) == pytest.approx(0.09228515625, abs=1e-12) == mcnemar(3, 10)
    assert mcnemar(0, 0) == 1 and mcnemar(5, 5) == 1
    right_a, right_b = np.repeat([1, 1, 0, 0], [7, 10, 3, 5]), np.repeat([1, 0, 1, 0], [7, 10, 3, 5])
    assert compare_answers(right_a, right_b) == mcnemar(10, 3)
