"""Question-answer trust against the published example and the identities of the binary form."""

from __future__ import annotations

import numpy as np
import pytest

from dam.evaluation.trust import binary_trust, class_trust, trust_density

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])
ORACLE = [0, 0, 1, 2, 2, 0, 1]
ROWS = [[0.8, 0.1, 0.1], [1, 0, 0], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.1, 0.4, 0.5], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]


@pytest.mark.parametrize(
    ("alpha", "beta", "q", "spectrum", "net"),
    [
        (1, 1, [0.8, 1, 0.7, 0.7, 0.5, 0.2, 0.6], [0.666667, 0.65, 0.6], 0.642857),
        (2, 1, [0.64, 1, 0.49, 0.49, 0.25, 0.2, 0.6], [0.613333, 0.545, 0.37], 0.524286),
        (1, 2, [0.8, 1, 0.7, 0.7, 0.5, 0.04, 0.36], [0.613333, 0.53, 0.6], 0.585714),
    ],
)
def test_several_classes(alpha: float, beta: float, q: list[float], spectrum: list[float], net: float) -> None:
    found = class_trust(ORACLE, ROWS, alpha, beta)
    np.testing.assert_allclose(found.trusts, q, atol=1e-12)
    np.testing.assert_allclose(found.spectrum, spectrum, atol=5e-7)
    assert found.net == pytest.approx(net, abs=5e-7)
    if (alpha, beta) == (1, 1):
        nan = np.nan
        np.testing.assert_allclose(found.matrix, [[0.9, nan, nan], [0.2, 0.7, nan], [nan, 0.6, 0.6]])


def test_labels_that_trustpy_takes_silently_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        class_trust([-1, 1], [[0.5, 0.5], [0.2, 0.8]])
    with pytest.raises(ValueError, match="sum to 1"):
        class_trust([0, 1], [[0.5, 0.6], [0.2, 0.8]])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_binary_identity_whatever_the_threshold(threshold: float) -> None:
    found = binary_trust(Y, A, threshold)
    np.testing.assert_allclose([found.positive, found.negative, found.net], [0.67, 0.65, 0.658333333333], atol=1e-9)
    assert found.net == pytest.approx(1 - np.mean(np.abs(A - Y)), abs=1e-12)
    assert found.trusted_less == "negative"


def test_exponents_need_the_threshold() -> None:
    found = binary_trust(Y, A, 0.5, 1, 2)
    np.testing.assert_allclose(
        [found.positive, found.negative, found.net], [0.628, 0.555714286, 0.585833333], atol=1e-9
    )
    found = binary_trust(Y, A, 0.5, 2, 1)
    np.testing.assert_allclose([found.positive, found.negative, found.net], [0.5385, 0.5775, 0.56125], atol=1e-9)
    positives, negatives = binary_trust(Y[:5], A[:5]), binary_trust(Y[5:], A[5:])
    np.testing.assert_allclose(
        [positives.correct, positives.wrong, negatives.correct, negatives.wrong], [0.7625, 0.3, 0.8375, 0.4], atol=1e-12
    )
    assert np.isnan(positives.negative) and positives.trusted_less == ""


def test_sharper_is_trusted_more_and_same_auc() -> None:
    sharp = 1 / (1 + ((1 - A) / A) ** 5)
    assert binary_trust(Y, sharp).net == pytest.approx(0.727478, abs=5e-7)
    assert np.mean((sharp - Y) ** 2) == pytest.approx(0.211827, abs=5e-7)
    assert binary_trust(Y, 0.5 + 0.1 * A).net == pytest.approx(0.5075, abs=1e-9)
    y = np.repeat([1, 0], [7, 3])
    assert binary_trust(y, np.full(10, 0.7)).net == pytest.approx(0.58)
    assert binary_trust(y, np.ones(10)).net == pytest.approx(0.70)


def test_answers_of_another_scale_and_unknown_targets() -> None:
    known = binary_trust(Y, A, 0.5, 1, 2)
    found = binary_trust([*Y, np.nan], [*A, 0.9], 0.99, 1, 2, answers=[*(A >= 0.5), True])
    assert found.net == known.net and len(found.trusts) == 12
    with pytest.raises(ValueError, match="probability"):
        binary_trust(Y, 2 * A)
    with pytest.raises(ValueError, match="alpha"):
        binary_trust(Y, A, alpha=0)


@pytest.mark.parametrize("n", [1, 7, 2000])
def test_density_has_its_whole_mass_in_the_unit_interval(n: int) -> None:
    q = np.random.default_rng(n).beta(8, 1, n)
    x, density = trust_density(q, np.linspace(0, 1, 2001))
    assert np.trapezoid(density, x) == pytest.approx(1, abs=2e-3) and (density >= 0).all()
    if n == 2000:
        assert abs(np.trapezoid(x * density, x) - q.mean()) < 0.01
    assert np.isnan(trust_density([])[1]).all()
