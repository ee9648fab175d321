"""Folds: whole patients, balanced over labels, the dataset's own groups; external rows; a whole run of all folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_configs import data_config
from hypothesis import given, strategies as st

from dam.compose import compose
from dam.data import load_table
from dam.data.folds import assign_folds, balanced_folds, pool_validation
from dam.data.splits import assign_splits, imbalance, join_extra
from dam.data.table import ImageTable, check
from dam.errors import UserError
from dam.schema import ConfigError


def make(targets: np.ndarray, patients: list[str], split: str | list[str] = "train", **more: object) -> ImageTable:
    n = len(targets)
    frame = pd.DataFrame({"image": [f"i{i}" for i in range(n)], "patient": patients})
    frame["study"], frame["split"] = frame["image"], split
    labels = tuple("ABCDEFGH"[: targets.shape[1]])
    frame[list(labels)] = targets
    return ImageTable(frame.assign(**more), labels, Path(), "toy")


# ---------------------------------------------------------------- whole patients, balanced


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(1, 4), st.integers(10, 120))
def test_folds_are_whole_patients_and_every_one_gets_each_class_that_enough_patients_have(seed, folds, labels, n):
    g = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), g.integers(1, 6, n))
    rate = g.uniform(0.03, 0.6, labels)
    targets = (g.uniform(size=(len(groups), labels)) < rate).astype(float)
    targets[g.uniform(size=targets.shape) < 0.05] = np.nan
    numbers = balanced_folds(groups, targets, folds, np.random.default_rng(seed))
    assert set(numbers) <= set(range(folds))
    assert all(len(set(numbers[groups == u])) == 1 for u in range(n))
    assert np.array_equal(numbers, balanced_folds(groups, targets, folds, np.random.default_rng(seed)))
    # The rarest class: of single-label tables every fold has one where as many patients do.
    if labels == 1:
        rare = 1.0 if np.nanmean(targets) < 0.5 else 0.0
        has = np.unique(groups[targets[:, 0] == rare])
        if folds <= len(has) < n / 2:
            assert {int(k) for k in numbers[targets[:, 0] == rare]} == set(range(folds))


def test_folds_are_balanced_in_rows_and_in_several_labels() -> None:
    g = np.random.default_rng(0)
    groups = np.repeat(np.arange(2000), g.integers(1, 6, 2000))
    sick = g.uniform(size=2000) < 0.3
    n = len(groups)
    columns = [sick[groups], g.uniform(size=n) < 0.1, g.uniform(size=n) < 0.02]
    targets = np.stack(columns, axis=1).astype(float)
    numbers = balanced_folds(groups, targets, 5, np.random.default_rng(1))
    sizes = np.bincount(numbers)
    assert np.abs(sizes - n / 5).max() <= 3
    for k in range(2):
        positives = np.bincount(numbers, weights=targets[:, k])
        assert np.abs(positives - positives.mean()).max() <= max(2, 0.05 * positives.mean())


def test_the_fold_only_chooses_and_each_row_is_validated_once() -> None:
    g = np.random.default_rng(3)
    patients = [f"p{i}" for i in g.integers(0, 40, 200)]
    targets = (g.uniform(size=(200, 2)) < 0.3).astype(float)
    split = ["test"] * 20 + ["extra"] * 10 + ["train"] * 170
    patients[:30] = [f"q{i}" for i in range(30)]
    table = make(targets, patients, split)
    seen = []
    for fold in range(5):
        cut = assign_folds(table, targets, 5, fold, seed=0)
        seen += cut.split("val").tolist()
        assert list(cut.frame["split"][:30]) == split[:30]
        assert not set(cut.frame["patient"][cut.split("val")]) & set(cut.frame["patient"][cut.split("train")])
        assert f"fold {fold} is validation" in cut.notes[-1]
    assert sorted(seen) == list(range(30, 200))
    every = assign_folds(table, targets, 5, "all", seed=0)
    assert [int(k) for k in every.frame["fold"][seen[:5]]] == [0] * 5
    assert set(every.frame["fold"][:30]) == {""} and not len(every.split("val"))
    other = assign_folds(table, targets, 5, 0, seed=1)
    assert set(other.split("val")) != set(assign_folds(table, targets, 5, 0, seed=0).split("val"))


def test_too_few_patients_are_told() -> None:
    with pytest.raises(UserError, match=r"data.folds=5 needs as many patients, and the training rows have 3"):
        assign_folds(make(np.eye(3)[:, :1], ["a", "b", "c"]), np.eye(3)[:, :1], 5, 0, 0)


# ---------------------------------------------------------------- the dataset's own groups


def grouped(groups: list[float], patients: list[str] | None = None) -> ImageTable:
    n = len(groups)
    targets = (np.arange(n) % 2).astype(float)[:, None]
    return make(targets, patients or [f"p{i}" for i in range(n)], fold_group=groups)


def folds_of(table: ImageTable, folds: int, leakage: str = "refuse") -> list[int]:
    every = assign_folds(table, table.targets().astype(float), folds, "all", 0, leakage)  # type: ignore[arg-type]
    return [int(k) for k in every.frame["fold"]]


def test_own_groups_become_contiguous_blocks() -> None:
    groups = [float(i % 15) for i in range(60)]
    assert folds_of(grouped(groups), 5) == [int(g) // 3 for g in groups]
    assert folds_of(grouped(groups), 15) == [int(g) for g in groups]


def test_own_groups_stay_whole_where_they_do_not_divide() -> None:
    groups = [float(i % 15) for i in range(60)]
    numbers = folds_of(grouped(groups), 4)
    assert all(len({k for k, g in zip(numbers, groups, strict=True) if g == group}) == 1 for group in set(groups))
    assert sorted(np.bincount(numbers).tolist()) == [12, 16, 16, 16]


def test_a_row_without_a_group_goes_with_its_patient() -> None:
    groups = [*(float(i % 15) for i in range(60)), -1.0, float("nan")]
    patients = [*(f"p{i}" for i in range(60)), "p7", "alone"]
    numbers = folds_of(grouped(groups, patients), 5)
    assert numbers[60] == 7 // 3 and 0 <= numbers[61] < 5


def test_own_groups_that_share_a_patient_are_refused() -> None:
    table = grouped([float(i % 15) for i in range(30)], ["p0", *(f"p{i % 20}" for i in range(29))])
    with pytest.raises(UserError, match=r"own folds \(fold_group\) .* more than one"):
        folds_of(table, 5)
    assert len(folds_of(table, 5, "allow")) == 30


# ---------------------------------------------------------------- tables and external rows


def test_the_phantom_in_folds_ignores_val_fraction_and_pools_official_validation() -> None:
    cfg = data_config("phantom", patients=60, phantom_size=32, labels=["Edema"], folds=4, fold=2, val_fraction=0.9)
    table = load_table(cfg)
    assert any("data.val_fraction is not used" in note and "fold 2 is validation" in note for note in table.notes)
    share = len(table.split("val")) / (len(table.split("val")) + len(table.split("train")))
    assert share == pytest.approx(0.25, abs=0.03)
    pooled = pool_validation(make(np.eye(4)[:, :1], list("abcd"), ["train", "val", "val", "test"]))
    assert list(pooled.frame["split"]) == ["train", "train", "train", "test"]
    assert "2 validation rows pooled" in pooled.notes[0]


def test_the_official_validation_rows_of_a_table_are_in_the_folds(tmp_path: Path) -> None:
    for i in range(16):
        (tmp_path / f"{i}.png").touch()
    rows = [f"{i}.png,p{i},{i % 2},{('train', 'val', 'test', 'train')[i // 4]}" for i in range(16)]
    (tmp_path / "t.csv").write_text("\n".join(["image,patient,A,split", *rows]) + "\n")
    words = {"root": str(tmp_path), "csv": str(tmp_path / "t.csv"), "labels": ["A"], "folds": 3}
    seen = [load_table(data_config("csv", fold=fold, **words)) for fold in range(3)]
    validated = [image for table in seen for image in table.frame["image"].to_numpy()[table.split("val")]]
    assert sorted(validated) == sorted(f"{i}.png" for i in (*range(8), *range(12, 16)))
    assert all(list(table.split("test")) == [8, 9, 10, 11] for table in seen)


def test_extra_rows_only_train_and_are_never_cut_moved_or_dropped() -> None:
    g = np.random.default_rng(0)
    targets = (np.arange(300) % 3 == 0).astype(float)[:, None]
    split = np.where(np.arange(300) < 100, "extra", "")
    table = make(targets, [f"p{i}" for i in range(300)], split.tolist())
    hard = table.targets().astype(float)
    cut = assign_splits(table, hard, 0.2, 0.2, seed=int(g.integers(10)))
    thin = imbalance(cut, 0.1, 0)
    assert (thin.frame["split"] == "extra").sum() == 100
    training = thin.frame[thin.frame["split"] == "train"]
    assert training["A"].mean() == pytest.approx(0.1, abs=0.02)
    joined = join_extra(thin)
    assert "100 external rows joined to training only" in joined.notes[-1]
    assert set(joined.frame["split"]) == {"train", "val", "test"}
    assert (joined.frame["split"][:100] == "train").all()


def test_check_counts_extra_rows_as_training() -> None:
    targets = np.tile([[0.0], [1.0]], (4, 1))
    split = ["train", "train", "val", "val", "test", "test", "extra", "extra"]
    patients = ["a", "a", "b", "b", "c", "c", "a", "d"]
    assert len(check(make(targets, patients, split))) == 8
    with pytest.raises(UserError, match="more than one split: b"):
        check(make(targets, ["a", "a", "b", "b", "c", "c", "b", "d"], split))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.fold=0"], "data.fold=0 needs the number of folds: data.folds=5"),
        (["data.folds=5"], "say which fold is validation"),
        (["data.folds=5", "data.fold=5"], "data.fold=5 does not exist: the 5 folds are counted from 0 to 4"),
    ],
)
def test_impossible_folds_are_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compose(words)


def test_more_folds_than_positives_name_the_key_to_lower() -> None:
    cfg = data_config("phantom", patients=60, phantom_size=32, labels=["Edema"], folds=30, fold=29)
    with pytest.raises(UserError, match=r"no positive in val .* or fewer data.folds"):
        load_table(cfg)
