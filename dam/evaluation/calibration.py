"""From scores to probabilities (Platt's method, temperature), and the blend of two calibrated models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit

from dam.evaluation.auc import Array, known_targets
from dam.evaluation.predictions import Predictions

LOG_TEMPERATURES = (-5.0, 5.0)


@dataclass(frozen=True)
class Platt:
    """p = sigmoid(slope * score + intercept), fitted on ``positives`` + ``negatives`` cases."""

    slope: float
    intercept: float
    positives: int
    negatives: int

    @property
    def usable(self) -> bool:
        """False where the fit would turn the order of the scores round, or make them all equal."""
        return self.slope > 0

    def logits(self, scores: ArrayLike) -> Array:
        """Calibrated log odds. Raises ``ValueError`` where the fit is not usable."""
        if not self.usable:
            raise ValueError(
                f"the slope {self.slope:.3g} is not positive: the fit would turn the order of scores round"
            )
        return np.asarray(self.slope * np.asarray(scores, dtype=np.float64) + self.intercept, dtype=np.float64)

    def probabilities(self, scores: ArrayLike) -> Array:
        """Calibrated probabilities; same errors as ``logits``."""
        return np.asarray(expit(self.logits(scores)))

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> Platt:
        """Read what ``vars`` gave for a JSON file; raises ``ValueError`` for missing or other than finite numbers."""
        values = [stored_number(stored, key) for key in ("slope", "intercept", "positives", "negatives")]
        return cls(values[0], values[1], int(values[2]), int(values[3]))


def stored_number(stored: Mapping[str, object], key: str) -> float:
    """A finite number read from JSON; raises ``ValueError`` naming the key where it is anything else."""
    value = stored.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"the stored calibration has {value!r} as {key}; a finite number is needed")
    return float(value)


def fit_platt(targets: ArrayLike, scores: ArrayLike) -> Platt:
    """Fit Platt's scaling with his smoothed targets, which keep it finite on separated data.

    Args: targets (N,) of 0, 1 or NaN (left out); scores (N,) finite, any raw scores, best logits.
    With one class absent the slope is 0, so the fit is not ``usable``. Raises ``ValueError`` for other targets and
    scores that are not finite. Source: Platt 1999; targets (N+ + 1)/(N+ + 2) and 1/(N- + 2).
    """
    y = known_targets(targets, drop=False)
    s = np.asarray(scores, dtype=np.float64)
    if s.shape != y.shape or not np.isfinite(s).all():
        raise ValueError("Platt's scaling needs one finite score a target")
    s, y = s[~np.isnan(y)], y[~np.isnan(y)]
    m, n = int(y.sum()), int(len(y) - y.sum())
    if m == 0 or n == 0:
        return Platt(0.0, 0.0, m, n)
    smoothed = np.where(y == 1, (m + 1) / (m + 2), 1 / (n + 2))
    slope, intercept = fit_logistic(smoothed, s)
    return Platt(slope, intercept, m, n)


def fit_logistic(targets: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """Slope and intercept of an unpenalised logistic regression of targets in [0, 1] on one score; both (N,).

    Newton's method with step halving on standardized scores. With plain 0/1 targets that the scores separate the
    optimum lies at infinity: smooth the targets (``fit_platt``).
    """
    t = np.asarray(targets, dtype=np.float64)
    s = np.asarray(scores, dtype=np.float64)
    centre, scale = float(s.mean()), float(s.std())
    rate = float(t.mean())
    start = math.log(rate / (1 - rate))
    if scale == 0:
        return 0.0, start
    x = np.stack([(s - centre) / scale, np.ones_like(s)])
    theta = np.array([0.0, start])
    loss = _negative_log_likelihood(theta, x, t)
    for _ in range(100):
        p = expit(theta @ x)
        gradient = x @ (p - t)
        curvature = (x * (p * (1 - p))) @ x.T + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size, shorter = 1.0, _negative_log_likelihood(theta - step, x, t)
        while shorter > loss and size > 1e-10:
            size /= 2
            shorter = _negative_log_likelihood(theta - size * step, x, t)
        if shorter > loss:
            break
        theta, loss = theta - size * step, shorter
        if float(np.abs(size * step).max()) < 1e-12:
            break
    slope = float(theta[0]) / scale
    return slope, float(theta[1]) - slope * centre


def _negative_log_likelihood(theta: Array, x: Array, targets: Array) -> float:
    z = theta @ x
    return float(np.sum(np.logaddexp(0.0, z) - targets * z))


def fit_temperature(targets: ArrayLike, logits: ArrayLike, rebalanced: bool = False) -> float:
    """The temperature T of p = sigmoid(logit / T) with the lowest negative log-likelihood, ln T within [-5, 5].

    Args: targets (N,) of 0, 1, NaN (left out); logits (N,) finite; ``rebalanced``: training changed the share of
    positives (a sampler, an AUC objective, thinning), which a temperature cannot put right.
    Raises ``ValueError`` after rebalancing, without both classes, and where logits are not finite.
    Source: Guo et al., ICML 2017.
    """
    if rebalanced:
        raise ValueError(
            "temperature scaling cannot shift the prior, and training rebalanced the classes (or used an AUC "
            "objective): take evaluation.calibration=platt"
        )
    y = known_targets(targets, drop=False)
    s = np.asarray(logits, dtype=np.float64)
    if s.shape != y.shape or not np.isfinite(s).all():
        raise ValueError("temperature scaling needs one finite logit a target")
    s, y = s[~np.isnan(y)], y[~np.isnan(y)]
    if not 0 < y.sum() < len(y):
        raise ValueError("temperature scaling needs both classes")

    def slope(log_temperature: float) -> float:  # of the loss in 1/T: rises with 1/T, for the loss is convex there
        return float(s @ (expit(s * math.exp(-log_temperature)) - y))

    coldest, hottest = LOG_TEMPERATURES
    if slope(hottest) >= 0:
        return math.exp(hottest)
    if slope(coldest) <= 0:
        return math.exp(coldest)
    return math.exp(float(brentq(slope, coldest, hottest, xtol=1e-13)))


def shift_of_prevalence(fitted: float, used: float) -> float:
    """What to add to a calibrated logit when the prevalence changes from ``fitted`` to ``used``, both in (0, 1).

    Right where the classes look the same at both places and only their shares differ (prior shift).
    """
    return math.log(used / (1 - used)) - math.log(fitted / (1 - fitted))


# ---------------------------------------------------------------- blend


@dataclass(frozen=True)
class Blend:
    """One label's mean of calibrated logits: the models it uses, and those left out with the reason."""

    fits: dict[str, Platt]
    left_out: dict[str, str] = field(default_factory=dict)

    def apply(self, scores: Mapping[str, ArrayLike]) -> Array:
        """Mean calibrated logit (N,) of scores model -> (N,). Raises ``ValueError`` if every model was left out."""
        if not self.fits:
            raise ValueError("no model could be calibrated: there is nothing to blend")
        return np.asarray(np.mean([fit.logits(scores[model]) for model, fit in self.fits.items()], axis=0))

    def as_dict(self) -> dict[str, object]:
        """Plain numbers and text for a JSON file."""
        fits = {model: vars(fit).copy() for model, fit in self.fits.items()}
        return {"fits": fits, "left_out": dict(self.left_out)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> Blend:
        """Read ``as_dict``'s form back; raises ``ValueError`` where it is something else."""
        fits, left_out = stored.get("fits"), stored.get("left_out", {})
        if not isinstance(fits, Mapping) or not isinstance(left_out, Mapping):
            raise ValueError("a stored blend is {fits: {model: {slope, intercept, ...}}, left_out: {model: reason}}")
        return cls(
            {str(model): Platt.from_dict(fit) for model, fit in fits.items()},
            {str(model): str(reason) for model, reason in left_out.items()},
        )


def fit_blend(targets: ArrayLike, scores: Mapping[str, ArrayLike]) -> Blend:
    """Calibrate each model on validation; a model whose slope is not positive is left out and named.

    Args: targets (N,) of 0, 1, NaN; scores model -> (N,) logits.
    """
    fits, left_out = {}, {}
    for model, values in scores.items():
        fit = fit_platt(targets, values)
        if fit.usable:
            fits[model] = fit
        elif min(fit.positives, fit.negatives) == 0:
            left_out[model] = "validation holds one class only"
        else:
            left_out[model] = f"its calibration slope on validation is {fit.slope:.3g}, not positive"
    return Blend(fits, left_out)


def blend_tables(
    validation: Predictions, tables: Mapping[str, Predictions], models: Sequence[str], name: str = "blend"
) -> tuple[dict[str, Predictions], dict[str, Blend], list[str]]:
    """Fit a blend a label on ``validation`` and add it as model ``name`` to every table (split -> predictions).

    A label that not all ``models`` have, or where none can be calibrated, gets no blend (NaN throughout). Returns the
    tables with the new column (unchanged where no label could be blended), the blends a label and one sentence for
    whatever was left out.
    """
    blends, notes = {}, []
    for k, label in enumerate(validation.labels):
        scores = {m: validation.scores[m][:, k] for m in models}
        lacking = [m for m in models if np.isnan(scores[m]).any()]
        if lacking:
            notes.append(f"{name}, {label}: not made, because {' and '.join(lacking)} has no scores for it")
            continue
        found = fit_blend(validation.targets[:, k], scores)
        notes += [f"{name}, {label}: {model} is left out ({why})" for model, why in found.left_out.items()]
        if found.fits:
            blends[label] = found
    if not blends:
        return dict(tables), blends, notes
    return {split: _add_blend(table, blends, name) for split, table in tables.items()}, blends, notes


def _add_blend(table: Predictions, blends: Mapping[str, Blend], name: str) -> Predictions:
    values = np.full(table.targets.shape, np.nan)
    for k, label in enumerate(table.labels):
        if label in blends:
            values[:, k] = blends[label].apply({m: table.scores[m][:, k] for m in blends[label].fits})
    return table.with_scores(name, values)
