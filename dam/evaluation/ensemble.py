"""Scores of several models as one: the mean of calibrated logits, of ranks or of sigmoids, with weights for each label.

All that is fitted (calibration, ranks, weights) is fitted on validation, and then works on a single new image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import log_expit, logit, logsumexp

from dam.evaluation.auc import Array, roc_auc, why_undefined
from dam.evaluation.calibration import Platt, fit_blend, stored_number
from dam.evaluation.predictions import Predictions, merge_units

ENSEMBLE = "ensemble"  # its column in the tables of predictions
MEANS = ("logits", "ranks", "scores")
WEIGHTS = ("equal", "greedy")
ROUNDS = 50  # of greedy selection, so that a weight is a multiple of 1/50 or coarser
PATIENCE = 10  # rounds without a gain that end it


@dataclass(frozen=True)
class LabelMixture:
    """One label's mean: model -> weight (positive, sum 1), its calibration (``mean=logits`` only), who is left out."""

    weights: dict[str, float]
    fits: dict[str, Platt] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Plain values for a file."""
        fits = {model: vars(fit).copy() for model, fit in self.fits.items()}
        return {"weights": dict(self.weights), "fits": fits, "left_out": dict(self.left_out)}

    @classmethod
    def from_dict(cls, stored: object) -> LabelMixture:
        """Read ``as_dict``'s form back; raises ``ValueError`` where it is something else."""
        if not isinstance(stored, Mapping):
            raise ValueError("a label of a stored ensemble is {weights: ..., fits: ..., left_out: ...}")
        weights, fits, left_out = (stored.get(key) or {} for key in ("weights", "fits", "left_out"))
        if not all(isinstance(node, Mapping) for node in (weights, fits, left_out)) or not weights:
            raise ValueError("a label of a stored ensemble is {weights: ..., fits: ..., left_out: ...}")
        return cls(
            {str(model): stored_number(weights, model) for model in weights},
            {str(model): Platt.from_dict(fit) for model, fit in fits.items()},
            {str(model): str(reason) for model, reason in left_out.items()},
        )


