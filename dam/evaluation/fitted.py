"""What is fitted on validation and only applied elsewhere: a calibration and thresholds for each model and label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from dam.config import EvaluationConfig
from dam.errors import UserError
from dam.evaluation.auc import Array, why_undefined
from dam.evaluation.calibration import fit_platt, fit_temperature, shift_of_prevalence, stored_number
from dam.evaluation.operating import choose_threshold
from dam.evaluation.predictions import Units

FEW_POSITIVES = 20  # below it a calibration is marked
FOLDS = 5


@dataclass(frozen=True)
class LabelFit:
    """One model's calibration and thresholds for one label.

    Calibrated logit = ``slope`` * score + ``intercept``, fitted on ``positives`` + ``negatives`` validation cases by
    ``method`` ("platt", "temperature" or "none"; slope and intercept are NaN where there is none). ``threshold`` is a
    raw score chosen by ``rule`` (NaN and "" where it could not be chosen; infinite: nobody is positive); ``extra`` has
    further rules. ``prevalence``: where the model will be used, None as in validation. ``note`` says what went wrong.
    """

    method: str
    slope: float
    intercept: float
    positives: int
    negatives: int
    threshold: float = math.nan
    rule: str = ""
    extra: dict[str, float] = field(default_factory=dict)
    prevalence: float | None = None
    note: str = ""

    @property
    def usable(self) -> bool:
        """True where there is a calibration that keeps the order of scores."""
        return self.slope > 0

    @property
    def shift(self) -> float:
        """What the stated prevalence adds to the calibrated logit; 0 without one."""
        if self.prevalence is None or not self.positives or not self.negatives:
            return 0.0
        return shift_of_prevalence(self.positives / (self.positives + self.negatives), self.prevalence)

    def logits(self, scores: ArrayLike, shifted: bool = True) -> Array:
        """Calibrated log odds of raw scores, any shape, by default at the stated prevalence.

        Raises ``ValueError`` where there is no calibration.
        """
        if not self.usable:
            raise ValueError(f"there is no calibration: {self.note or 'none was asked for'}")
        moved = self.intercept + (self.shift if shifted else 0.0)
        return np.asarray(self.slope * np.asarray(scores, dtype=np.float64) + moved, dtype=np.float64)

    def probabilities(self, scores: ArrayLike, shifted: bool = True) -> Array:
        """Calibrated probabilities; as ``logits``."""
        return np.asarray(expit(self.logits(scores, shifted)))

    def as_dict(self) -> dict[str, object]:
        """Plain values for strict JSON: NaN as null, an infinite threshold as "inf"."""
        plain = vars(self) | {"extra": {rule: _plain(value) for rule, value in self.extra.items()}}
        return plain | {key: _plain(plain[key]) for key in ("slope", "intercept", "threshold")}

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> LabelFit:
        """Read ``as_dict``'s form back; raises ``ValueError`` naming the key that is wrong."""
        extra, prevalence = stored.get("extra") or {}, stored.get("prevalence")
        if not isinstance(extra, Mapping):
            raise ValueError(f"the stored calibration has {extra!r} as extra; rules with thresholds are needed")
        used = None if prevalence is None else stored_number(stored, "prevalence")
        if used is not None and not 0 < used < 1:
            raise ValueError(f"the stored calibration has prevalence {used:g}; it must lie in (0, 1)")
        return cls(
            method=str(stored.get("method", "")),
            slope=_number(stored, "slope"),
            intercept=_number(stored, "intercept"),
            positives=int(stored_number(stored, "positives")),
            negatives=int(stored_number(stored, "negatives")),
            threshold=_number(stored, "threshold"),
            rule=str(stored.get("rule", "")),
            extra={str(rule): _number(extra, rule) for rule in extra},
            prevalence=used,
            note=str(stored.get("note", "")),
        )


def _plain(value: object) -> object:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _number(stored: Mapping[str, object], key: str) -> float:
    if stored.get(key) is None:
        return math.nan
    return math.inf if stored[key] == "inf" else stored_number(stored, key)


