"""Human readers beside a model: NRBC's published vector, reader tables in every form, and the bootstrap by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dam.errors import UserError
from dam.evaluation.bootstrap import Draws
from dam.evaluation.operating import mcnemar
from dam.evaluation.radiologists import count_below, nrbc_rows, reader_point, reader_row
from dam.evaluation.reader_tables import join_readers, read_readers, study_key

Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])


def answers(found: int, cleared: int, m: int = 5, n: int = 7) -> np.ndarray:
    """A reader with ``found`` of m positives and ``cleared`` of n negatives right."""
    return np.concatenate([np.arange(m) < found, np.arange(n) >= cleared]).astype(float)


def repeated(times: int) -> tuple[np.ndarray, np.ndarray]:
    """The shared vector with every case several times: the same curve with finer readers; positives first."""
    return np.repeat(Y, times), np.repeat(A, times)


@pytest.mark.parametrize(
    ("sens", "spec", "curve", "below"),
    [(0.8, 6 / 7, 0.8, True), (0.8, 0.95, 0.34, False), (0.9, 0.5, 0.9, True), (0.6, 1, 0.2, False),
     (1, 0, 1.0, True), (0.2, 1, 0.2, True)],
)  # fmt: skip
def test_the_published_vector(sens: float, spec: float, curve: float, below: bool) -> None:
    y, s = repeated(20)  # 100 positives, 140 negatives
    point = reader_point(y, s, answers(round(sens * 100), round(spec * 140), 100, 140))
    assert (point.sensitivity, point.fpr) == pytest.approx((sens, 1 - spec), abs=1e-12)
    assert point.curve_sensitivity == pytest.approx(curve, abs=1e-12) and point.below is below
    assert point.strict is (below and curve > sens + 1e-9)


def test_precision_recall_and_a_reader_who_calls_nobody() -> None:
    # the curve's precision at recall 0.8 is 0.8 (score >= 0.55)
    assert reader_point(Y, A, answers(4, 6)).curve_ppv == pytest.approx(0.8)
    assert reader_point(Y, A, answers(4, 6)).below_pr and not reader_point(Y, A, answers(4, 7)).below_pr
    assert not reader_point(Y, A, answers(4, 6)).strict_pr and reader_point(Y, A, answers(4, 5)).strict_pr
    silent = reader_point(Y, A, answers(0, 7))
    assert silent.below and not silent.below_pr and np.isnan(silent.ppv)


def test_reader_and_model_at_the_same_point() -> None:
    a = answers(2, 6)
    row = reader_row("L", "r1", "m", (Y, A, a))
    assert (row.model_threshold, row.model_sensitivity) == (0.55, 0.8)
    assert row.model_specificity == pytest.approx(6 / 7) and row.specificity == pytest.approx(6 / 7)
    assert (row.n, row.n_pos, row.below_roc, row.below_roc_strict) == (12, 5, True, True)
    # positives: the model finds 0-3, the reader 0-1; negatives: each is wrong once, on another case
    assert row.p_sensitivity == mcnemar(2, 0) and row.p_specificity == mcnemar(1, 1)
    partly = reader_row("L", "r1", "m", (Y, A, np.where(np.arange(12) == 11, np.nan, a)))
    assert partly.n == 11
    with pytest.raises(ValueError, match="no positives"):
        reader_row("L", "r1", "m", (Y, A, np.where(Y == 1, np.nan, a)))


def problem() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    y = (rng.random((60, 2)) < 0.4).astype(float)
    s = np.round(rng.normal(size=(60, 2)) + y, 1)
    readers = {f"r{i}": np.where(rng.random((60, 2)) < 0.75, y, 1 - y) for i in range(3)}
    readers["r2"][:5, 1] = np.nan
    return y, s, readers, np.arange(60) // 2


def test_nrbc_and_its_bootstrap_by_hand() -> None:
    y, s, readers, patients = problem()
    draws = Draws(30, 100, 3)
    rows = nrbc_rows(y, {"m": s}, readers, ("a", "b"), draws, patients)
    assert [(r.model, r.curve, r.labels, r.readers) for r in rows] == [("m", "roc", "a; b", 3), ("m", "pr", "a; b", 3)]
    weights = np.concatenate(list(draws.weights()), axis=1)
    for row in rows:
        assert row.nrbc == count_below(y, s, readers, row.curve)[0] and row.strict <= row.nrbc
        found = []
        for r in range(100):
            rows_ = np.repeat(np.arange(60), weights[patients, r].astype(int))
            found.append(count_below(y[rows_], s[rows_], {k: v[rows_] for k, v in readers.items()}, row.curve)[0])
        assert (row.low, row.high) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])), abs=1e-9)
    perfect = nrbc_rows(y, {"m": y + 0.0}, readers, ("a", "b"), draws, patients)
    assert [r.nrbc for r in perfect] == [3, 3]
    assert count_below(y, np.full_like(s, np.nan), readers)[2] == 0


# ---------------------------------------------------------------- tables

STUDIES = ("CheXpert-v1.0/test/patient00001/study1", "CheXpert-v1.0/test/patient00002/study3")


def test_keys() -> None:
    assert study_key(STUDIES[0]) == "patient00001/study1" == study_key("x/patient00001/study1/view1_frontal.jpg")
    assert study_key(" s-7 ") == "s-7" and study_key("a/patient00001/scan4") == "patient00001/scan4"


def test_long_and_wide_say_the_same_and_order_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "bc4.csv").write_text(f"Study,Edema,Lung Lesion\n{STUDIES[0]},1,0\n{STUDIES[1]},0,1\n")
    (tmp_path / "bc6.csv").write_text(f"Lung Lesion,Study,Edema\n1,{STUDIES[1]},0\n,{STUDIES[0]},1\n")
    long = tmp_path / "sub" / "long.csv"
    long.parent.mkdir()
    rows = [f"{STUDIES[0]},bc4,Edema,1", f"{STUDIES[0]},bc4,Lung Lesion,0", f"{STUDIES[1]},bc4,Edema,0",
            f"{STUDIES[1]},bc4,Lung Lesion,1", f"{STUDIES[1]},bc6,Lung Lesion,1.0", f"{STUDIES[1]},bc6,Edema,0",
            f"{STUDIES[0]},bc6,Edema,1"]  # fmt: skip
    long.write_text("\n".join(["study,reader,label,value", *rows]))
    keys, labels = ["patient00002/study3", "other", "patient00001/study1"], ("Lung Lesion", "No such", "Edema")
    both = f"{tmp_path / 'bc4.csv'}, {tmp_path / 'bc6.csv'}"
    nan = np.nan
    wanted = {
        "bc4": [[1, nan, 0], [nan, nan, nan], [0, nan, 1]],
        "bc6": [[1, nan, 0], [nan, nan, nan], [nan, nan, 1]],
    }
    for where in (both, str(tmp_path), str(long)):
        found = join_readers(read_readers(where), keys, labels)
        assert list(found) == ["bc4", "bc6"]
        for reader, values in wanted.items():
            np.testing.assert_array_equal(found[reader], values)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("study,reader,label,value\ns1,r,Edema,0.7\n", r"line 2: reader r has '0.7' for Edema"),
        ("study,Edema\ns1,yes\n", r"line 2: reader t has 'yes'"),
        ("study,reader,label,value\ns1,r,Edema,1\ns1,r,Edema,0\n", r"line 3.*second time"),
        ("case,Edema\ns1,1\n", "no table of readers"),
        ("study,reader,value\ns1,r,1\n", "no column label"),
        ("study,reader,label,value\ns9,r,Edema,1\n", "s9.*same studies"),
        ("study,reader,label,value\ns1,r,Fracture,1\n", "joined by name"),
        ("study,reader,label,value\ns1,r,Edema,1\ns1,r,Mass,1\ns1,q,Mass,1\n", "q has no answer for Edema"),
    ],
)
def test_faults_of_a_table_are_one_sentence(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=match):
        join_readers(read_readers(path), ["s1", "s2"], ("Edema", "Mass"))


def test_what_is_not_there(tmp_path: Path) -> None:
    for where, match in ((tmp_path / "no.csv", "no table of readers"), (tmp_path, "no .csv"), ("", "blank")):
        with pytest.raises(UserError, match=match):
            read_readers(where)
    (tmp_path / "t.csv").write_text("study,Edema\ns1,1\n")
    with pytest.raises(UserError, match="more than once"):
        join_readers(read_readers(tmp_path), ["s1", "s1"], ("Edema",))
