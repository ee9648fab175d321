"""Models of several runs or prediction files against the first, paired on the same images: no torch, no run needed.

Every contestant is one model of one or more trainings (seeds). Differences are other - first. With one training each
they are ``judge``'s paired tests; with several seeds a side they are differences of the mean AUC over seeds, whose
interval is about the sample of patients, and the spread over seeds is told beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dam.errors import UserError
from dam.evaluation.auc import Array
from dam.evaluation.comparisons import holm
from dam.evaluation.judge import AucRow, ComparisonRow, Judgement, judge
from dam.evaluation.predictions import MEAN, Names, Predictions, merge_units
from dam.evaluation.verdict import Verdict, make_verdict
from dam.report.compare_seeds import judge_seeds

ALPHA = 0.05


@dataclass(frozen=True)
class Contestant:
    """One side: a name, the model column it stands for, and its predictions, one table a seed."""

    name: str
    model: str
    tables: tuple[Predictions, ...]
    sources: tuple[str, ...]  # where each table came from, for messages


@dataclass(frozen=True)
class SpreadRow:
    """Mean AUC over labels of one contestant over its seeds; ``sd`` (divisor n - 1) is NaN with one."""

    name: str
    model: str
    seeds: int
    mean: float
    sd: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Comparison:
    """What was found. ``rows``: every label, then the mean, of each contestant against the first; the mean's ``p_holm``
    is adjusted over the contestants. ``verdicts`` are in the order of the contestants after the first."""

    split: str
    names: tuple[str, ...]
    models: tuple[str, ...]
    unit: str
    merge: str
    units: int
    images: int
    patients: int
    aucs: tuple[AucRow, ...]  # of contestants with one seed; ``model`` is the contestant's name
    rows: tuple[ComparisonRow, ...]
    verdicts: tuple[Verdict, ...]
    spread: tuple[SpreadRow, ...]
    notes: tuple[str, ...]


def compare(
    contestants: Sequence[Contestant],
    split: str,
    unit: str = "image",
    merge: str = "mean",
    interval: str = "auto",
    replicates: int = 2000,
    seed: int = 0,
    common: bool = False,
) -> Comparison:
    """Compare every contestant with the first, on the same images and targets.

    ``common`` takes the images and targets that all have; without it a difference between them is refused. Raises
    ``UserError`` for different images, labels without one in common, targets that disagree, and seeds that differ in
    number between the sides.
    """
    seeds = {len(c.tables) for c in contestants}
    if len(seeds) > 1:
        counts = ", ".join(f"{c.name} {len(c.tables)}" for c in contestants)
        raise UserError(f"every side needs as many seeds as the others to be paired with them ({counts})")
    table, columns, notes = pair(contestants, common)
    units = merge_units(table, unit, merge)
    names = [c.name for c in contestants]
    pairs = [(name, names[0]) for name in names[1:]]
    if seeds == {1}:
        judged = judge(units, pairs, interval, replicates, seed)
    else:
        if interval not in ("auto", "clustered"):
            raise UserError(f"--interval {interval} is not offered for several seeds a side; leave it away")
        judged = judge_seeds(units, columns, pairs)
    spread = tuple(_spread(c, columns[c.name], judged) for c in contestants)
    verdicts = _verdicts(judged, pairs, columns)
    rows = _adjusted(judged.comparisons, pairs)
    verdicts = [_after_holm(v, rows, len(pairs)) for v in verdicts]
    return Comparison(
        split, tuple(names), tuple(c.model for c in contestants), unit, merge, len(units.targets), units.images,
        len(np.unique(units.patients)), judged.aucs if seeds == {1} else (), tuple(rows), tuple(verdicts), spread,
        (*notes, *units.notes, *judged.notes),
    )  # fmt: skip


# ---------------------------------------------------------------- the same images


def pair(contestants: Sequence[Contestant], common: bool) -> tuple[Predictions, dict[str, list[str]], list[str]]:
    """One table of all contestants' scores -> (table, contestant -> its score columns, what must be said).

    A contestant of one seed has the column of its own name, others ``name, seed 1`` and so on.
    """
    tables = [(c, source, t) for c in contestants for source, t in zip(c.sources, c.tables, strict=True)]
    first = tables[0][2]
    labels = [label for label in first.labels if all(label in t.labels for _, _, t in tables)]
    notes = _label_notes(tables, labels)
    images = _same_images(tables, common, notes)
    targets = _same_targets(tables, images, labels, common, notes)
    rows = _rows(first.images, images)
    scores, columns = {}, {}
    for contestant in contestants:
        columns[contestant.name] = [
            contestant.name if len(contestant.tables) == 1 else f"{contestant.name}, seed {i + 1}"
            for i in range(len(contestant.tables))
        ]
        for name, table in zip(columns[contestant.name], contestant.tables, strict=True):
            at, picked = _rows(table.images, images), [table.labels.index(label) for label in labels]
            scores[name] = table.scores[contestant.model][at][:, picked]
    patients, studies = first.patients[rows], first.studies[rows]
    whole = Predictions(images, patients, studies, tuple(labels), targets, scores)
    return whole, columns, notes


def _label_notes(tables: Sequence[tuple[Contestant, str, Predictions]], labels: Sequence[str]) -> list[str]:
    if not labels:
        listed = "; ".join(f"{source}: {', '.join(t.labels[:5])}" for _, source, t in tables)
        raise UserError(f"no label is in all of them ({listed}), so there is nothing to compare")
    left = {label for _, _, t in tables for label in t.labels} - set(labels)
    return [f"compared on the labels that all have; left out: {', '.join(sorted(left))}"] if left else []


def _same_images(tables: Sequence[tuple[Contestant, str, Predictions]], common: bool, notes: list[str]) -> Names:
    first_source, first = tables[0][1], tables[0][2]
    shared = set(first.images)
    for _, source, table in tables[1:]:
        theirs = set(table.images)
        if theirs != set(first.images) and not common:
            raise UserError(_different(first_source, set(first.images), source, theirs))
        shared &= theirs
    kept = np.array([image in shared for image in first.images])
    if not kept.any():
        raise UserError(f"{first_source} and the others have no image in common: they judge different images")
    if len({len(t.images) for _, _, t in tables} | {int(kept.sum())}) > 1:
        counts = ", ".join(f"{source} {len(t.images)}" for _, source, t in tables)
        notes.append(f"compared on the {int(kept.sum())} images that all have (of {counts})")
    images: Names = first.images[kept]
    return images


def _different(a_source: str, a: set[str], b_source: str, b: set[str]) -> str:
    only = [(a_source, sorted(a - b)), (b_source, sorted(b - a))]
    told = "; ".join(f"{len(names)} only in {source}, such as {names[0]}" for source, names in only if names)
    both = f"{len(a & b)} in both" if a & b else "none in both"
    hint = "; --common takes those in both" if a & b else " (pseudonyms of report.anonymize=true are not those names)"
    head = f"{a_source} and {b_source} judge different images: {both}, {told}"
    return f"{head}. A comparison is paired on the same images{hint}"


def _rows(images: Names, wanted: Names) -> NDArray[np.intp]:
    import pandas as pd

    return np.asarray(pd.Index(images).get_indexer(pd.Index(wanted)), dtype=np.intp)


def _same_targets(
    tables: Sequence[tuple[Contestant, str, Predictions]],
    images: Names,
    labels: Sequence[str],
    common: bool,
    notes: list[str],
) -> Array:
    found = []
    for _, _, table in tables:
        columns = [table.labels.index(label) for label in labels]
        found.append(table.targets[_rows(table.images, images)][:, columns])
    result = found[0].copy()
    for (_, source, _), theirs in zip(tables[1:], found[1:], strict=True):
        both = ~np.isnan(found[0]) & ~np.isnan(theirs)
        wrong = both & (found[0] != theirs)
        unlike = np.isnan(found[0]) != np.isnan(theirs)
        if wrong.any() or (unlike.any() and not common):
            n, where = (wrong, "disagree on") if wrong.any() else (unlike, "do not both know")
            row, k = (int(i) for i in np.argwhere(n)[0])
            hint = "" if wrong.any() else "; --common leaves such targets out"
            raise UserError(
                f"{tables[0][1]} and {source} {where} {int(n.sum())} targets, such as {labels[k]} of {images[row]}: "
                f"one of them was made with other labels or policies{hint}"
            )
        result[np.isnan(theirs)] = np.nan
    dropped = int((np.isnan(result) & ~np.isnan(found[0])).sum())
    if dropped:
        notes.append(f"{dropped} targets that not all know were left out")
    return result


# ---------------------------------------------------------------- verdicts


def _means(columns: Sequence[str], judged: Judgement) -> Array:
    found = {row.model: row.auc for row in judged.aucs if row.label == MEAN}
    return np.array([found[c] for c in columns], dtype=np.float64)


def _spread(contestant: Contestant, columns: Sequence[str], judged: Judgement) -> SpreadRow:
    means = _means(columns, judged)
    sd = float(means.std(ddof=1)) if len(means) > 1 else math.nan
    return SpreadRow(contestant.name, contestant.model, len(means), float(means.mean()), sd, float(means.min()),
                     float(means.max()))  # fmt: skip


def _verdicts(judged: Judgement, pairs: Sequence[tuple[str, str]], columns: dict[str, list[str]]) -> list[Verdict]:
    result = []
    for a, b in pairs:
        seeds = _means(columns[a], judged) - _means(columns[b], judged) if len(columns[a]) > 1 else np.zeros(0)
        result.append(make_verdict(judged, a, b, seeds=[float(d) for d in seeds]))
    return result


def _adjusted(rows: Sequence[ComparisonRow], pairs: Sequence[tuple[str, str]]) -> list[ComparisonRow]:
    """The means' p adjusted over the comparisons: with several against one, one of them wins by chance."""
    means = {(row.a, row.b): row.p_value for row in rows if row.label == MEAN}
    adjusted = dict(zip(pairs, holm([means[p] for p in pairs]), strict=True))
    return [replace(row, p_holm=float(adjusted[row.a, row.b])) if row.label == MEAN else row for row in rows]


def _after_holm(verdict: Verdict, rows: Sequence[ComparisonRow], comparisons: int) -> Verdict:
    """A verdict that does not survive the adjustment over the comparisons is a tie."""
    row = next(r for r in rows if (r.label, r.a, r.b) == (MEAN, verdict.a, verdict.b))
    if comparisons == 1 or verdict.word not in ("helps", "hurts") or row.p_holm < ALPHA:
        return verdict
    said = f"tie after Holm's adjustment over {comparisons} comparisons (p {row.p_holm:.3f}); alone: "
    head, colon, rest = verdict.text.partition(": ")
    return replace(verdict, word="tie", text=f"{head}{colon}{said}{rest}")
