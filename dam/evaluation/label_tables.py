"""The rows of one label and model: performance, operating points, calibration, reliability, net benefit, trust."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from dam.config import EvaluationConfig
from dam.evaluation.agreement import agreement
from dam.evaluation.auc import Array, roc_curve, why_undefined
from dam.evaluation.bootstrap import Replicates
from dam.evaluation.curves import (
    average_precision,
    partial_auc,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)
from dam.evaluation.fitted import LabelFit
from dam.evaluation.net_benefit import decision_curve
from dam.evaluation.operating import clopper_pearson, confusion, predictive_values, wilson
from dam.evaluation.rows import (
    CalibrationRow,
    DensityRow,
    NetBenefitRow,
    OperatingRow,
    PerformanceRow,
    ReliabilityRow,
    TrustRow,
)
from dam.evaluation.trust import binary_trust, trust_density

MAX_FPR = 0.1
BEFORE, AFTER, SHIFTED = "before", "after", "at prevalence"
NO_VALIDATION = "not chosen (no validation table)"
DENSITY_POINTS = 51

Drawn = Mapping[str, Replicates]


@dataclass(frozen=True)
class Case:
    """One label and model on the test units of known target, n of them, with what was fitted elsewhere."""

    label: str
    model: str
    y: Array  # (n,) 0 or 1
    scores: Array  # (n,) logits
    patients: NDArray[np.intp]  # (n,) codes
    clustered: bool  # a patient has several of these units
    fit: LabelFit | None  # None: no validation table, or the label or model is not in it
    after: Array  # (n,) calibrated logits, NaN where there are none
    fitted_on: str
    note: str  # about the calibration

    @property
    def counted(self) -> tuple[int, int]:
        """(n, positives)."""
        return len(self.y), int(self.y.sum())

    @property
    def calibrated(self) -> bool:
        """True where there are calibrated logits."""
        return len(self.after) > 0 and not math.isnan(float(self.after[0]))

    @property
    def stages(self) -> dict[str, Array]:
        """The logits before and, where there are any, after calibration."""
        return {BEFORE: self.scores, AFTER: self.after} if self.calibrated else {BEFORE: self.scores}

    @property
    def thresholds(self) -> dict[str, float]:
        """Rule -> raw threshold chosen on validation, the config's rule first."""
        if self.fit is None or math.isnan(self.fit.threshold):
            return {}
        return {self.fit.rule: self.fit.threshold} | self.fit.extra


# ---------------------------------------------------------------- performance


def performance_row(case: Case, cfg: EvaluationConfig, drawn: Drawn) -> PerformanceRow:
    """Areas and points of the curves; NaN with the reason as note where a class is absent."""
    n, n_pos = case.counted
    reason = why_undefined(case.y)
    values: dict[str, float] = {}
    if not reason:
        curve = roc_curve(case.y, case.scores)
        at_spec = sensitivity_at_specificity(curve, cfg.specificity)
        at_sens = specificity_at_sensitivity(curve, cfg.sensitivity)
        values = {
            "ap": average_precision(case.y, case.scores),
            "pauc": partial_auc(case.y, case.scores, MAX_FPR),
            "sens_at_spec": at_spec.sensitivity,
            "spec_attained": at_spec.specificity,
            "spec_at_sens": at_sens.specificity,
            "sens_attained": at_sens.sensitivity,
        }
    intervals = {name: replicates.interval() for name, replicates in drawn.items()}
    some = drawn.get("ap")

    def low(name: str) -> float:
        return intervals[name].low if name in intervals else math.nan

    def high(name: str) -> float:
        return intervals[name].high if name in intervals else math.nan

    def value(name: str) -> float:
        return values.get(name, math.nan)

    note = f"undefined: {reason}" if reason else ""
    if some is not None and some.doubtful:
        note = f"intervals: {some.dropped} of {len(some.values)} replicates had one class"
    return PerformanceRow(
        label=case.label,
        model=case.model,
        n=n,
        n_pos=n_pos,
        prevalence=n_pos / n if n else math.nan,
        ap=value("ap"),
        ap_low=low("ap"),
        ap_high=high("ap"),
        pauc=value("pauc"),
        pauc_low=low("pauc"),
        pauc_high=high("pauc"),
        pauc_fpr=MAX_FPR,
        sens_at_spec=value("sens_at_spec"),
        sens_low=low("sens_at_spec"),
        sens_high=high("sens_at_spec"),
        spec_target=cfg.specificity,
        spec_attained=value("spec_attained"),
        spec_at_sens=value("spec_at_sens"),
        spec_low=low("spec_at_sens"),
        spec_high=high("spec_at_sens"),
        sens_target=cfg.sensitivity,
        sens_attained=value("sens_attained"),
        replicates=0 if some is None else len(some.values),
        dropped=0 if some is None else some.dropped,
        note=note,
    )


