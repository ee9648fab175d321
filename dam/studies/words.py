"""One paragraph and a list, made from the numbers alone: what this matrix shows, and what it cannot at its size.

A difference is said to hold only where its whole interval lies on one side of 0 over patients, after Holm, and over
folds; everything else is called undecided, which is not equality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dam.report.tables import number, plural, with_interval
from dam.studies.measures import Arm
from dam.studies.paired import Paired
from dam.studies.tables import title


@dataclass(frozen=True)
class Size:
    """The test set in numbers."""

    images: int
    patients: int
    positives: int
    positive_patients: int
    negatives: int
    negative_patients: int


def size_of(arm: Arm) -> Size:
    """Of the cases an arm was judged on."""
    y, codes = arm.judged[0].targets, arm.judged[0].patients
    return Size(
        len(y),
        len(np.unique(codes)),
        int((y == 1).sum()),
        len(np.unique(codes[y == 1])),
        int((y == 0).sum()),
        len(np.unique(codes[y == 0])),
    )


def paragraph(size: Size, aucs: Sequence[Paired], claims: Sequence[Paired], trust: Sequence[Paired]) -> str:
    """What holds and what does not. ``aucs``: the AUC's differences; ``claims``: those of the paper's measures;
    ``trust``: pairs of rows, trust of positives before and after calibration."""
    sentences = [
        f"The test set is {plural(size.images, 'image')} of {plural(size.patients, 'patient')}, "
        f"{size.negatives} of them negative ({plural(size.negative_patients, 'patient')}).",
        _aucs(aucs),
        _claims(claims),
        _scale(trust),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def details(size: Size, aucs: Sequence[Paired], claims: Sequence[Paired], trust: Sequence[Paired]) -> tuple[str, ...]:
    """The numbers behind ``paragraph``, a sentence each."""
    sentences = [_auc(row) for row in aucs]
    sentences += [_trust(before, after) for before, after in zip(trust[::2], trust[1::2], strict=True)]
    sentences += [
        f"All folds are judged on the same {plural(size.positives, 'positive')} of "
        f"{plural(size.positive_patients, 'patient')} and {plural(size.negatives, 'negative')} of "
        f"{plural(size.negative_patients, 'patient')}: the standard deviation over folds says nothing about other "
        "patients.",
        _steps(size, claims),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def _aucs(rows: Sequence[Paired]) -> str:
    """How many differences of AUC hold, and what the rest could have shown."""
    if not rows:
        return ""
    certain = [row for row in rows if row.holds]
    told = f"Of {plural(len(rows), 'difference')} of AUC, "
    told += "; ".join(f"{_pair(row)} holds ({_difference(row)})" for row in certain) if certain else "none holds"
    could = sorted(row.detectable for row in rows if not row.holds and not math.isnan(row.detectable))
    if could:
        ends = dict.fromkeys(number(value) for value in (could[0], could[-1]))
        told += f"; {'the rest are' if certain else 'all are'} undecided, where these patients could have shown "
        told += f"{' to '.join(ends)} (80 % power)"
    return told + "."


def _scale(trust: Sequence[Paired]) -> str:
    """Whether the differences of trust that hold are still there once both sides are calibrated."""
    certain = [(b, after) for b, after in zip(trust[::2], trust[1::2], strict=True) if b.holds]
    if not certain:
        return ""
    after = [row for _, row in certain if not math.isnan(row.difference)]
    held = f"the {plural(len(certain), 'difference')} of trust that {'holds' if len(certain) == 1 else 'hold'}"
    if not after:
        return f"Of {held}, none can be compared after calibration."
    left, folds = sum(row.holds for row in after), min(row.folds for row in after)
    told = f"Of {held}, calibration on validation leaves {left or 'none'}"
    if left < len(after):
        told += ": the rest, as far as this test set can tell, is the scale of the scores"
    if folds < max(before.folds for before, _ in certain):
        told += f" (down to {plural(folds, 'fold')} where both rows could be calibrated)"
    if len(after) < len(certain):
        told += f"; {len(certain) - len(after)} cannot be compared so"
    return told + "."


def _pair(row: Paired) -> str:
    """ "supervised AUC against supervised CE": the rows' names without their commas."""
    return f"{row.a} against {row.b}".replace(",", "")


def _auc(row: Paired) -> str:
    told = f"Area under the curve, {_pair(row)}: {number(row.difference, sign=True)}"
    if math.isnan(row.low):
        return f"{told}, not testable ({row.test})."
    told += f" [{number(row.low, True)}, {number(row.high, True)}] over patients"
    if not math.isnan(row.fold_low):
        told += f", [{number(row.fold_low, True)}, {number(row.fold_high, True)}] over {plural(row.folds, 'fold')}"
    if row.holds:
        return f"{told}: it holds here, {'higher' if row.difference > 0 else 'lower'}."
    could = f"; these patients could have shown {number(row.detectable)} (80 % power)"
    return f"{told}: undecided{'' if math.isnan(row.detectable) else could}."


def _claims(claims: Sequence[Paired]) -> str:
    """How many of the paper's directions are confirmed, contradicted, undecided."""
    tested = [row for row in claims if row.paper != 0 and not math.isnan(row.paper)]
    if not tested:
        return ""
    alike = [row for row in tested if row.as_paper]
    other = [row for row in tested if row.holds and not row.as_paper]
    open_ = len(tested) - len(alike) - len(other)
    told = (
        f"Of the {len(tested)} differences of precision, sensitivity and trust whose direction the paper reports, "
        f"{_listed(alike)} on the paper's side, {_listed(other)} on the other"
    )
    if open_:
        told += f", and {open_} cannot be decided at this size (undecided is not equal)"
    return told + "."


def _listed(rows: Sequence[Paired]) -> str:
    if not rows:
        return "none holds"
    names = "; ".join(f"{title(row.measure)}, {_pair(row)}" for row in rows)
    return f"{len(rows)} ({names}) {'holds' if len(rows) == 1 else 'hold'}"


def _trust(before: Paired, after: Paired) -> str:
    """Trust moves with the scale of the scores: what is left of a difference once both are calibrated."""
    if math.isnan(before.difference):
        return ""
    told = f"Trust of positives, {_pair(before)}: {_difference(before)} as the scores are"
    if math.isnan(after.difference):
        return f"{told}; not comparable after calibration."
    told += f", {_difference(after)} after calibration on validation"
    if after.folds < before.folds:
        told += f" (in the {plural(after.folds, 'fold')} where both could be)"
    if before.holds and not after.holds:
        told += ": undecided once calibrated"
    return told + "."


def _difference(row: Paired) -> str:
    return with_interval(row.difference, row.low, row.high, sign=True)


def _steps(size: Size, claims: Sequence[Paired]) -> str:
    """The grain of the test set against the smallest difference that the paper reports."""
    told = (
        f"One image more or less moves the sensitivity of the negatives by {number(1 / size.negatives)} and of the "
        f"positives by {number(1 / size.positives)}"
    )
    grain = {"sensitivity_negative": 1 / size.negatives, "sensitivity_positive": 1 / size.positives}
    finer = [r for r in claims if r.measure in grain and 0 < abs(r.paper) < grain[r.measure]]
    if finer:
        told += f"; {len(finer)} of the paper's differences of sensitivity are smaller than that"
    return told + "."
