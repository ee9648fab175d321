"""Decision curves against the definition."""

from __future__ import annotations

import numpy as np
import pytest

from dam.evaluation.net_benefit import decision_curve

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])


def test_definition() -> None:
    found = decision_curve([*Y, np.nan], [*A, 0.4], [0.05, 0.3, 0.5, 0.8, 0.95])
    for t, model, everybody in zip(*found, strict=True):
        called = t <= A
        odds = t / (1 - t)
        assert model == pytest.approx((Y[called].sum() - (1 - Y[called]).sum() * odds) / 12)
        assert everybody == pytest.approx(5 / 12 - 7 / 12 * odds)
    assert found.model[0] == found.treat_all[0]  # everybody has p >= 0.05
    assert found.model[-1] == 0  # nobody is treated
    # treating everybody is worth nothing at the prevalence
    assert decision_curve(Y, A, [5 / 12]).treat_all[0] == pytest.approx(0)
    assert len(decision_curve(Y, A).thresholds) == 99


@pytest.mark.parametrize(
    ("y", "p", "t"), [(Y, 2 * A, None), (Y, A, [0.0]), (Y, A, [1.0]), ([np.nan], [0.5], None), (Y, A[:3], None)]
)
def test_refused(y: object, p: object, t: object) -> None:
    with pytest.raises(ValueError, match=r"decision curve"):
        decision_curve(y, p, t)
