"""Cutting validation and test rows from training rows by patient, and making a training set imbalanced.

Rows of the split ``extra`` (external sets) only ever train: no cut takes them, ``imbalance`` does not drop them, and
``join_extra`` turns them into training rows when all cuts are made.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dam.data.table import EXTRA, ImageTable, counted, named
from dam.errors import UserError


def assign_splits(
    table: ImageTable, hard: np.ndarray, val_fraction: float, test_fraction: float, seed: int
) -> ImageTable:
    """Give every row a split. Rows without one are training rows; where the dataset has no test (validation) rows,
    ``test_fraction`` (then ``val_fraction``) of the training rows is cut off by patient, stratified over all labels.

    ``hard``: float (rows, labels) of 1, 0, NaN as ``labels.hard_targets`` gives. A split that the dataset has stays.
    """
    frame = table.frame.copy()
    split = frame["split"].to_numpy(dtype=object, copy=True)
    notes = []
    unassigned = split == ""
    split[unassigned] = "train"
    if unassigned.any() and not unassigned.all():
        notes.append(f"{counted(int(unassigned.sum()), 'row')} without a split counted as training")
    for name, fraction in (("test", test_fraction), ("val", val_fraction)):
        if (split == name).any() or fraction == 0:
            continue
        pool = np.flatnonzero(split == "train")
        if len(pool) == 0:
            continue
        groups, _ = pd.factorize(frame["patient"].iloc[pool])
        generator = np.random.default_rng([seed, zlib.crc32(f"split {name}".encode())])
        chosen = pool[cut_by_group(groups, hard[pool], fraction, generator)]
        split[chosen] = name
        told = _told(frame.iloc[chosen])
        notes.append(f"cut {told} from training as {name} (fraction {fraction:g})")
    frame["split"] = split.astype(str)
    return table.with_frame(frame, *notes)


def join_extra(table: ImageTable) -> ImageTable:
    """Let the rows of the split ``extra`` train. The last step on splits: nothing is cut after it."""
    split = table.frame["split"]
    extra = (split == EXTRA).to_numpy()
    if not extra.any():
        return table
    frame = table.frame.assign(split=split.mask(split == EXTRA, "train"))
    return table.with_frame(frame, f"{counted(int(extra.sum()), 'external row')} joined to training only")


def _told(rows: pd.DataFrame) -> str:
    if (rows["patient"] == rows["image"]).all():  # patients are unknown
        return counted(len(rows), "image")
    return f"{counted(len(rows), 'image')} of {counted(rows['patient'].nunique(), 'patient')}"


def cut_by_group(
    groups: np.ndarray, targets: np.ndarray, fraction: float, generator: np.random.Generator
) -> np.ndarray:
    """Choose whole groups that hold about ``fraction`` of the rows and of every label's positives and negatives.

    ``groups``: int (n,), codes 0..G-1. ``targets``: (n, K) of 1, 0, NaN. Returns bool (n,), True for chosen rows.
    Greedy: groups come in random order, those with the rarest positives and the largest first; each goes to the side
    that keeps the chi-square distance to the wanted shares smaller. Then single groups move until both sides have
    both classes of every label (where the groups allow) and the number of rows is right. Deterministic in
    ``generator``.
    """
    count = int(groups.max()) + 1
    known = ~np.isnan(targets)
    positive, negative = known & (targets >= 0.5), known & (targets < 0.5)
    rows = np.concatenate([np.ones((len(groups), 1)), positive, negative], axis=1)
    units = np.zeros((count, rows.shape[1]))
    np.add.at(units, groups, rows)
    n_labels = targets.shape[1]
    order = _order(units, n_labels, generator)
    chosen = _greedy(units, order, fraction)
    _hold_classes(units, chosen, order)
    _fit_size(units, chosen, order, fraction, n_labels)
    if count > 1 and not chosen.any():
        chosen[order[-1]] = True
    rows_chosen: np.ndarray = chosen[groups]
    return rows_chosen


def _order(units: np.ndarray, n_labels: int, generator: np.random.Generator) -> np.ndarray:
    order = generator.permutation(len(units))
    has = units[:, 1 : 1 + n_labels] > 0
    rarity = np.argsort(np.argsort(has.sum(axis=0), kind="stable"), kind="stable")  # 0 = rarest label
    rarest = np.where(has, rarity, n_labels).min(axis=1, initial=n_labels)
    return order[np.lexsort((-units[order, 0], rarest[order]))]


def _greedy(units: np.ndarray, order: np.ndarray, fraction: float) -> np.ndarray:
    weight = 1.0 / np.maximum(units.sum(axis=0), 1.0)
    surplus = np.zeros(units.shape[1])  # chosen minus wanted, over the groups seen so far
    chosen = np.zeros(len(units), dtype=bool)
    for u in order:
        unit = units[u]
        surplus -= fraction * unit
        # ||surplus + unit||^2 < ||surplus||^2 in the chi-square norm
        if np.dot(weight * unit, 2.0 * surplus + unit) < 0:
            chosen[u] = True
            surplus += unit
    return chosen


def _hold_classes(units: np.ndarray, chosen: np.ndarray, order: np.ndarray) -> None:
    """Move the smallest group that brings a missing class to a side without taking the last of any from the other."""
    for side in (True, False):
        for j in range(1, units.shape[1]):
            if units[chosen == side, j].sum() > 0:
                continue
            other = units[chosen != side].sum(axis=0)
            candidates = [u for u in order if chosen[u] != side and units[u, j] > 0]
            safe = [u for u in candidates if not ((units[u] > 0) & (other - units[u] <= 0)).any()]
            if safe:
                chosen[min(safe, key=lambda u: units[u, 0])] = side


def _fit_size(units: np.ndarray, chosen: np.ndarray, order: np.ndarray, fraction: float, n_labels: int) -> None:
    """Bring the number of rows to the wanted one by moving groups that are positive for nothing."""
    surplus = units[chosen, 0].sum() - fraction * units[:, 0].sum()
    plain = [u for u in order if not units[u, 1 : 1 + n_labels].any()]
    left = {True: units[chosen].sum(axis=0), False: units[~chosen].sum(axis=0)}
    for u in plain:
        source = bool(surplus > 0)
        if chosen[u] != source or abs(surplus + (-1 if source else 1) * units[u, 0]) >= abs(surplus):
            continue
        if ((units[u] > 0) & (left[source] - units[u] <= 0)).any():
            continue
        chosen[u] = not source
        left[source] = left[source] - units[u]
        left[not source] = left[not source] + units[u]
        surplus += -units[u, 0] if source else units[u, 0]


def imbalance(table: ImageTable, imratio: float, seed: int) -> ImageTable:
    """Drop training positives until they are ``imratio`` = positives / all of the training rows.

    The algorithm and the random stream of LibAUC 2.0.1's ``ImbalancedDataGenerator``: the same rows as there for the
    same seed, when training rows come in the files' order. Validation, test and extra rows stay; .5 removes nothing.
    Rows keep their order. Raises ``UserError`` for several labels, and where there are too few positives to reach it.
    """
    if len(table.labels) != 1:
        raise UserError(
            f"data.imratio={imratio:g} works on one label, but the table has {len(table.labels)} "
            f"({named(table.labels, 5)}): choose one with data.labels=[...], or set data.imratio=null."
        )
    training = np.flatnonzero(table.frame["split"].isin(["train", ""]).to_numpy())
    target = table.targets(training)[:, 0]
    certain = (target >= 0) & (target <= 1)
    unsure = int((~certain).sum())
    kept = imbalanced_indices(target[certain] >= 0.5, imratio, seed, table.labels[0])
    keep = np.ones(len(table), dtype=bool)
    keep[training] = ~certain
    keep[training[certain][kept]] = True
    dropped = len(table) - int(keep.sum())
    positives = int((target[certain][kept] >= 0.5).sum())
    note = (
        f"imratio {imratio:g}: dropped {counted(dropped, 'positive training row')}; {positives} of {len(kept)} "
        f"are positive ({positives / max(len(kept), 1):.2%})"
    )
    extra = f"imratio: {counted(unsure, 'training row')} with an uncertain or blank label not counted" if unsure else ""
    return table.with_frame(table.frame[keep], note, extra)


def imbalanced_indices(positive: Sequence[bool] | np.ndarray, imratio: float, seed: int, label: str = "") -> np.ndarray:
    """Indices into ``positive`` (bool (n,)) of the samples that LibAUC 2.0.1 keeps, int64, in its order.

    Permute all; keep all negatives, then the first int(imratio / (1 - imratio) * negatives) positives; permute.
    """
    positive = np.asarray(positive, dtype=bool)
    # The published split comes from numpy's legacy generator, seeded twice with the same number.
    order = np.random.RandomState(seed).permutation(len(positive))
    if imratio < 0.5:
        shuffled = positive[order]
        negatives, positives = order[~shuffled], order[shuffled]
        wanted = int(imratio / (1 - imratio) * len(negatives))
        if wanted > len(positives):
            share = len(positives) / len(positive)
            raise UserError(
                f"data.imratio={imratio:g} asks for {wanted} positives of {label!r} beside {len(negatives)} negatives, "
                f"but training has {len(positives)} ({share:.2%}): positives can only be dropped, "
                f"so set data.imratio to less than {share:.4g}, or to null."
            )
        if wanted == 0:
            raise UserError(
                f"data.imratio={imratio:g} leaves no positive of {label!r} beside {len(negatives)} negatives: raise it."
            )
        order = np.concatenate([negatives, positives[:wanted]])
    return order[np.random.RandomState(seed).permutation(len(order))]