# ---------------------------------------------------------------- operating points


def operating_rows(case: Case, cfg: EvaluationConfig, drawn: Mapping[str, Drawn]) -> list[OperatingRow]:
    """One row a rule; ``drawn`` (rule -> replicates) is empty where no patient repeats, and intervals are Wilson's."""
    if not case.thresholds:
        why = case.fit.note if case.fit is not None else NO_VALIDATION
        return [_operating(case, ("not chosen", math.nan), cfg, {}, why)]
    return [_operating(case, item, cfg, drawn.get(item[0], {}), "") for item in case.thresholds.items()]


def _operating(case: Case, chosen: tuple[str, float], cfg: EvaluationConfig, drawn: Drawn, note: str) -> OperatingRow:
    rule, threshold = chosen
    n, n_pos = case.counted
    undefined = math.isnan(threshold)
    # without a threshold nothing is counted, so that every rate is NaN
    counts = confusion(case.y[:0] if undefined else case.y, case.scores[:0] if undefined else case.scores, threshold)
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    # At an AUC of 1 nothing else can carry the uncertainty, so the exact interval stands in for Wilson's.
    binomial, named = (clopper_pearson, "Clopper-Pearson") if _separated(case) else (wilson, "Wilson")
    shares = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "accuracy": (tp + tn, counts.n),
    }
    fields: dict[str, float] = {}
    for name, (k, whole) in shares.items():
        low, high = binomial(k, whole)
        if drawn:
            interval = drawn[name].interval()
            low, high = interval.low, interval.high
        fields |= {name: getattr(counts, name), f"{name}_low": low, f"{name}_high": high}
    at = math.nan if cfg.prevalence is None else cfg.prevalence
    ppv_at, npv_at = (math.nan, math.nan)
    if cfg.prevalence is not None:
        ppv_at, npv_at = predictive_values(counts.sensitivity, counts.specificity, at)
    return OperatingRow(
        label=case.label,
        model=case.model,
        rule=rule,
        main=case.fit is None or rule in (case.fit.rule, "not chosen"),
        threshold=threshold,
        chosen_on="" if undefined else "val",
        n=n,
        n_pos=n_pos,
        tp=tp,
        fp=fp,
        fn=fn,
        tn=tn,
        **fields,
        balanced_accuracy=counts.balanced_accuracy,
        mcc=counts.mcc,
        f1=math.nan if undefined else counts.f1,
        prevalence=n_pos / n if n else math.nan,
        prevalence_at=at,
        ppv_at=ppv_at,
        npv_at=npv_at,
        interval="" if undefined else "patient bootstrap" if drawn else named,
        note=note or _odd_counts(tp, fp, fn, tn),
    )


def _separated(case: Case) -> bool:
    """Whether every positive of this table lies above every negative."""
    lowest = case.scores[case.y == 1].min(initial=np.inf)
    return bool(np.isfinite(lowest) and lowest > case.scores[case.y == 0].max(initial=-np.inf))


def _odd_counts(tp: int, fp: int, fn: int, tn: int) -> str:
    """What a reader should know about a table with an empty side."""
    if not tp + fn:
        return "no positives in test"
    if not tn + fp:
        return "no negatives in test"
    if not tp + fp:
        return "nobody is called positive"
    return "" if fn + tn else "everybody is called positive"


# ---------------------------------------------------------------- calibration


