"""The tables of an assessment: frozen rows of plain str, int, float and bool, so that every writer treats all alike.

NaN = undefined, and the row's ``note`` says why. A row names its label and model; ``dataclasses.asdict`` makes it a
dict. Intervals are 95 % unless said. "positive" always means score >= threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dam.evaluation.auc import Array
    from dam.evaluation.fitted import Fitted
    from dam.evaluation.judge import Judgement
    from dam.evaluation.predictions import Units
    from dam.evaluation.verdict import Verdict


@dataclass(frozen=True)
class PerformanceRow:
    """What else the curves of one label and model say, on test; intervals by patient bootstrap.

    ``ap``: average precision (step form), to be read beside ``prevalence``, which is what chance scores. ``pauc``:
    partial AUC over FPR in [0, ``pauc_fpr``], standardized (McClish): chance 0.5, perfect 1. ``sens_at_spec``: the
    highest sensitivity among the attained points with specificity >= ``spec_target``; ``spec_attained`` is the
    specificity of that point; ``spec_at_sens``, ``sens_target``, ``sens_attained`` the reverse. These two pairs are
    read off the test curve itself and choose no threshold: ``OperatingRow`` has points that were chosen on validation.
    ``dropped``: bootstrap replicates without both classes, left out of ``replicates``.
    """

    label: str
    model: str
    n: int
    n_pos: int
    prevalence: float
    ap: float
    ap_low: float
    ap_high: float
    pauc: float
    pauc_low: float
    pauc_high: float
    pauc_fpr: float
    sens_at_spec: float
    sens_low: float
    sens_high: float
    spec_target: float
    spec_attained: float
    spec_at_sens: float
    spec_low: float
    spec_high: float
    sens_target: float
    sens_attained: float
    replicates: int
    dropped: int
    note: str = ""


@dataclass(frozen=True)
class OperatingRow:
    """One label and model at one threshold that was chosen on validation, counted on test.

    ``rule``: "youden", "f1", "sensitivity >= 0.9", "cost 1", "specificity >= 0.9", or "not chosen" (then all numbers
    are NaN and ``note`` says why). ``main``: the rule of the config (one row a label and model); the others are extra.
    ``threshold`` is a raw score (a logit in dam's own tables). ``ppv_at``, ``npv_at``: at ``prevalence_at`` (Bayes; NaN
    where no prevalence was stated). ``interval``: "Wilson", "Clopper-Pearson" (at an AUC of 1)
    or "patient bootstrap" (where patients have several units).
    """

    label: str
    model: str
    rule: str
    main: bool
    threshold: float
    chosen_on: str  # "val" or ""
    n: int
    n_pos: int
    tp: int
    fp: int
    fn: int
    tn: int
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    specificity: float
    specificity_low: float
    specificity_high: float
    ppv: float
    ppv_low: float
    ppv_high: float
    npv: float
    npv_low: float
    npv_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    mcc: float
    f1: float
    prevalence: float
    prevalence_at: float
    ppv_at: float
    npv_at: float
    interval: str
    note: str = ""


@dataclass(frozen=True)
class CalibrationRow:
    """How well one label's and model's probabilities agree with the test set, "before" or "after" calibration.

    Where ``evaluation.prevalence`` is stated there is a third stage, "at prevalence": after, with the intercept
    shifted.

    Before: sigmoid of the score. After: sigmoid(``slope`` * score + ``intercept``), with ``method`` ("platt",
    "temperature", "none") fitted on ``fitted_on`` ("validation", "the cases judged, cross-fitted in 5 folds"); both NaN
    before and when cross-fitted. ``brier`` = ``reliability`` - ``resolution`` + ``uncertainty`` + ``within_bin`` over
    the ``ece_bins`` bins of equal mass that ``ece`` and ``mce`` use (its interval: basic patient bootstrap, NaN at
    prevalence). ``skill`` = 1 - brier / uncertainty. ``o_over_e``: observed over expected positives. ``cal_slope`` (1
    is right) of a logistic regression of the target on the logit, ``cal_intercept`` (0 is right) with the slope held at
    1. ``nll``: mean negative log-likelihood, natural logarithm.
    """

    label: str
    model: str
    stage: str
    method: str
    slope: float
    intercept: float
    fitted_on: str
    n: int
    n_pos: int
    brier: float
    brier_low: float
    brier_high: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float
    skill: float
    ece: float
    ece_low: float
    ece_high: float
    mce: float
    ece_bins: int
    o_over_e: float
    cal_slope: float
    cal_intercept: float
    nll: float
    note: str = ""


@dataclass(frozen=True)
class ReliabilityRow:
    """One bin of a reliability diagram (equal mass, ties never split): mean probability and rate of positives.

    ``low``, ``high``: Wilson's interval of ``rate``; ``n`` cases in the bin.
    """

    label: str
    model: str
    stage: str
    mean_p: float
    rate: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class NetBenefitRow:
    """One point of a decision curve: net benefit per case at a probability threshold; treating nobody has 0.

    ``model_nb`` is of the calibrated probabilities, ``all_nb`` that of treating everybody.
    """

    label: str
    model: str
    threshold: float
    model_nb: float
    all_nb: float


@dataclass(frozen=True)
class TrustRow:
    """Question-answer trust of one label and model, "before" or "after" calibration, always beside ``brier``.

    ``trust_positive``, ``trust_negative``: mean trust over the cases whose reference standard is positive (negative),
    the trust spectrum T(1), T(0). ``net_trust``: NetTrustScore, their mean weighted by frequency. ``trust_class``: the
    class that is trusted less, "positive" or "negative" ("equal" where both are trusted alike, "" where undefined).
    ``trust_correct``, ``trust_wrong``: mean trust of the right and the wrong answers at ``threshold`` (a probability).
    """

    label: str
    model: str
    stage: str
    n: int
    n_pos: int
    alpha: float
    beta: float
    threshold: float
    trust_positive: float
    trust_negative: float
    net_trust: float
    trust_class: str
    trust_correct: float
    trust_wrong: float
    brier: float
    note: str = ""


@dataclass(frozen=True)
class DensityRow:
    """A point of a trust density: ``density`` at trust ``x`` in [0, 1] over the cases of class ``oracle``, 1 or 0."""

    label: str
    model: str
    stage: str
    oracle: int
    x: float
    density: float


@dataclass(frozen=True)
class ReaderRow:
    """One human reader beside one model on one label.

    The reader's point: ``sensitivity``, ``specificity`` (with intervals), ``fpr`` = 1 - specificity, ``ppv``.
    ``curve_sensitivity``: the model's ROC curve at the reader's FPR; ``curve_ppv``: precision of its PR curve at the
    reader's sensitivity. ``below_roc``, ``below_pr``: the reader lies on or below the curve; ``below_roc_strict``:
    strictly below. ``model_threshold`` is the attained point of the model with the highest sensitivity at a specificity
    no lower than the reader's; ``model_sensitivity``, ``model_specificity`` belong to it; ``p_sensitivity`` and
    ``p_specificity`` are McNemar's exact tests of reader against model there, on the positives and the negatives.
    """

    label: str
    reader: str
    model: str
    n: int
    n_pos: int
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    specificity: float
    specificity_low: float
    specificity_high: float
    fpr: float
    ppv: float
    curve_sensitivity: float
    curve_ppv: float
    below_roc: bool
    below_roc_strict: bool
    below_pr: bool
    model_threshold: float
    model_sensitivity: float
    model_specificity: float
    p_sensitivity: float
    p_specificity: float
    note: str = ""


@dataclass(frozen=True)
class NrbcRow:
    """Number of readers below the curve of one model, mean over ``labels`` (names joined by "; ").

    ``curve``: "roc" or "pr". ``readers`` a label. ``nrbc`` counts a reader on the curve as below, ``strict`` does not.
    ``low``, ``high``: patient bootstrap.
    """

    model: str
    curve: str
    nrbc: float
    low: float
    high: float
    strict: float
    readers: int
    labels: str
    note: str = ""


@dataclass(frozen=True)
class SubgroupRow:
    """One label and model within one group of a metadata column.

    ``patients``, ``n`` (units), ``n_pos``; ``auc`` with its interval (clustered where patients repeat; method in
    ``interval``); ``sensitivity`` and ``specificity`` at the common ``threshold`` (the main one of ``OperatingRow``)
    with Wilson's intervals or the patient bootstrap; ``o_over_e`` of the calibrated probabilities.
    ``difference_to_rest``: AUC in the group minus AUC in all other units whose group is another one, ``test`` ("z",
    "patient bootstrap" or ""), ``p_holm`` adjusted over all tested rows of this table with the same model.
    """

    column: str
    group: str
    label: str
    model: str
    patients: int
    n: int
    n_pos: int
    prevalence: float
    auc: float
    low: float
    high: float
    interval: str
    threshold: float
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    specificity: float
    specificity_low: float
    specificity_high: float
    o_over_e: float
    difference_to_rest: float
    diff_low: float
    diff_high: float
    p_value: float
    p_holm: float
    test: str
    note: str = ""


@dataclass(frozen=True)
class Assessment:
    """Everything that is said about one test table; a table that makes no sense here is empty.

    ``fitted`` holds calibration and thresholds as fitted on validation (empty without one). ``notes`` are sentences.
    """

    units: Units
    judgement: Judgement
    fitted: Fitted
    performance: tuple[PerformanceRow, ...] = ()
    operating: tuple[OperatingRow, ...] = ()
    calibration: tuple[CalibrationRow, ...] = ()
    reliability: tuple[ReliabilityRow, ...] = ()
    net_benefit: tuple[NetBenefitRow, ...] = ()
    trust: tuple[TrustRow, ...] = ()
    trust_density: tuple[DensityRow, ...] = ()
    readers: tuple[ReaderRow, ...] = ()
    nrbc: tuple[NrbcRow, ...] = ()
    subgroups: tuple[SubgroupRow, ...] = ()
    verdict: Verdict | None = None
    probabilities: dict[str, Array] = field(
        default_factory=dict
    )  # model -> (U, K), calibrated; NaN where there are none
    notes: tuple[str, ...] = ()
