"""The predictions table: what is read is what was written, bad tables are named, units are merged as said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dam.errors import UserError
from dam.evaluation.judge import judge
from dam.evaluation.predictions import (
    Predictions,
    make_predictions,
    merge_units,
    read_predictions,
    write_predictions,
)

HEADER = "image,patient,study,label,target,ce,auc\n"


def make(n: int = 6, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (n, 2)).astype(float)
    targets[0, 1] = np.nan
    scores = {m: rng.normal(size=(n, 2)) * 10.0 ** rng.integers(-12, 12, (n, 2)) for m in ("ce", "auc")}
    patients = [f"{i // 2:03d}" for i in range(n)]
    return make_predictions([f"f/{i}.png" for i in range(n)], ("No Finding", "b,c"), targets, scores, patients)


def test_round_trip_keeps_every_bit_and_every_name(tmp_path: Path) -> None:
    table = make(50)
    write_predictions(tmp_path / "val.csv", table)
    again = read_predictions(tmp_path / "val.csv")
    assert again.labels == table.labels and again.models == ("ce", "auc")
    assert list(again.patients) == list(table.patients) and again.patients[0] == "000"
    np.testing.assert_array_equal(again.targets, table.targets)
    for model in table.models:
        np.testing.assert_array_equal(again.scores[model], table.scores[model])
    text = (tmp_path / "val.csv").read_text()
    assert text.startswith(HEADER) and "f/0.png,000,,No Finding," in text and '"b,c",,' in text
    assert not list(tmp_path.glob(".*"))


def test_names_that_look_like_missing_values_are_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image,patient,study,label,target,m\nNA,NULL,nan,None,1,0.5\n0017,1.0,,None,0,0.25\n")
    table = read_predictions(path)
    assert list(table.images) == ["NA", "0017"] and list(table.patients) == ["NULL", "1.0"]
    assert list(table.studies) == ["nan", ""] and table.labels == ("None",)


def test_a_model_may_lack_a_whole_label(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "a,,,X,1,.5,.5\na,,,Y,0,.5,\nb,,,X,0,.1,.2\nb,,,Y,1,.7,\n")
    table = read_predictions(path)
    assert np.isnan(table.scores["auc"][:, 1]).all() and not np.isnan(table.scores["auc"][:, 0]).any()
    rows = {(r.label, r.model): r for r in judge(merge_units(table)).aucs}
    assert rows["Y", "auc"].interval == "no scores" and rows["mean", "ce"].auc == rows["X", "ce"].auc


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,label,target,m\na,X,1,.5\n", "no column patient, study"),
        ("image,patient,study,label,target\na,,,X,1\n", "no score column"),
        (HEADER, "no rows"),
        (HEADER + "a,,,X,1,.5,.5\nb,,,X,0,nan,.5\n", "line 3, column ce: nan is no finite number (image b, label X)"),
        (HEADER + "a,,,X,1,.5,.5\nb,,,X,0,.5,inf\n", "line 3, column auc: inf is no finite number"),
        (HEADER + "a,,,X,1,.5,.5\nb,,,X,0,high,.5\n", "line 3, column ce: high is no finite number"),
        (HEADER + "a,,,X,1,.5,.5\nb,,,X,0,,.5\n", "line 3, column ce: image b has no score"),
        (HEADER + "a,,,X,1,.5,\nb,,,X,0,.5,\n", "column auc holds no score at all"),
        (HEADER + "a,,,X,2,.5,.5\n", "line 2: target 2 of image a"),
        (HEADER + "a,,,X,0.5,.5,.5\n", "line 2: target 0.5 of image a"),
        (HEADER + "a,,,X,yes,.5,.5\n", "line 2, column target: yes is no finite number"),
        (HEADER + "a,,,X,1,.5,.5\nb,,,X,0,.5,.5\na,,,X,1,.5,.5\n", "line 4: image a and label X come a second time"),
        (HEADER + "a,p,,X,1,.5,.5\na,q,,Y,0,.5,.5\n", "line 3: image a belongs to two values of patient"),
        (HEADER + ",p,,X,1,.5,.5\n", "line 2: the image is blank"),
        (HEADER + "a,p,,mean,1,.5,.5\n", 'no label may be called "mean"'),
        ("", "cannot be read"),
    ],
)
def test_a_bad_table_is_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_predictions(path)
    assert says in str(caught.value) and "bad.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_wrong_shapes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no predictions file"):
        read_predictions(tmp_path / "no.csv")
    with pytest.raises(ValueError, match="scores of m"):
        make().with_scores("m", [[1.0]])
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        make_predictions(["a", "b"], ("X",), [[1], [0]], {"m": [[1.0]]})
    with pytest.raises(UserError, match=r"target 0\.3 of image a, label X"):
        make_predictions(["a", "b"], ("X",), [[0.3], [0]], {"m": [[1.0], [2.0]]})
    with pytest.raises(UserError, match="image b has no score"):
        make_predictions(["a", "b"], ("X",), [[1], [0]], {"m": [[1.0], [np.nan]]})


def test_units_are_merged_by_mean_or_max_within_the_patient() -> None:
    table = make_predictions(
        ["a", "b", "c", "d", "e", "f"],
        ("X",),
        [[0], [1], [np.nan], [0], [np.nan], [1]],
        {"m": [[1.0], [3.0], [5.0], [7.0], [2.0], [9.0]]},
        ["p", "p", "q", "q", "r", ""],
        ["study1", "study1", "study1", "study2", "study1", "study1"],
    )
    mean = merge_units(table, "study", "mean")
    np.testing.assert_array_equal(mean.scores["m"][:, 0], [2, 5, 7, 2, 9])
    np.testing.assert_array_equal(mean.targets[:, 0], [1, np.nan, 0, np.nan, 1])
    np.testing.assert_array_equal(mean.patients, [0, 1, 1, 2, 3])
    assert mean.notes == ("X: 1 study has positive and negative images and count as positive",)
    np.testing.assert_array_equal(merge_units(table, "study", "max").scores["m"][:, 0], [3, 5, 7, 2, 9])
    patient = merge_units(table, "patient", "max")
    np.testing.assert_array_equal(patient.scores["m"][:, 0], [3, 7, 2, 9])
    np.testing.assert_array_equal(patient.targets[:, 0], [1, 0, np.nan, 1])
    assert any("1 images have no patient" in note for note in patient.notes)
    with pytest.raises(ValueError, match="unit is one of"):
        merge_units(table, "view")


def test_images_without_patient_or_study_stand_alone() -> None:
    table = make_predictions(["a", "b", "c"], ("X",), [[0], [1], [1]], {"m": [[1.0], [2.0], [3.0]]})
    assert list(merge_units(table).patients) == [0, 1, 2]
    for unit in ("study", "patient"):
        merged = merge_units(table, unit)
        np.testing.assert_array_equal(merged.scores["m"], table.scores["m"])


# ---------------------------------------------------------------- judging a table

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=float)
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])
B = np.array([0.7, 0.9, 0.4, 0.6, 0.2, 0.65, 0.5, 0.3, 0.35, 0.25, 0.1, 0.15])
G = ["1", "1", "2", "3", "4", "4", "4", "5", "6", "6", "7", "7"]
NAMES = [f"{i}" for i in range(12)]


def test_judge_one_label() -> None:
    table = make_predictions(NAMES, ("X",), Y[:, None], {"a": A[:, None], "b": B[:, None]}, G)
    found = judge(merge_units(table), [("a", "b")])
    row, _, mean, _ = found.aucs
    assert (row.n, row.n_pos, row.auc, row.interval) == (12, 5, 29.5 / 35, "clustered logit-t")
    assert (mean.label, mean.auc, mean.ci_low, mean.interval) == ("mean", row.auc, row.ci_low, row.interval)
    label, macro = found.comparisons
    t = label.difference / 0.0830489386  # 3 degrees of freedom: 4 patients with a positive
    assert label.p_value == pytest.approx(2 * stats.t.sf(t, 3), abs=1e-8) and label.tie
    assert label.test == "clustered paired DeLong, t with 3 df"
    assert (macro.label, macro.p_value, macro.p_holm) == ("mean", label.p_value, label.p_value)
    plain = make_predictions(NAMES, ("X",), Y[:, None], {"a": A[:, None], "b": B[:, None]})
    found = judge(merge_units(plain), [("a", "b")])
    assert found.aucs[0].interval == "logit-t"
    assert found.comparisons[0].p_value == pytest.approx(2 * stats.t.sf(1.024183112998, 4), abs=1e-11)
    assert any("only 5 positives" in note for note in found.notes)


def test_judge_keeps_one_class_labels_and_names_them() -> None:
    second = np.array([1, 0, 1, 0, 1, 1, 0, 0, np.nan, 0, 1, 0])
    targets = np.stack([Y, second, np.zeros(12)], axis=1)
    scores = {"a": np.stack([A, B, A], axis=1), "b": np.stack([B, A, A], axis=1)}
    found = judge(merge_units(make_predictions(NAMES, ("X", "Y", "Z"), targets, scores)), [("a", "b")])
    assert [r.label for r in found.aucs] == ["X", "X", "Y", "Y", "Z", "Z", "mean", "mean"]
    rows = {(r.label, r.model): r for r in found.aucs}
    assert np.isnan(rows["Z", "a"].auc) and rows["Z", "a"].interval == "undefined (no positives)"
    mean = rows["mean", "a"]
    assert mean.auc == pytest.approx(0.6547619048, abs=1e-10) and mean.interval == "influence logit-t"
    assert (mean.n, mean.n_pos) == (12, 7) and mean.ci_low < mean.auc < mean.ci_high
    assert found.mean_labels == ("X", "Y") and any(n.startswith("Z: no AUC, no positives") for n in found.notes)
    x, y, z, macro = found.comparisons
    assert macro.difference == pytest.approx((x.difference + y.difference) / 2, abs=1e-15)
    assert np.isnan(z.p_holm) and min(x.p_holm, y.p_holm) == pytest.approx(min(1, 2 * min(x.p_value, y.p_value)))


def test_a_single_positive_leaves_the_mean_without_interval() -> None:
    rare = np.zeros(12)
    rare[3] = 1
    targets = np.stack([Y, rare], axis=1)
    table = make_predictions(NAMES, ("X", "R"), targets, {m: np.stack([A, B], axis=1) for m in ("a", "b")})
    found = judge(merge_units(table), [("a", "b")])
    rows = {(r.label, r.model): r for r in found.aucs}
    assert rows["R", "a"].interval == "not estimable (1 positive)"
    assert rows["mean", "a"].interval == "not estimable (R: 1 positive)" and not np.isnan(rows["mean", "a"].auc)
    assert np.isnan(found.comparisons[-1].p_value)


def test_judge_with_nothing_to_average_or_an_unknown_model() -> None:
    table = make_predictions(NAMES, ("X",), np.zeros((12, 1)), {"a": A[:, None]})
    found = judge(merge_units(table))
    assert found.aucs[-1].label == "mean" and found.aucs[-1].interval.startswith("undefined")
    with pytest.raises(ValueError, match="no model 'ce'"):
        judge(merge_units(table), [("a", "ce")])


def test_fourteen_labels_of_25000_images_take_well_under_a_second() -> None:
    import time

    rng = np.random.default_rng(0)
    n, k = 25_000, 14
    targets = (rng.random((n, k)) < 0.1).astype(float)
    scores = {m: targets + rng.normal(size=(n, k)) for m in ("warm_start", "ce", "auc")}
    patients = np.array([str(i) for i in rng.integers(0, 8000, n)], dtype=object)
    images = np.array([f"{i}.png" for i in range(n)], dtype=object)
    table = Predictions(images, patients, patients, tuple(f"L{i}" for i in range(k)), targets, scores)
    start = time.process_time()
    found = judge(merge_units(table, "study"), [("auc", "ce"), ("auc", "warm_start")])
    assert time.process_time() - start < 3  # a loose bound for a busy machine; about .4 s alone
    assert len(found.aucs) == 45 and len(found.comparisons) == 30