@dataclass(frozen=True)
class Mixture:
    """``mean`` of MEANS and how every label is mixed; a label that no model could serve is absent.

    ``reference``: for ranks, label -> model -> its validation scores, any order.
    """

    mean: str
    labels: dict[str, LabelMixture]
    reference: dict[str, dict[str, Array]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """Models with a weight for some label: what must be scored."""
        return tuple(dict.fromkeys(model for found in self.labels.values() for model in found.weights))

    def apply(self, label: str, scores: Mapping[str, Array]) -> Array:
        """The ensemble's logit (n,) of one label from model -> raw scores (n,); models without a weight may be absent.

        Mean of logits: sum w (slope s + intercept). Mean of ranks and of sigmoids: the logit of the mean.
        """
        found = self.labels[label]
        votes = np.stack([self._votes(label, model, scores[model]) for model in found.weights])
        return _mix(self.mean, votes, np.array(list(found.weights.values())))

    def _votes(self, label: str, model: str, scores: Array) -> Array:
        if self.mean == "logits":
            return self.labels[label].fits[model].logits(scores)
        if self.mean == "ranks":
            return rank_among(scores, self.reference[label][model])
        return np.asarray(scores, dtype=np.float64)

    def combine(self, labels: Sequence[str], scores: Mapping[str, Array]) -> dict[str, Array]:
        """Columns of a table: ``ensemble`` (n, K), NaN where a label is not served, before those of ``scores``."""
        values = np.full(next(iter(scores.values())).shape, np.nan)
        for k, label in enumerate(labels):
            if label in self.labels:
                values[:, k] = self.apply(label, {model: column[:, k] for model, column in scores.items()})
        return {ENSEMBLE: values, **scores}

    def as_dict(self) -> dict[str, object]:
        """label -> weights, fits and who is left out; without the reference of ranks, which is the validation table."""
        return {label: found.as_dict() for label, found in self.labels.items()}

    @classmethod
    def from_dict(cls, mean: str, stored: object, validation: Predictions | None) -> Mixture:
        """Read ``as_dict``'s form back; ranks need the ensemble's own validation table.

        Raises ``ValueError`` where it is something else, or lacks what ``mean`` needs.
        """
        if mean not in MEANS or not isinstance(stored, Mapping) or not stored:
            raise ValueError(f"a stored ensemble has a mean ({', '.join(MEANS)}) and labels, not {mean!r}, {stored!r}")
        labels = {str(label): LabelMixture.from_dict(found) for label, found in stored.items()}
        for label, found in labels.items():
            lacking = set(found.weights) - set(found.fits) if mean == "logits" else set()
            if lacking:
                raise ValueError(f"{label}: the stored ensemble has no calibration of {', '.join(sorted(lacking))}")
        result = cls(mean, labels)
        if mean != "ranks":
            return result
        if validation is None or set(labels) - set(validation.labels) or set(result.models) - set(validation.models):
            raise ValueError("a mean of ranks needs the validation scores of every model")
        return replace(result, reference=_reference(validation, labels))


def rank_among(scores: Array, reference: Array) -> Array:
    """Where scores (n,) stand among ``reference`` (m,), strictly within (0, 1).

    A value of the reference has its mid-rank (1 to m) divided by m + 1; between two it is interpolated; beyond the
    lowest and highest it is theirs, so that scores there tie.
    """
    values, counts = np.unique(np.asarray(reference, dtype=np.float64), return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(np.interp(scores, values, ranks / (len(reference) + 1)), dtype=np.float64)


def fit_mixture(
    validation: Predictions, mean: str = "logits", weighting: str = "equal", unit: str = "image", merge: str = "mean"
) -> tuple[Mixture, list[str]]:
    """Fit an ensemble of all models of ``validation`` and say in sentences what was left out.

    ``mean=logits``: every model is calibrated by Platt's method; one whose slope is not positive is left out.
    ``weighting=greedy``: forward selection with replacement by the AUC on validation, for each label (Caruana et al.,
    ICML 2004), judged by ``unit`` and ``merge``; it starts empty, adds the model that raises the AUC most (the first
    one of equals), at most ``ROUNDS`` times, and keeps the first of the best. Nothing is random.
    """
    if mean not in MEANS or weighting not in WEIGHTS:
        raise ValueError(f"mean is one of {', '.join(MEANS)} and weighting one of {', '.join(WEIGHTS)}")
    labels: dict[str, LabelMixture] = {}
    notes: list[str] = []
    for k, label in enumerate(validation.labels):
        scores = {model: values[:, k] for model, values in validation.scores.items()}
        left_out = {model: "it has no scores for it" for model, column in scores.items() if np.isnan(column).any()}
        usable = {model: column for model, column in scores.items() if model not in left_out}
        fits: dict[str, Platt] = {}
        if mean == "logits":
            blend = fit_blend(validation.targets[:, k], usable)
            fits, left_out = blend.fits, left_out | blend.left_out
            usable = {model: usable[model] for model in fits}
        notes += [f"{label}: {model} is left out ({why})" for model, why in left_out.items()]
        if not usable:
            notes.append(f"{label}: not served by the ensemble, since every member is left out")
            continue
        labels[label] = LabelMixture({model: 1 / len(usable) for model in usable}, fits, left_out)
    found = Mixture(mean, labels)
    if mean == "ranks":
        found = replace(found, reference=_reference(validation, labels))
    if weighting == "greedy":
        for label in labels:
            labels[label], note = _selected(found, label, validation, unit, merge)
            notes += [note] if note else []
    return found, notes


def _reference(validation: Predictions, labels: Mapping[str, LabelMixture]) -> dict[str, dict[str, Array]]:
    place = {label: validation.labels.index(label) for label in labels}
    return {
        label: {model: validation.scores[model][:, place[label]] for model in found.weights}
        for label, found in labels.items()
    }


def _mix(mean: str, votes: Array, weights: Array) -> Array:
    """Votes (models, n), weights (models,) of sum 1 -> logit (n,)."""
    if mean == "logits":
        return np.asarray(weights @ votes, dtype=np.float64)
    if mean == "ranks":
        return np.asarray(logit(weights @ votes), dtype=np.float64)
    # In logarithms, so that no saturated sigmoid becomes infinite.
    column = weights[:, None]
    return np.asarray(logsumexp(log_expit(votes), axis=0, b=column) - logsumexp(log_expit(-votes), axis=0, b=column))


# ---------------------------------------------------------------- greedy selection


def _selected(mixture: Mixture, label: str, table: Predictions, unit: str, merge: str) -> tuple[LabelMixture, str]:
    """The label with weights by greedy selection, and a note where there was nothing to select by."""
    found = mixture.labels[label]
    k = table.labels.index(label)
    models = tuple(found.weights)
    votes = np.stack([mixture._votes(label, model, table.scores[model][:, k]) for model in models])
    narrow = replace(table, labels=(label,), targets=table.targets[:, [k]], scores={})
    counts = np.zeros(len(models), dtype=np.intp)
    best, kept, since = -1.0, counts, 0
    while counts.sum() < ROUNDS and since < PATIENCE:
        tried = counts + np.eye(len(models), dtype=np.intp)
        mixed = {str(i): _mix(mixture.mean, votes, row / row.sum())[:, None] for i, row in enumerate(tried)}
        units = merge_units(replace(narrow, scores=mixed), unit, merge)
        known = ~np.isnan(units.targets[:, 0])
        targets = units.targets[known, 0]
        if reason := why_undefined(targets):
            return found, f"{label}: equal weights, because validation has {reason}"
        aucs = [roc_auc(targets, units.scores[str(i)][known, 0]) for i in range(len(models))]
        first = int(np.argmax(aucs))
        counts = tried[first]
        since += 1
        if aucs[first] > best + 1e-12:  # rounding is no gain
            best, kept, since = aucs[first], counts, 0
    weights = {model: float(count / kept.sum()) for model, count in zip(models, kept, strict=True) if count}
    return replace(found, weights=weights), ""