@dataclass(frozen=True)
class Fitted:
    """Model -> label -> fit; empty where there was no validation table. ``notes`` are sentences."""

    fits: dict[str, dict[str, LabelFit]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def get(self, model: str, label: str) -> LabelFit | None:
        """The fit of a model and label, None where there is none."""
        return self.fits.get(model, {}).get(label)

    def as_dict(self) -> dict[str, dict[str, dict[str, object]]]:
        """{model: {label: {method, slope, intercept, positives, negatives, threshold, rule, ...}}} for strict JSON."""
        return {m: {label: fit.as_dict() for label, fit in labels.items()} for m, labels in self.fits.items()}

    @classmethod
    def from_dict(cls, stored: object) -> Fitted:
        """Read ``as_dict``'s form back; raises ``ValueError`` where it is something else."""
        fits: dict[str, dict[str, LabelFit]] = {}
        for model, labels in _mapping(stored).items():
            fits[model] = {label: LabelFit.from_dict(_mapping(fit)) for label, fit in _mapping(labels).items()}
        return cls(fits)


def _mapping(stored: object) -> Mapping[str, object]:
    if not isinstance(stored, Mapping) or not all(isinstance(key, str) for key in stored):
        raise ValueError("a stored calibration is {model: {label: {method, slope, intercept, ...}}}")
    return stored


def fit(units: Units, cfg: EvaluationConfig, rebalanced: bool = False) -> Fitted:
    """Fit calibration and thresholds of every model and label on validation units, whose scores are logits.

    ``rebalanced``: training changed the share of positives (AUC objective, sampler, thinning): temperature scaling is
    then refused. Raises ``UserError`` for that.
    """
    fits: dict[str, dict[str, LabelFit]] = {}
    notes: list[str] = []
    for model, scores in units.scores.items():
        for k, label in enumerate(units.labels):
            if np.isnan(scores[:, k]).all():
                continue
            known = ~np.isnan(units.targets[:, k])
            found = fit_label(units.targets[known, k], scores[known, k], cfg, rebalanced)
            fits.setdefault(model, {})[label] = found
            if found.note:
                notes.append(f"{label}, {model}: {found.note}")
    return Fitted(fits, tuple(notes))


def fit_label(targets: Array, scores: Array, cfg: EvaluationConfig, rebalanced: bool = False) -> LabelFit:
    """Fit one model and label on validation cases (n,) of known target. Raises ``UserError`` as ``fit`` does."""
    m, n = int(np.sum(targets == 1)), int(np.sum(targets == 0))
    if reason := why_undefined(targets):
        note = f"not calibrated and no threshold chosen, validation has {reason}"
        return LabelFit("none", math.nan, math.nan, m, n, prevalence=cfg.prevalence, note=note)
    slope, intercept, note = calibrate(targets, scores, cfg.calibration, rebalanced)
    main = choose_threshold(
        targets, scores, cfg.threshold, {"sensitivity": cfg.sensitivity}.get(cfg.threshold, cfg.cost)
    )
    others = [choose_threshold(targets, scores, "specificity", cfg.specificity)]
    return LabelFit(
        method="none" if math.isnan(slope) else cfg.calibration,
        slope=slope,
        intercept=intercept,
        positives=m,
        negatives=n,
        threshold=main.value,
        rule=main.rule,
        extra={other.rule: other.value for other in others},
        prevalence=cfg.prevalence,
        note=note,
    )


def calibrate(targets: Array, scores: Array, method: str, rebalanced: bool) -> tuple[float, float, str]:
    """(slope, intercept, note) by ``method`` on cases of both classes; slope NaN where there is no calibration."""
    few = int(np.sum(targets == 1))
    note = f"calibrated on {few} positives (fewer than {FEW_POSITIVES}): read its probabilities with care"
    note = note if few < FEW_POSITIVES else ""
    if method == "none":
        return math.nan, math.nan, ""
    if method == "temperature":
        try:
            return 1 / fit_temperature(targets, scores, rebalanced), 0.0, note
        except ValueError as error:
            raise UserError(str(error)) from error
    platt = fit_platt(targets, scores)
    if not platt.usable:
        return math.nan, math.nan, f"not calibrated, the slope {platt.slope:.3g} would turn the order of scores round"
    return platt.slope, platt.intercept, note


# ---------------------------------------------------------------- without a validation table


def cross_fitted(
    targets: Array, scores: Array, patients: ArrayLike, cfg: EvaluationConfig, rebalanced: bool
) -> CrossFit:
    """Calibrate cases (n,) of known target by folds of themselves: each fold's logits come from a fit on the others.

    Patients stay whole; those with a positive are dealt to the folds in turn, then the rest, in an order drawn from
    ``cfg.seed``: the same cases give the same folds. NaN logits and a note where it cannot be done.
    """
    codes = np.unique(np.asarray(patients), return_inverse=True)[1]
    with_positive = np.bincount(codes, weights=targets) > 0
    with_negative = np.bincount(codes, weights=1 - targets) > 0
    folds = min(FOLDS, int(with_positive.sum()), int(with_negative.sum()))
    nothing = np.full(len(targets), math.nan)
    if cfg.calibration == "none":
        return CrossFit(nothing, "", folds)
    if folds < 2:
        return CrossFit(nothing, "not calibrated, fewer than 2 patients of a class to cross-fit", folds)
    order = np.random.default_rng(cfg.seed).permutation(len(with_positive))
    order = order[np.argsort(~with_positive[order], kind="stable")]
    fold_of = np.empty(len(order), dtype=np.intp)
    fold_of[order] = np.arange(len(order)) % folds
    fold, logits, said = fold_of[codes], nothing, ""
    for i in range(folds):
        rest = fold != i
        if reason := why_undefined(targets[rest]):
            return CrossFit(np.full(len(targets), math.nan), f"not calibrated, a fold's rest has {reason}", folds)
        slope, intercept, note = calibrate(targets[rest], scores[rest], cfg.calibration, rebalanced)
        if math.isnan(slope):
            return CrossFit(np.full(len(targets), math.nan), f"{note} (in a fold)", folds)
        logits[~rest] = slope * scores[~rest] + intercept
        said = note or said
    return CrossFit(logits, said, folds)


@dataclass(frozen=True)
class CrossFit:
    """Calibrated logits (n,) of a cross-fit, NaN throughout where ``note`` says why there are none."""

    logits: Array
    note: str
    folds: int
