"""Cross-validation: folds of whole patients, balanced over all labels, or along the dataset's own groups."""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np
import pandas as pd

from dam.data.table import ImageTable, counted, named
from dam.errors import UserError

GROUP_COLUMN = "fold_group"  # metadata: the dataset's own leak-free groups (numbers, blank where a row has none)
FOLD_COLUMN = "fold"  # metadata that `data.fold=all` adds


def pool_validation(table: ImageTable) -> ImageTable:
    """Validation rows that the dataset names itself become training rows: the folds are cut from both together."""
    split = table.frame["split"]
    given = (split == "val").to_numpy()
    if not given.any():
        return table
    frame = table.frame.assign(split=split.mask(split == "val", "train"))
    return table.with_frame(frame, f"folds: the dataset's own {counted(int(given.sum()), 'validation row')} pooled")


def assign_folds(
    table: ImageTable,
    hard: np.ndarray,
    folds: int,
    fold: int | Literal["all"],
    seed: int,
    leakage: Literal["refuse", "allow"] = "refuse",
) -> ImageTable:
    """Make fold number ``fold`` of the training rows the validation split; with ``all`` none is, and the metadata
    column ``fold`` says where each row will be.

    Call it after test was cut. Rows of other splits (test, extra) stay. ``hard``: float (rows, labels) of 1, 0, NaN.
    A function of the table and ``seed``; ``fold`` only chooses. Raises ``UserError``.
    """
    pool = table.split("train")
    frame = table.frame.copy()
    patients, _ = pd.factorize(frame["patient"].iloc[pool])
    groups = _own_groups(frame, pool)
    if groups is None:
        generator = np.random.default_rng([seed, zlib.crc32(b"folds")])
        numbers = balanced_folds(_checked(patients, folds, "patients"), hard[pool], folds, generator)
        how = f"{folds} folds of whole patients, balanced over the labels"
    else:
        units = _checked(_with_patients(groups, patients), folds, "groups")
        numbers = _blocks(units, hard[pool], folds, len(np.unique(groups[groups >= 0])))
        how = f"{folds} folds along the dataset's {len(np.unique(groups[groups >= 0]))} groups"
        _check_patients(frame["patient"].iloc[pool].to_numpy(), numbers, leakage)
    sizes = np.bincount(numbers, minlength=folds)
    note = f"{how} ({', '.join(map(str, sizes))} images); data.val_fraction is not used"
    if fold == "all":
        if FOLD_COLUMN in table.labels:
            raise UserError("no label may be called fold with data.fold=all; rename it")
        column = np.full(len(frame), "", dtype=object)
        column[pool] = [str(number) for number in numbers]
        return table.with_frame(frame.assign(**{FOLD_COLUMN: column.astype(str)}), note)
    split = frame["split"].to_numpy(dtype=object, copy=True)
    split[pool[numbers == fold]] = "val"
    return table.with_frame(frame.assign(split=split.astype(str)), f"{note}; fold {fold} is validation")


def balanced_folds(groups: np.ndarray, targets: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """A fold 0..folds-1 for every row, int64 (n,), equal within a group.

    ``groups``: int (n,), codes 0..G-1. ``targets``: (n, K) of 1, 0, NaN. Groups come with their rarest class first,
    then the largest, else in random order. Each goes where its rarest class is scarcest; ties, and groups without a
    rare class, go where rows and all classes lie least (chi-square weights). So every fold gets a class that enough
    groups have. After iterative stratification (Sechidis et al. 2011), with whole groups instead of rows.
    """
    count = int(groups.max()) + 1
    known = ~np.isnan(targets)
    columns = [np.ones((len(groups), 1)), known & (targets >= 0.5), known & (targets < 0.5)]
    units = np.zeros((count, 1 + 2 * targets.shape[1]))
    np.add.at(units, groups, np.concatenate(columns, axis=1))
    owners = (units > 0).sum(axis=0)
    owners[0] = count
    rare = 2 * owners < count
    rank = np.argsort(np.argsort(np.where(rare, owners, count + 1), kind="stable"), kind="stable")
    common = units.shape[1]
    rarest = np.where((units > 0) & rare, rank, common).min(axis=1)
    column_of = np.append(np.argsort(rank, kind="stable"), -1)
    order = generator.permutation(count)
    order = order[np.lexsort((-units[order, 0], rarest[order]))]
    weight = 1.0 / np.maximum(units.sum(axis=0), 1.0)
    loads = np.zeros((folds, units.shape[1]))
    chosen = np.zeros(count, dtype=np.int64)
    for u in order.tolist():
        burden = loads @ (weight * units[u])
        if rarest[u] != common:
            scarce = loads[:, column_of[rarest[u]]]
            burden = np.where(scarce == scarce.min(), burden, np.inf)
        best = int(np.argmin(burden))
        chosen[u] = best
        loads[best] += units[u]
    rows: np.ndarray = chosen[groups]
    return rows


# ---------------------------------------------------------------- the dataset's own groups


def _own_groups(frame: pd.DataFrame, pool: np.ndarray) -> np.ndarray | None:
    """Group codes 0.. in ascending order of the column (-1 blank), or None where the dataset has none."""
    if GROUP_COLUMN not in frame.columns:
        return None
    values = frame[GROUP_COLUMN].iloc[pool]
    numbers = pd.to_numeric(values, errors="coerce")
    known = numbers.notna() & (numbers >= 0)
    if not known.any():
        return None
    codes, _ = pd.factorize(numbers.where(known), sort=True)
    found: np.ndarray = codes.astype(np.int64)
    return found


def _with_patients(groups: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """A row without a group belongs to its patient's; a patient without any is a unit of its own, after the groups."""
    units = groups.copy()
    group_of = np.full(int(patients.max()) + 1, -1)
    known = groups >= 0
    group_of[patients[known][::-1]] = groups[known][::-1]
    units[~known] = group_of[patients[~known]]
    alone = units < 0
    codes, _ = pd.factorize(patients[alone])
    units[alone] = groups.max() + 1 + codes
    return units


def _blocks(units: np.ndarray, targets: np.ndarray, folds: int, groups: int) -> np.ndarray:
    """Contiguous blocks of groups where their number allows (15 groups: i // 3), otherwise whole groups balanced."""
    generator = np.random.default_rng(0)  # no seed moves the dataset's own folds
    if groups % folds:
        return balanced_folds(units, targets, folds, generator)
    numbers = np.asarray(units // (groups // folds), dtype=np.int64)
    alone = units >= groups
    if alone.any():
        numbers[alone] = balanced_folds(units[alone] - groups, targets[alone], folds, generator)
    return numbers


def _checked(units: np.ndarray, folds: int, what: str) -> np.ndarray:
    count = int(units.max()) + 1 if len(units) else 0
    if count < folds:
        raise UserError(f"data.folds={folds} needs as many {what}, and the training rows have {count}: lower it")
    return units


def _check_patients(patients: np.ndarray, numbers: np.ndarray, leakage: str) -> None:
    pairs = pd.DataFrame({"patient": patients, "fold": numbers}).drop_duplicates()
    shared = pairs["patient"][pairs["patient"].duplicated()].unique().tolist()
    if shared and leakage == "refuse":
        raise UserError(
            f"{counted(len(shared), 'patient')} of the dataset's own folds ({GROUP_COLUMN}) "
            f"{'is' if len(shared) == 1 else 'are'} in more than one: {named(shared, 5)}; correct the column, "
            "or accept it with data.leakage=allow"
        )
