from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dam.data.splits import assign_splits, cut_by_group, imbalance, imbalanced_indices
from dam.data.table import ImageTable
from dam.errors import UserError


def make(groups: np.ndarray, targets: np.ndarray, split: str | list[str] = "") -> ImageTable:
    n, k = targets.shape
    frame = pd.DataFrame({"image": [str(i) for i in range(n)], "patient": [f"p{g}" for g in groups]})
    frame["study"] = frame["image"]
    frame["split"] = split
    labels = tuple("ABCDEFGH"[:k])
    frame[list(labels)] = targets
    return ImageTable(frame, labels, Path(), "toy")


def patients(seed: int = 0, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Groups of 1 to 5 rows and three labels, 30, 10 and 3 % positive, equal within a patient for the first."""
    g = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), g.integers(1, 6, n))
    sick = g.uniform(size=n) < 0.3
    rows = len(groups)
    targets = np.stack([sick[groups], g.uniform(size=rows) < 0.1, g.uniform(size=rows) < 0.03], 1).astype(float)
    targets[g.uniform(size=targets.shape) < 0.05] = np.nan
    return groups, targets


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_a_cut_keeps_patients_whole_and_labels_in_proportion(seed: int, fraction: float) -> None:
    groups, targets = patients(seed)
    chosen = cut_by_group(groups, targets, fraction, np.random.default_rng(seed))
    assert not set(groups[chosen]) & set(groups[~chosen])
    assert abs(chosen.sum() - fraction * len(groups)) <= 1
    for k in range(3):
        for value in (0.0, 1.0):
            total, got = (targets[:, k] == value).sum(), (targets[chosen, k] == value).sum()
            assert abs(got - fraction * total) <= max(2.0, 0.1 * fraction * total)


def test_single_images_are_cut_exactly() -> None:
    targets = (np.arange(1000) % 10 == 0).astype(float)[:, None]
    chosen = cut_by_group(np.arange(1000), targets, 0.2, np.random.default_rng(0))
    assert chosen.sum() == 200 and targets[chosen].sum() == 20


def test_both_classes_reach_both_sides_where_two_patients_have_them() -> None:
    for seed in range(20):
        g = np.random.default_rng(seed)
        groups = np.repeat(np.arange(40), 2)
        targets = np.zeros((80, 4))
        for k in range(4):  # two patients each
            targets[np.isin(groups, g.choice(40, 2, replace=False)), k] = 1
        chosen = cut_by_group(groups, targets, 0.1, np.random.default_rng(seed))
        assert (targets[chosen].sum(0) > 0).all() and (targets[~chosen].sum(0) > 0).all()


def test_splits_are_functions_of_the_seed() -> None:
    groups, targets = patients()
    table = make(groups, targets)
    first, again = (assign_splits(table, targets, 0.2, 0.2, 3).frame["split"].tolist() for _ in range(2))
    assert first == again
    assert first != assign_splits(table, targets, 0.2, 0.2, 4).frame["split"].tolist()


def test_test_is_cut_first_and_noted() -> None:
    groups, targets = patients()
    table = assign_splits(make(groups, targets), targets, 0.25, 0.2, 0)
    n = len(groups)
    assert abs(len(table.split("test")) - 0.2 * n) <= 1 and abs(len(table.split("val")) - 0.25 * 0.8 * n) <= 1.5
    assert table.frame.groupby("patient")["split"].nunique().max() == 1
    assert "as test (fraction 0.2)" in table.notes[0] and "as val (fraction 0.25)" in table.notes[1]


def test_splits_of_the_dataset_stay() -> None:
    groups, targets = patients()
    given = np.where(groups % 3 == 0, "test", "train").tolist()
    table = assign_splits(make(groups, targets, given), targets, 0.2, 0.5, 0)
    assert [a for a, b in zip(table.frame["split"], given, strict=True) if b == "test"] == ["test"] * given.count(
        "test"
    )
    assert len(table.split("val")) > 0
    alone = assign_splits(make(groups, targets, given), targets, 0.0, 0.5, 0)
    assert len(alone.split("val")) == 0


def test_a_large_table_is_split_in_seconds() -> None:
    groups, targets = patients(0, 64000)
    start = time.process_time()
    assign_splits(make(groups, targets), targets, 0.1, 0.0, 0)
    assert time.process_time() - start < 10


# ---------------------------------------------------------------- imratio


def test_imbalance_is_libaucs() -> None:
    positive = np.arange(2000) % 10 >= 5
    kept = imbalanced_indices(positive, 0.1, 0)
    assert (~positive[kept]).sum() == 1000 and positive[kept].sum() == int(0.1 / 0.9 * 1000)
    # written out once more, with numpy's global functions as LibAUC uses them
    np.random.seed(0)  # noqa: NPY002
    order = np.random.permutation(2000)  # noqa: NPY002
    shuffled = positive[order]
    wanted = np.concatenate([order[~shuffled], order[shuffled][:111]])
    np.random.seed(0)  # noqa: NPY002
    assert kept.tolist() == wanted[np.random.permutation(len(wanted))].tolist()  # noqa: NPY002
    assert sorted(imbalanced_indices(positive, 0.5, 0)) == list(range(2000))


def test_imbalance_touches_training_rows_only() -> None:
    targets = (np.arange(400) % 2).astype(float)[:, None]
    table = make(np.arange(400), targets, ["train"] * 300 + ["test"] * 100)
    thin = imbalance(table, 0.1, 0)
    assert len(thin.split("test")) == 100
    counts = thin.counts().set_index("split")
    assert counts.loc["train", ["positives", "negatives"]].tolist() == [16, 150]
    assert "16 of 166 are positive (9.64%)" in thin.notes[0]
    assert thin.frame["image"].astype(int).is_monotonic_increasing


def test_imbalance_refusals() -> None:
    one = (np.arange(100) % 10 == 0).astype(float)[:, None]
    with pytest.raises(UserError, match=r"works on one label, but the table has 2 \(A, B\)"):
        imbalance(make(np.arange(100), np.hstack([one, one])), 0.1, 0)
    with pytest.raises(UserError, match=r"asks for 22 positives of 'A' beside 90 negatives, but training has 10"):
        imbalance(make(np.arange(100), one), 0.2, 0)
    with pytest.raises(UserError, match="leaves no positive"):
        imbalance(make(np.arange(100), one), 0.001, 0)


@pytest.mark.real_data
@pytest.mark.skipif("DAM_REAL_DATA" not in os.environ, reason="DAM_REAL_DATA names no folder of data packs")
def test_golden_indices_on_cifar10() -> None:
    from real_data import cifar10_folder

    from dam.data.datasets.cifar_pickle import load_batch

    folder = cifar10_folder()
    classes = np.concatenate([load_batch(folder / f"data_batch_{i}")["labels"] for i in range(1, 6)])
    for imratio, first, positives in (
        (0.01, [22382, 23377, 27338, 45683, 47004], 252),
        (0.1, [42384, 47365, 255, 27865, 7952], 2777),
        (0.5, [25957, 19386, 31501, 35365, 36753], 25000),
    ):
        kept = imbalanced_indices(classes >= 5, imratio, 0)
        assert kept[:5].tolist() == first
        assert (classes[kept] >= 5).sum() == positives
