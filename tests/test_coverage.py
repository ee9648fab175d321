"""Simulations: what the intervals cover, and how often a comparison of equals "helps".

The slow ones are those of scripts/measure_intervals.py, whose table is docs/measurements/intervals-*.csv.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dam.evaluation.auc import roc_auc

SCRIPT = Path(__file__).parents[1] / "scripts" / "measure_intervals.py"


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure_intervals", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_simulated_studies_have_the_auc_they_claim(measure: ModuleType) -> None:
    for design in (measure.Design("one", 4000, 800), measure.Design("three", 4000, 800, 3, 2, True)):
        units = measure.study(design, 0.85, 2, np.random.default_rng(0))
        assert len(units.targets) == 4000 * design.images and len(np.unique(units.patients)) == 4000
        for scores in units.scores.values():
            for k in range(design.labels):
                assert roc_auc(units.targets[:, k], scores[:, k]) == pytest.approx(0.85, abs=0.025)


def test_auto_covers_where_plain_delong_does_not_in_few_studies(measure: ModuleType) -> None:
    independent, several = measure.COVERAGE[0], measure.COVERAGE[2]
    assert measure.coverage(independent, 0.95, "auto", 200).rate >= 0.9
    assert measure.coverage(several, 0.85, "auto", 200).rate >= 0.9
    assert measure.coverage(several, 0.85, "delong", 200).rate <= 0.87


def test_equals_rarely_help_in_few_studies(measure: ModuleType) -> None:
    assert measure.false_helps(measure.NULL[0], 0.85, "auto", 200).rate <= 0.05
    assert measure.false_helps(measure.NULL[3], 0.85, "auto", 100).rate <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("auc", [0.75, 0.85, 0.95])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_auto_covers_at_least_92_percent(measure: ModuleType, which: int, auc: float) -> None:
    found = measure.coverage(measure.COVERAGE[which], auc, "auto", 2000)
    assert found.rate >= 0.92 and found.without_interval < 20
    if which:
        assert measure.coverage(measure.COVERAGE[which], auc, "delong", 500).rate < 0.87


@pytest.mark.slow
def test_plain_delong_and_percentiles_fail_at_high_auc(measure: ModuleType) -> None:
    independent = measure.COVERAGE[0]
    assert measure.coverage(independent, 0.95, "delong", 2000).rate < 0.91
    assert measure.coverage(independent, 0.95, "bootstrap", 500, 500).rate < 0.93


@pytest.mark.slow
@pytest.mark.parametrize("auc", [0.75, 0.85, 0.95])
@pytest.mark.parametrize("which", range(9))
def test_null_comparisons_help_in_at_most_5_percent(measure: ModuleType, which: int, auc: float) -> None:
    assert measure.false_helps(measure.NULL[which], auc, "auto", 1000).rate <= 0.05
