from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dam.data import fingerprint
from dam.data.table import ImageTable, check, check_rows
from dam.errors import UserError


def make(tmp_path: Path, n: int = 12, files: bool = True, **columns: object) -> ImageTable:
    names = [f"{i}.png" for i in range(n)]
    if files:
        for name in names:
            (tmp_path / name).touch()
    frame = pd.DataFrame(
        {
            "image": names,
            "patient": [f"p{i}" for i in range(n)],
            "study": names,
            "split": (["train", "val", "test"] * n)[:n],
            "A": [float(i // 3 % 2) for i in range(n)],
            "sex": "F",
        }
    )
    for name, values in columns.items():
        frame[name] = values
    return ImageTable(frame, ("A",), tmp_path, "toy")


def test_a_sound_table_passes(tmp_path: Path) -> None:
    table = check(check_rows(make(tmp_path)))
    assert table.notes == ()
    assert table.metadata == ("sex",)
    assert table.split("val").tolist() == [1, 4, 7, 10]
    targets = table.targets(np.array([0, 3]))
    assert targets.dtype == np.float32 and targets.tolist() == [[0.0], [1.0]]


def test_counts_tell_positives_unknown_and_imratio(tmp_path: Path) -> None:
    counts = make(tmp_path, A=[1, 0, 0, 0, 1, 1, np.nan, 0, 0, -1, 0, 0]).counts().set_index("split")
    assert counts.loc["train", ["n", "positives", "negatives", "unknown"]].tolist() == [4, 1, 1, 2]
    assert counts.loc["train", "imratio"] == 0.5
    assert counts.loc["val", "imratio"] == 0.25


def test_missing_files_are_counted_and_ten_named(tmp_path: Path) -> None:
    table = make(tmp_path, 16)
    for i in range(12):
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(UserError, match=r"12 of the 16 images .* 0\.png, .*, 9\.png and 2 more.*on_bad_image=skip"):
        check_rows(table)
    kept = check_rows(table, on_missing="skip")
    assert len(kept) == 4 and "left out 12 rows" in kept.notes[0]


@pytest.mark.parametrize("on_missing", ["refuse", "skip"])
def test_no_file_at_all_means_a_wrong_root(tmp_path: Path, on_missing: str) -> None:
    with pytest.raises(UserError, match=r"None of the 12 images .*data\.root is probably another folder"):
        check_rows(make(tmp_path, files=False), on_missing=on_missing)  # type: ignore[arg-type]


def test_items_of_a_container_need_the_container(tmp_path: Path) -> None:
    (tmp_path / "batch").touch()
    table = make(tmp_path, image=[f"batch::{i}" for i in range(12)])
    assert len(check_rows(table)) == 12


def test_repeated_rows_are_refused_by_row(tmp_path: Path) -> None:
    table = make(tmp_path)
    table.frame.loc[5, "image"] = "2.png"
    with pytest.raises(UserError, match=r"1 row .*2\.png is in the data rows 3, 6"):
        check_rows(table)


@pytest.mark.parametrize("value", [2.0, -0.5, -2.0])
def test_out_of_range_targets_are_refused(tmp_path: Path, value: float) -> None:
    table = make(tmp_path)
    table.frame.loc[4, "A"] = value
    with pytest.raises(UserError, match=rf"'A' is {value:g} for 4\.png \(data row 5"):
        check_rows(table)
    with pytest.raises(UserError, match=r"outside \[0, 1\]"):
        check(table)


def test_labels_of_minus_one_and_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds only -1 and 1; -1 means uncertain"):
        check_rows(make(tmp_path, A=[-1.0, 1.0] * 6))


def test_uncertain_left_over_is_refused(tmp_path: Path) -> None:
    table = make(tmp_path)
    table.frame.loc[0, "A"] = -1.0
    with pytest.raises(UserError, match=r"outside \[0, 1\]: choose a policy with data\.uncertain"):
        check(table)


def test_one_patient_in_two_splits(tmp_path: Path) -> None:
    table = make(tmp_path)
    table.frame.loc[0, "patient"] = "p2"
    with pytest.raises(UserError, match=r"1 patient is in more than one split: p2 \(p2 is in train and test\)"):
        check(table)
    assert "1 patient is in more than one split" in check(table, leakage="allow").notes[0]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_label_without_both_classes_is_named(tmp_path: Path, split: str) -> None:
    table = make(tmp_path)
    table.frame.loc[table.frame["split"] == split, "A"] = 0.0
    with pytest.raises(UserError, match=rf"label 'A' has no positive in {split} \(4 images\)"):
        check(table)


def test_a_label_without_positives_anywhere_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"label 'A' has no positive at all \(12 images\)\. Check its column"):
        check(make(tmp_path, A=[0.0] * 12))
    with pytest.raises(UserError, match=r"label 'A' has no negative at all"):
        check(make(tmp_path, A=[1.0] * 12))
    with pytest.raises(UserError, match=r"no rows in the split 'val': it has 1 patient, each in one split"):
        check(make(tmp_path, split="train", patient="p"))


def test_in_test_it_is_only_noted(tmp_path: Path) -> None:
    table = make(tmp_path)
    table.frame.loc[table.frame["split"] == "test", "A"] = 1.0
    assert check(table).notes == ("label 'A' has no negative in test (4 images): its test AUC is undefined",)


def test_empty_splits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no rows in the split 'val': set data\.val_fraction"):
        check(make(tmp_path, split=["train", "test"] * 6))
    with pytest.raises(UserError, match="no rows in the split 'train'"):
        check(make(tmp_path, split=["val", "test"] * 6))
    assert "no test rows" in check(make(tmp_path, split=["train", "val", "val"] * 4)).notes[0]


def test_no_label_and_no_rows(tmp_path: Path) -> None:
    table = make(tmp_path)
    with pytest.raises(UserError, match=r"no label column; its columns are image, .*data\.labels"):
        check_rows(ImageTable(table.frame, (), tmp_path, "toy"))
    with pytest.raises(UserError, match="No image was found"):
        check_rows(table.with_frame(table.frame.iloc[:0]))


def test_fingerprint_changes_with_labels_and_splits_only(tmp_path: Path) -> None:
    table = make(tmp_path)
    first = fingerprint(table)
    assert first["imratio"]["train"]["A"] == 0.5
    assert first["sizes"]["test"] == {"images": 4, "patients": 4, "studies": 4}
    other = table.frame.copy()
    other["sex"] = "M"
    assert fingerprint(table.with_frame(other)) == first
    other.loc[0, "A"] = 1.0
    second = fingerprint(table.with_frame(other))
    assert second["labels_sha256"] != first["labels_sha256"] and second["images_sha256"] == first["images_sha256"]
    other.loc[0, "split"] = "val"
    assert fingerprint(table.with_frame(other))["images_sha256"] != first["images_sha256"]
