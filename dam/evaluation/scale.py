"""Whether scores are probabilities, and their logits without a single new tie.

Calibration and every probability of the report start from logits; AUC needs only the order. So the logit of a
probability must rank the cases exactly as the probability did, also where it is clipped and where float64 rounds.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from dam.errors import UserError
from dam.evaluation.auc import Array
from dam.evaluation.predictions import Predictions

KINDS = ("auto", "probability", "logit")
CLIP = 1e-7  # probabilities nearer to 0 or 1 are spread over one further logit, in their order
_EDGE = math.log(CLIP) - math.log1p(-CLIP)


def to_logits(probabilities: Array) -> Array:
    """Logits of probabilities in [0, 1], any shape, NaN kept: strictly increasing, so ranks and ties stay as they were.

    Between ``CLIP`` and 1 - ``CLIP`` it is ln(p/(1-p)). What lies outside, 0 and 1 included, would be huge or infinite;
    it is put in order on the one unit of logits beyond the clip. Raises ``ValueError`` outside [0, 1].
    """
    flat = np.asarray(probabilities, dtype=np.float64)
    known = ~np.isnan(flat)
    values, inverse = np.unique(flat[known], return_inverse=True)
    if len(values) and (values[0] < 0 or values[-1] > 1):
        raise ValueError(f"probabilities lie in [0, 1], not {values[0]:g} to {values[-1]:g}")
    inside = np.clip(values, CLIP, 1 - CLIP)
    logits = np.log(inside) - np.log1p(-inside)
    low, high = values < CLIP, values > 1 - CLIP
    # rank within the tail, over its length: steps far above the rounding of a logit of 16
    logits[low] = _EDGE - 1 + np.arange(low.sum()) / max(int(low.sum()), 1)
    logits[high] = -_EDGE + np.arange(1, high.sum() + 1) / max(int(high.sum()), 1)
    _separate(logits)
    result = np.full(flat.shape, np.nan)
    result[known] = logits[inverse]
    return result


def _separate(ascending: Array) -> None:
    """Move values that rounding made equal (or swapped) to the next free float64, in place."""
    for i in np.flatnonzero(np.diff(ascending) <= 0):
        j = int(i) + 1
        while j < len(ascending) and ascending[j] <= ascending[j - 1]:
            ascending[j] = np.nextafter(ascending[j - 1], np.inf)
            j += 1


def as_logits(
    table: Predictions, kind: str | Collection[str], source: str
) -> tuple[Predictions, list[str], tuple[str, ...]]:
    """The table with every model's probabilities as logits -> (table, what was done, models that were turned).

    ``kind``: "probability" or "logit" for all models, or "auto": a model whose scores of all labels lie in [0, 1] gives
    probabilities; or the names of the models that do, as another table of theirs showed. Raises ``UserError`` where
    probabilities are said and a score lies outside [0, 1].
    """
    notes, turned, scores = [], [], {}
    for model, values in table.scores.items():
        outside = (values < 0) | (values > 1)  # NaN (a label that the model does not have) compares as False
        said_so = kind == "probability" or (not isinstance(kind, str) and model in kind)
        if said_so and outside.any():
            row, k = (int(i) for i in np.argwhere(outside)[0])
            raise UserError(
                f"{source}, column {model}: {values[row, k]:g} of image {table.images[row]}, label {table.labels[k]}, "
                "is no probability; are these raw scores? (--scores logit)"
            )
        if not said_so and (kind != "auto" or outside.any()):
            scores[model] = values
            if kind == "auto":
                notes.append(f"{model}: raw scores (some lie outside [0, 1]), taken as logits{_mixed(table, outside)}")
            continue
        turned.append(model)
        scores[model] = to_logits(values)
        said = "scores lie in [0, 1]: taken as probabilities" if kind == "auto" else "probabilities"
        notes.append(f"{model}: {said}, judged by their logits, in the same order and with the same ties")
    changed = Predictions(table.images, table.patients, table.studies, table.labels, table.targets, scores)
    return changed, notes, tuple(turned)


def _mixed(table: Predictions, outside: np.ndarray) -> str:
    """Labels that look like probabilities although others of the same model do not: probably a mistake."""
    alike = [label for label, out in zip(table.labels, np.asarray(outside.any(axis=0)), strict=True) if not out]
    if not alike:
        return ""
    shown = ", ".join(alike[:5]) + (f" and {len(alike) - 5} more" if len(alike) > 5 else "")
    return (
        f"; but those of {shown} all lie in [0, 1]: if that column mixes probabilities with raw scores, its "
        "probabilities after calibration still hold (they are fitted a label), those before do not"
    )
