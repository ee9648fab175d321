"""An ensemble of calibrated logits as one exported model: it is a weighted sum of its members' outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dam.errors import UserError
from dam.evaluation.ensemble import ENSEMBLE, LabelMixture
from dam.inference.ensemble import Ensemble, read_ensemble
from dam.inference.export_graph import Recipe, Term, models_of, terms_of, why_not
from dam.inference.run import BLEND, LoadedRun, Part

Outputs = Mapping[tuple[Path, str], np.ndarray]  # (run, column) -> (n, labels of the recipe)


def ensemble_recipe(run: LoadedRun) -> Recipe:
    """The recipe of the column ``ensemble``. Raises ``UserError`` where one file cannot hold it: another mean than that
    of logits, members that take other images than one another, columns that are no function of the image alone."""
    found = _ensemble(run)
    if found.mixture.mean != "logits":
        raise UserError(
            f"{run.path} is a mean of {found.mixture.mean}, and an exported file holds means of logits: make the "
            "ensemble with --mean logits"
        )
    forms = {(m.config.image_size, m.channels, m.config.data.fit, str(m.config.data.window)) for m in run.members}
    if len(forms) > 1:
        sizes = ", ".join(f"{size} pixels and {channels} channels ({fit})" for size, channels, fit, _ in sorted(forms))
        raise UserError(
            f"the members of {run.path} take images of different kinds ({sizes}), and an exported file takes one: "
            "export the members"
        )
    labels = tuple(label for label in run.labels if label in found.mixture.labels)
    parts: list[tuple[LoadedRun, Part]] = []
    terms: list[Term] = []
    for member, one in zip(found.used, run.members, strict=True):
        if member.model not in models_of(one):
            raise UserError(f"member {member.column} of {run.path} cannot be exported: {why_not(member.model)}")
        served = [label for label in labels if member.column in found.mixture.labels[label].weights]
        runs = one.folds or (one,)
        for leaf in runs:
            own = terms_of(leaf, member.model, served, parts, 1 / len(runs))
            for number, term in enumerate(own):
                share = 1 / len(runs) if number == 0 else 0.0  # of the calibration's intercept, which comes once
                terms.append(_scaled(term, served, labels, found.mixture.labels, (member.column, share)))
    return Recipe(ENSEMBLE, labels, tuple(parts), tuple(terms))


def _scaled(
    term: Term, served: Sequence[str], labels: Sequence[str], mixture: Mapping[str, LabelMixture], of: tuple[str, float]
) -> Term:
    """A member's term over its ``served`` labels as a term of the ensemble over all ``labels``."""
    column, share = of
    index, weight, bias = [0] * len(labels), [0.0] * len(labels), [0.0] * len(labels)
    for i, label in enumerate(served):
        k, found = labels.index(label), mixture[label]
        fit, part = found.fits[column], found.weights[column]
        index[k] = term.index[i]
        weight[k] = part * fit.slope * term.weight[i]
        bias[k] = part * (fit.slope * term.bias[i] + fit.intercept * share)
    return Term(tuple(index), tuple(weight), tuple(bias))


def ensemble_logits(run: LoadedRun, recipe: Recipe, outputs: Outputs) -> np.ndarray:
    """Logits (n, K) by the ensemble's own way, from the outputs of its networks; nothing of the recipe's terms."""
    found = _ensemble(run)
    count = len(next(iter(outputs.values())))
    several = []
    for member, one in zip(found.used, run.members, strict=True):
        wide = np.full((count, len(one.labels)), math.nan)
        for k, label in enumerate(recipe.labels):
            if member.column in found.mixture.labels[label].weights:
                each = [_column(leaf, member.model, label, k, outputs) for leaf in one.folds or (one,)]
                wide[:, one.labels.index(label)] = np.mean(each, axis=0)
        several.append({member.model: wide})
    place = [run.labels.index(label) for label in recipe.labels]
    return np.asarray(run.combined(several)[ENSEMBLE][:, place])


def _column(run: LoadedRun, model: str, label: str, k: int, outputs: Outputs) -> np.ndarray:
    if model != BLEND:
        return outputs[run.path, model][:, k]
    blend = run.blends[label]
    return blend.apply({name: outputs[run.path, name][:, k] for name in blend.fits})


def _ensemble(run: LoadedRun) -> Ensemble:
    found = read_ensemble(run.path)
    if found is None:
        raise ValueError(f"{run.path} is no ensemble")
    return found
