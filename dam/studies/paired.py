"""Two arms of a study against one another, twice: over the test patients, and over the replicates (folds).

Over patients, the models are fixed and other patients might have come; over folds, the test set is fixed and another
training set might have been drawn. A difference that holds has to hold in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dam.evaluation.auc import placements
from dam.evaluation.bootstrap import Replicates
from dam.evaluation.comparisons import Difference, difference_test, holm
from dam.evaluation.intervals import clustered_covariance, contrast, count_cases
from dam.evaluation.verdict import smallest_detectable
from dam.studies.measures import Arm, resample
from dam.studies.study import Reference

LEVEL = 0.05


@dataclass(frozen=True)
class Paired:
    """The difference a - b of one measure's mean over the folds that both have; NaN where not estimable.

    ``low``, ``high``, ``p_value``, ``p_holm`` are over patients, ``fold_*`` over folds; ``paper`` is the paper's own
    difference, NaN where it gives none; ``detectable`` what the patients could have shown with 80 % power.
    """

    measure: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    test: str
    folds: int
    fold_low: float
    fold_high: float
    fold_p: float
    paper: float
    detectable: float

    @property
    def holds(self) -> bool:
        """Whether the whole interval lies on one side of 0, over patients (after Holm too) and over folds."""
        over_patients = (self.low > 0 or self.high < 0) and self.p_holm < LEVEL
        return over_patients and (self.fold_low > 0 or self.fold_high < 0)

    @property
    def as_paper(self) -> bool:
        """Whether it holds on the side where the paper's difference lies."""
        return self.holds and self.difference * self.paper > 0

    @property
    def word(self) -> str:
        """ "higher", "lower", "tie" (undecided), or "not testable"."""
        if math.isnan(self.p_value):
            return "not testable"
        if not self.holds:
            return "tie"
        return "higher" if self.difference > 0 else "lower"


def over_folds(differences: Sequence[float], test_share: float) -> Difference:
    """The corrected resampled t-test of differences (k,), one a fold: variance s^2 (1/k + n_test/n_train), t, k - 1 df.

    ``test_share`` is n_test/n_train of the resampling, 1/(k - 1) for k folds: training sets of two folds overlap, and
    the plain t-test takes their results for independent. Source: Nadeau and Bengio, Machine Learning 52 (2003).
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return Difference(float(d.mean()) if len(d) else math.nan, math.nan, math.nan, math.nan)
    variance = float(d.var(ddof=1)) * (1 / len(d) + test_share)
    if not np.ptp(d):  # no fold differs from another: there is no interval, and 0 is no proof of equality
        return Difference(float(d[0]), math.nan, math.nan, 1.0 if d[0] == 0 else math.nan)
    return difference_test(float(d.mean()), variance, df=len(d) - 1)


def compare(a: Arm, b: Arm, measure: str, test_share: float, reference: dict[str, Reference] | None = None) -> Paired:
    """Compare two arms in one measure on the replicates that both have. ``p_holm`` is set by ``adjusted``."""
    theirs = {judged.replicate: judged for judged in b.judged}
    shared = [(mine, theirs[mine.replicate]) for mine in a.judged if mine.replicate in theirs]
    shared = [pair for pair in shared if not any(math.isnan(j.values.get(measure, math.nan)) for j in pair)]
    left, right = Arm(a.name, tuple(p[0] for p in shared)), Arm(b.name, tuple(p[1] for p in shared))
    paper = math.nan
    if reference and {a.name, b.name} <= reference.keys():
        paper = reference[a.name].mean - reference[b.name].mean
    if not shared:
        no = math.nan
        return Paired(measure, a.name, b.name, no, no, no, no, no, "no fold in both", 0, no, no, no, paper, no)
    folds = over_folds(left.values(measure) - right.values(measure), test_share)
    found, test = _auc(left, right) if measure == "auc" else _bootstrap(left, right, measure)
    return Paired(
        measure, a.name, b.name, found.difference, found.low, found.high, found.p_value, found.p_value, test,
        len(shared), folds.low, folds.high, folds.p_value, paper, smallest_detectable(found.se),
    )  # fmt: skip


def adjusted(family: Sequence[Paired]) -> list[Paired]:
    """The same comparisons with p over patients adjusted by Holm over this family."""
    values = holm([row.p_value for row in family])
    return [replace(row, p_holm=float(value)) for row, value in zip(family, values, strict=True)]


def _auc(a: Arm, b: Arm) -> tuple[Difference, str]:
    """DeLong's paired test of the difference of the mean AUCs, variance clustered by patient."""
    first, count = a.judged[0], len(a.judged)
    counts = count_cases(first.targets, first.patients)
    placed = placements(first.targets, np.stack([judged.logits for judged in (*a.judged, *b.judged)]))
    one = contrast(placed, np.repeat([1 / count, -1 / count], count))
    positive = first.targets == 1
    variance = clustered_covariance(one, first.patients[positive], first.patients[~positive])
    if counts.too_few:
        return Difference(float(one.auc[0]), math.nan, math.nan, math.nan), f"not estimable ({counts.too_few})"
    kind = "clustered paired DeLong" if counts.clustered else "paired DeLong"
    return difference_test(float(one.auc[0]), float(variance[0, 0]), df=counts.df), f"{kind}, t with {counts.df} df"


def _bootstrap(a: Arm, b: Arm, measure: str) -> tuple[Difference, str]:
    value = float(np.mean(a.values(measure) - b.values(measure)))
    drawn = Replicates(resample(a.judged)[measure] - resample(b.judged)[measure])
    interval = drawn.interval()
    if interval.low == interval.high:
        return Difference(value, math.nan, math.nan, 1.0 if value == 0 else math.nan), "the same in every draw"
    return Difference(value, interval.low, interval.high, drawn.p_value(), drawn.se), drawn.method
