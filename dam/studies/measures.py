"""The measures of one label at a threshold, for every replicate of an arm, with intervals over the test patients.

All of them but the AUC are ratios of sums over cases, so a patient is a row of sums and a bootstrap replicate a
weighted sum of rows: point and replicates come from the same few lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

from dam.evaluation.agreement import agreement
from dam.evaluation.auc import placements
from dam.evaluation.bootstrap import Draws, Replicates
from dam.evaluation.calibration import fit_platt
from dam.evaluation.intervals import Interval, auc_interval, clustered_covariance, contrast, count_cases
from dam.evaluation.operating import choose_threshold, clopper_pearson, confusion
from dam.evaluation.trust import binary_trust
from dam.studies.results import Result

Array = np.ndarray

REPLICATES = 2000
SEED = 0
_SUMS = ("positives", "negatives", "tp", "fp", "trust_positive", "trust_negative", "squared")
# Measures that a patient bootstrap serves; those after calibration end in "_calibrated".
RATIOS = (
    "precision_negative",
    "precision_positive",
    "sensitivity_negative",
    "sensitivity_positive",
    "trust_positive",
    "trust_negative",
    "brier",
)
# What a rate's denominator counts, as weights of positives, negatives, tp, fp.
_JUDGED = {
    "precision_negative": np.array([1, 1, -1, -1]),
    "precision_positive": np.array([0, 0, 1, 1]),
    "sensitivity_negative": np.array([0, 1, 0, 0]),
    "sensitivity_positive": np.array([1, 0, 0, 0]),
}


def ratios(sums: Array) -> dict[str, Array]:
    """The measures from sums (..., 7) in the order of ``_SUMS``; NaN where a ratio is 0/0.

    "Sensitivity of the negatives" is specificity, "precision of the negatives" the negative predictive value, as the
    COVID study names them; trust with alpha = beta = 1.
    """
    m, n, tp, fp, trust_positive, trust_negative, squared = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision_negative": (n - fp) / (n - fp + m - tp),
            "precision_positive": tp / (tp + fp),
            "sensitivity_negative": (n - fp) / n,
            "sensitivity_positive": tp / m,
            "trust_positive": trust_positive / m,
            "trust_negative": trust_negative / n,
            "brier": squared / (m + n),
        }


@dataclass(frozen=True)
class Judged:
    """One result judged on test. ``sums``: (patients, 7); ``calibrated``: the same after Platt's scaling on its own
    validation fold, None where that fit turns the order round."""

    replicate: str
    threshold: float
    targets: Array  # (n,) known cases
    logits: Array
    patients: Array
    sums: Array
    calibrated: Array | None
    values: dict[str, float]


def judge_result(result: Result, patients: int) -> Judged:
    """Judge the only label of a result. Raises ``ValueError`` where it has several."""
    if len(result.test.labels) != 1:
        raise ValueError("this table is made for one label")
    (label,), test = result.test.labels, result.test
    known = ~np.isnan(test.targets[:, 0])
    y, logits, codes = test.targets[known, 0], test.scores[result.arm][known, 0], test.patients[known]
    val_y, val_logits = result.val.targets[:, 0], result.val.scores[result.arm][:, 0]
    chosen = ~np.isnan(val_y)
    threshold = result.thresholds.get(label)
    if threshold is None:
        threshold = choose_threshold(val_y[chosen], val_logits[chosen], "f1").value
    answers = logits >= threshold
    sums = _sums(y, expit(logits), answers, codes, patients)
    platt = fit_platt(val_y[chosen], val_logits[chosen])
    calibrated = _sums(y, platt.probabilities(logits), answers, codes, patients) if platt.usable else None
    counts = confusion(y, logits, threshold)
    values = {"threshold": threshold, "tp": counts.tp, "fp": counts.fp, "fn": counts.fn, "tn": counts.tn}
    values |= {"auc": float(placements(y, logits).auc[0])}
    values |= {name: float(value) for name, value in ratios(sums.sum(axis=0)).items()}
    values |= _calibration(y, logits, codes, "")
    if calibrated is not None:
        values |= {f"{name}_calibrated": float(value) for name, value in ratios(calibrated.sum(axis=0)).items()}
        values |= _calibration(y, platt.logits(logits), codes, "_calibrated")
    return Judged(result.replicate, threshold, y, logits, codes, sums, calibrated, values)


def _calibration(y: Array, logits: Array, codes: Array, suffix: str) -> dict[str, float]:
    found = agreement(y, logits, codes)
    return {f"ece{suffix}": found.bins.ece, f"nll{suffix}": found.nll, f"slope{suffix}": found.slope}


def _sums(y: Array, p: Array, answers: Array, codes: Array, patients: int) -> Array:
    trusts = binary_trust(y, p, answers=answers).trusts
    columns = (y, 1 - y, y * answers, (1 - y) * answers, y * trusts, (1 - y) * trusts, (p - y) ** 2)
    return np.stack([np.bincount(codes, weights=column, minlength=patients) for column in columns], axis=1)


@dataclass(frozen=True)
class Arm:
    """All replicates of a row of the tables, judged on the same test cases."""

    name: str
    judged: tuple[Judged, ...]

    def values(self, measure: str) -> Array:
        """One value a replicate; NaN where undefined."""
        return np.array([judged.values.get(measure, math.nan) for judged in self.judged], dtype=np.float64)

    def mean(self, measure: str) -> float:
        """Mean over the replicates that define it; NaN without one."""
        known = self.values(measure)[~np.isnan(self.values(measure))]
        return float(known.mean()) if len(known) else math.nan

    def sd(self, measure: str) -> float:
        """Standard deviation over replicates (divisor n - 1); NaN with fewer than two."""
        known = self.values(measure)[~np.isnan(self.values(measure))]
        return float(known.std(ddof=1)) if len(known) > 1 else math.nan

    @cached_property
    def resampled(self) -> dict[str, Array]:
        """Measure -> (REPLICATES,) means over the arm's replicates, the same patients drawn for every arm."""
        return resample(self.judged)

    def interval(self, measure: str) -> Interval:
        """95 % interval over test patients of the mean over replicates: of the AUC by DeLong's variance of that mean
        (clustered by patient), of the rest by patient bootstrap, exact where that has no width."""
        if measure == "auc":
            return self._auc_interval()
        values = self.resampled.get(measure)
        if values is None:
            return Interval(math.nan, math.nan, "none")
        found = Replicates(values).interval()
        return self._exact(measure) if found.low == found.high and measure in _JUDGED else found

    def _exact(self, measure: str) -> Interval:
        """Of a rate that is 0 or 1 in every replicate the bootstrap knows nothing: Clopper and Pearson's interval, with
        the fewest patients that any replicate has in the denominator."""
        counted = [judged.sums[:, :4] @ _JUDGED[measure] > 0.5 for judged in self.judged]
        n = min(int(patients.sum()) for patients in counted)
        low, high = clopper_pearson(round(self.mean(measure)) * n, n)
        return Interval(low, high, f"exact (Clopper-Pearson), {n} patients")

    def _auc_interval(self) -> Interval:
        first = self.judged[0]
        counts = count_cases(first.targets, first.patients)
        placed = placements(first.targets, np.stack([judged.logits for judged in self.judged]))
        one = contrast(placed, np.full(len(self.judged), 1 / len(self.judged)))
        positive = first.targets == 1
        variance = clustered_covariance(one, first.patients[positive], first.patients[~positive])
        return auc_interval(float(one.auc[0]), float(variance[0, 0]), counts)


def resample(judged: Sequence[Judged]) -> dict[str, Array]:
    """Patient bootstrap of the means over replicates: measure -> (REPLICATES,), NaN where a replicate lacks a class.

    Only replicates of the study that define a measure on the whole test set take part in its mean.
    """
    found: dict[str, Array] = {}
    for suffix, stacks in (("", [j.sums for j in judged]), ("_calibrated", [j.calibrated for j in judged])):
        usable = [stack for stack in stacks if stack is not None]
        if not usable:
            continue
        sums = np.stack(usable, axis=1)  # (patients, replicates of the study, 7)
        defined = {name: ~np.isnan(value) for name, value in ratios(sums.sum(axis=0)).items()}
        parts: dict[str, list[Array]] = {name: [] for name in RATIOS}
        for weights in Draws(len(sums), REPLICATES, SEED).weights():
            drawn = ratios(np.einsum("pb,pks->bks", weights, sums))
            for name in RATIOS:
                some = drawn[name][:, defined[name]]
                parts[name].append(some.mean(axis=1) if some.shape[1] else np.full(len(some), math.nan))
        found |= {f"{name}{suffix}": np.concatenate(values) for name, values in parts.items()}
    return found