def calibration_rows(
    case: Case, cfg: EvaluationConfig, drawn: Drawn
) -> tuple[list[CalibrationRow], list[ReliabilityRow]]:
    """Rows before and after calibration, and at the stated prevalence; ``drawn``: stage -> calibration errors."""
    rows, reliable = [], []
    stages = dict(case.stages)
    if case.calibrated and case.fit is not None and case.fit.shift:
        stages[SHIFTED] = case.after + case.fit.shift
    for stage, logits in stages.items():
        found = agreement(case.y, logits, case.patients)
        fit = case.fit if stage != BEFORE else None
        ece_low, ece_high = basic_interval(found.bins.ece, drawn[stage]) if stage in drawn else (math.nan, math.nan)
        moved = fit.shift if fit and stage == SHIFTED else 0.0
        note = "; ".join(part for part in (found.note, case.note) if part)
        if stage == SHIFTED:
            note = f"shifted to prevalence {cfg.prevalence:g}: agrees with test only where that is test's prevalence"
        rows.append(
            CalibrationRow(
                label=case.label,
                model=case.model,
                stage=stage,
                method=cfg.calibration if stage != BEFORE else "none",
                slope=fit.slope if fit else math.nan,
                intercept=fit.intercept + moved if fit else math.nan,
                fitted_on=case.fitted_on if stage != BEFORE else "",
                n=case.counted[0],
                n_pos=case.counted[1],
                brier=found.brier.score,
                brier_low=found.brier_low,
                brier_high=found.brier_high,
                reliability=found.brier.reliability,
                resolution=found.brier.resolution,
                uncertainty=found.brier.uncertainty,
                within_bin=found.brier.within_bin,
                skill=found.brier.skill,
                ece=found.bins.ece,
                ece_low=ece_low,
                ece_high=ece_high,
                mce=found.bins.mce,
                ece_bins=len(found.bins.n),
                o_over_e=found.o_over_e,
                cal_slope=found.slope,
                cal_intercept=found.intercept,
                nll=found.nll,
                note=note,
            )
        )
        if stage != SHIFTED:
            bins = zip(found.bins.mean_p, found.bins.rate, found.bins.intervals(), found.bins.n, strict=True)
            reliable += [
                ReliabilityRow(case.label, case.model, stage, float(p), float(rate), *ends, int(n))
                for p, rate, ends, n in bins
            ]
    return rows, reliable


def basic_interval(value: float, drawn: Replicates) -> tuple[float, float]:
    """Basic bootstrap interval of an error >= 0: percentiles mirrored at the estimate, cut at 0.

    A calibration error is biased upward, and a replicate once more by as much: percentiles alone can miss the estimate.
    """
    found = drawn.interval()
    return max(0.0, 2 * value - found.high), max(0.0, 2 * value - found.low)


def net_benefit_rows(case: Case) -> list[NetBenefitRow]:
    """The decision curve of the calibrated probabilities; nothing where there are none."""
    if not case.calibrated:
        return []
    curve = decision_curve(case.y, expit(case.after))
    points = zip(*(part.tolist() for part in curve), strict=True)
    return [NetBenefitRow(case.label, case.model, *point) for point in points]


# ---------------------------------------------------------------- trust


def trust_rows(case: Case) -> tuple[list[TrustRow], list[DensityRow]]:
    """Trust before and after calibration, with alpha = beta = 1; answers by the main threshold, else by p >= 0.5."""
    rows, densities = [], []
    threshold = next(iter(case.thresholds.values()), math.nan)
    grid = np.linspace(0, 1, DENSITY_POINTS)
    for stage, logits in case.stages.items():
        p = expit(logits)
        at, answers = 0.5, p >= 0.5
        if not math.isnan(threshold):
            at, answers = _as_probability(case, stage, threshold), case.scores >= threshold
        found = binary_trust(case.y, p, answers=answers)
        n, n_pos = case.counted
        rows.append(
            TrustRow(
                label=case.label,
                model=case.model,
                stage=stage,
                n=n,
                n_pos=n_pos,
                alpha=1.0,
                beta=1.0,
                threshold=at,
                trust_positive=found.positive,
                trust_negative=found.negative,
                net_trust=found.net,
                trust_class=found.trusted_less,
                trust_correct=found.correct,
                trust_wrong=found.wrong,
                brier=float(np.mean((p - case.y) ** 2)),
                note="" if not math.isnan(threshold) else "answers are p >= 0.5: no threshold was chosen",
            )
        )
        for oracle in (1, 0):
            if (case.y == oracle).any():
                x, density = trust_density(found.trusts[found.targets == oracle], grid)
                densities += [
                    DensityRow(case.label, case.model, stage, oracle, *point)
                    for point in zip(x.tolist(), density.tolist(), strict=True)
                ]
    return rows, densities


def _as_probability(case: Case, stage: str, threshold: float) -> float:
    """The raw threshold on the scale of a stage's probabilities; NaN where cross-fitting has no single scale."""
    if stage == BEFORE:
        return float(expit(threshold))
    if case.fit is None:
        return math.nan
    return float(case.fit.probabilities(threshold, shifted=False))
