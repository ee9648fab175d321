"""Properties of what a user's files and words go through: tables, label policies, splits, overrides, metrics.

Whatever is typed or written ends in what was asked for or in a ``UserError``, never in another exception. (Samplers,
folds, AUC and covariances have theirs beside their other tests.)
"""

from __future__ import annotations

import gzip
import itertools
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_configs import data_config
from hypothesis import given, settings, strategies as st
from PIL import Image

from dam.compose import compose, examine, from_yaml, to_yaml, value_at
from dam.config import Range
from dam.data import load_table
from dam.data.datasets.text_tables import read_text_table
from dam.data.labels import apply_policies, hard_targets
from dam.data.splits import assign_splits
from dam.data.table import ImageTable
from dam.errors import UserError
from dam.evaluation.assess import assess
from dam.evaluation.auc import roc_auc
from dam.evaluation.predictions import make_predictions
from dam.overrides import read
from dam.schema import all_keys

# ---------------------------------------------------------------- text tables

CELL = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=6)
PLAIN = st.text("abcXYZ019._ é", min_size=1, max_size=6).map(str.strip).filter(bool)


@settings(max_examples=60)
@given(
    st.lists(PLAIN, min_size=2, max_size=4, unique=True),
    st.lists(st.lists(PLAIN, min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_a_table_comes_back_whatever_program_wrote_it(
    tmp_path_factory: pytest.TempPathFactory,
    header: list[str],
    rows: list[list[str]],
    separator: str,
    encoding: str,
    end: str,
    packed: bool,
) -> None:
    rows = [row[: len(header)] for row in rows]
    content = (end.join(separator.join(row) for row in [header, *rows]) + end).encode(encoding)
    path = tmp_path_factory.getbasetemp() / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    table = read_text_table(path)
    assert list(table.columns) == header
    assert table.to_numpy().tolist() == rows


@settings(max_examples=80)
@given(st.binary(max_size=60) | st.lists(CELL, max_size=8).map(lambda cells: ",".join(cells).encode()))
def test_any_bytes_are_a_table_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.csv"
    path.write_bytes(content)
    try:
        table = read_text_table(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error).strip()
    else:
        assert len(table) > 0 and all(isinstance(cell, str) for cell in table.to_numpy().ravel())


# ---------------------------------------------------------------- from a table to what is trained on

LABEL = st.sampled_from(["0", "1", "0.0", "1.0", "", "nan", "-1", "0.4", "yes", "no", "2", "x"])
LIKELY = st.sampled_from(["0", "1"])
ROW = st.tuples(
    st.integers(0, 11),
    st.sampled_from(["p1", "p2", "p3", "p4", "p5", ""]),
    LIKELY | LIKELY | LIKELY | LABEL,
    st.sampled_from(["", "", "train", "test", "valid", "x"]),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(10):  # of the twelve that rows name
        Image.new("L", (8, 8), i).save(folder / f"{i}.png")
    return folder


@settings(max_examples=80)
@given(
    st.lists(ROW, min_size=1, max_size=16, unique_by=lambda row: row[0]) | st.lists(ROW, min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["refuse", "skip"]),
    st.sampled_from(["zeros", "ignore", "keep"]),
    st.sampled_from([0.0, 0.2, 0.5]),
)
def test_any_rows_are_a_table_to_train_on_or_a_sentence(
    images: Path,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, str, str, str]],
    with_patients: bool,
    with_splits: bool,
    on_bad_image: str,
    uncertain: str,
    val_fraction: float,
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    lines = ["image" + ",patient" * with_patients + ",sick" + ",split" * with_splits]
    lines += [f"{i}.png" + f",{who}" * with_patients + f",{y}" + f",{s}" * with_splits for i, who, y, s in rows]
    path.write_text("\n".join(lines) + "\n")
    cfg = data_config("csv", csv=str(path), root=str(images), labels=["sick"], on_bad_image=on_bad_image,
                      uncertain={"default": uncertain}, val_fraction=val_fraction)  # fmt: skip
    try:
        table = load_table(cfg)
    except UserError as error:
        assert 20 < len(str(error)) < 1500
        return
    frame, values = table.frame, table.targets()
    assert set(frame["split"]) <= {"train", "val", "test"} and len(table.split("train")) and len(table.split("val"))
    assert (frame.groupby("patient")["split"].nunique() == 1).all() and frame["image"].is_unique
    assert np.isnan(values).sum() == 0 and ((values >= 0) & (values <= 1)).all()
    assert set(frame["image"]) <= {f"{i}.png" for i, *_ in rows if i < 10}
    judged = values[np.concatenate([table.split("val"), table.split("test")])]
    assert set(np.unique(judged)) <= {0.0, 1.0}
    for split in ("train", "val"):
        assert {0, 1} <= {int(value >= 0.5) for value in values[table.split(split), 0]}
    again = load_table(cfg)
    assert again.frame.equals(frame) and again.notes == table.notes


POLICY = st.sampled_from(["zeros", "ones", "ignore", "smooth", "keep"])
VALUE = st.sampled_from([0.0, 1.0, -1.0, np.nan, 0.25, 0.5, 0.75])


@settings(max_examples=80)
@given(
    st.lists(st.tuples(VALUE, st.sampled_from(["train", "", "val", "test"])), min_size=1, max_size=12),
    POLICY,
    st.sampled_from(["zeros", "ignore"]),
    st.sampled_from(["weights", "resolve"]),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_policies_do_to_each_value_what_they_say(
    rows: list[tuple[float, str]], uncertain: str, blank: str, soft: str, bounds: list[float]
) -> None:
    n = len(rows)
    frame = pd.DataFrame({"image": [str(i) for i in range(n)], "patient": "p", "study": "s"})
    frame["split"] = [split for _, split in rows]
    frame["A"] = [value for value, _ in rows]
    cfg = data_config("csv", uncertain={"default": uncertain}, blank={"default": blank}, soft=soft,
                      smooth={"default": bounds})  # fmt: skip
    table = ImageTable(frame, ("A",), Path(), "csv")
    after = apply_policies(table, cfg).frame["A"].to_numpy()
    hard = hard_targets(table, cfg)[:, 0]
    middle = float(sum(bounds) / 2 >= 0.5)
    judged = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan, "smooth": middle, "keep": np.nan}[uncertain]
    trained = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan, "keep": 0.5}
    for (value, split), new, as_judged in zip(rows, after, hard, strict=True):
        training = split in ("train", "")
        known = 0.0 if blank == "zeros" else np.nan
        cut = known if np.isnan(value) else judged if value == -1 else float(value >= 0.5)
        np.testing.assert_equal(as_judged, cut)
        if not training:
            np.testing.assert_equal(new, cut)
        elif value == -1 and soft == "weights" and uncertain == "smooth":
            assert bounds[0] <= new <= bounds[1]
        elif value == -1 and uncertain == "smooth":
            assert new in (0.0, 1.0)
        elif value == -1:
            wanted = trained[uncertain]
            np.testing.assert_equal(new, 1.0 if wanted == 0.5 and soft == "resolve" else wanted)
        else:
            np.testing.assert_equal(new, value if 0 < value < 1 and soft == "weights" else cut)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 1.0, np.nan])), min_size=1, max_size=40),
       st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2]), st.integers(0, 3))  # fmt: skip
def test_no_split_shares_a_patient_and_no_row_is_lost(
    rows: list[tuple[int, float]], val: float, test: float, seed: int
) -> None:
    frame = pd.DataFrame({"image": [str(i) for i in range(len(rows))], "patient": [f"p{who}" for who, _ in rows]})
    frame["study"], frame["split"], frame["A"] = frame["image"], "", [value for _, value in rows]
    table = ImageTable(frame, ("A",), Path(), "toy")
    cut = assign_splits(table, frame[["A"]].to_numpy(), val, test, seed)
    assert cut.frame.drop(columns="split").equals(frame.drop(columns="split"))
    assert set(cut.frame["split"]) <= {"train", "val", "test"}
    assert (cut.frame.groupby("patient")["split"].nunique() == 1).all()
    patients = frame["patient"].nunique()
    for name, fraction in (("val", val), ("test", test)):
        assert fraction or not len(cut.split(name))
    assert not (test and patients > 1) or len(cut.split("test")) > 0
    assert len(cut.split("train")) > 0 or patients <= 2
    assert assign_splits(table, frame[["A"]].to_numpy(), val, test, seed).frame.equals(cut.frame)


# ---------------------------------------------------------------- overrides

KEYS = sorted(key for key in all_keys() if not key.endswith(".name"))
TEXT = st.one_of(
    st.integers(-3, 2**70).map(str),
    st.floats().map(repr),
    st.sampled_from(["null", "true", "False", "", "[]", "{}", "[1,2]", "[a", "{a:1}", "{a:{b:1}}", "'x'", "'x", "a,b",
                     "1,2", "${seed}", "${x:y}", "none", "auto", "1e999", "-0", "0x10", "[[1],[null]]", "a=b", "~",
                     "[{_target_:os.system}]", "../..", "é", "a b", "interval(0,1)", "\x00", "\\"]),
    st.text(max_size=8),
)  # fmt: skip


@settings(max_examples=120)
@given(st.lists(st.tuples(st.sampled_from(["", "+", "++", "~"]), st.sampled_from(KEYS) | st.text(max_size=5), TEXT),
                min_size=1, max_size=2))  # fmt: skip
def test_any_word_gives_a_config_or_a_sentence(words: list[tuple[str, str, str]]) -> None:
    typed = [f"{mark}{key}={text}" for mark, key, text in words]
    try:
        config = compose(typed)
    except UserError as error:
        assert str(error).strip()
        return
    assert from_yaml(to_yaml(config)) == config


@settings(max_examples=200)
@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(word: str) -> None:
    settings_, faults = read([word])
    assert len(settings_) + len(faults) >= 1
    assert all(fault.text.strip() for fault in faults)


def valid(hint: Any) -> st.SearchStrategy[Any] | None:
    """Values that a type of the schema admits; None for what is no single value."""
    bounds = Range()
    if typing.get_origin(hint) is typing.Annotated:
        hint, bounds = typing.get_args(hint)[:2]
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if hint is bool:
        return st.booleans()
    low, high = bounds.ge if bounds.ge is not None else bounds.gt, bounds.le if bounds.le is not None else bounds.lt
    if hint is int:
        return st.integers(None if low is None else int(low), None if high is None else int(high))
    if hint is float:
        return st.floats(low, high, exclude_min=bounds.gt is not None, exclude_max=bounds.lt is not None,
                         allow_nan=False, allow_infinity=False)  # fmt: skip
    return None


DEFAULT = compose([])
HINTS = {key: hint for key, (hint, _) in sorted(all_keys().items()) if value_at(DEFAULT, key) is not None}
del HINTS["data.official_valid"]  # what it may be differs from dataset to dataset
SCALARS = {key: values for key, hint in HINTS.items() if (values := valid(hint)) is not None}


@settings(max_examples=60)
@given(st.sampled_from(sorted(SCALARS)), st.data())
def test_a_valid_value_is_what_the_config_then_holds(key: str, data: st.DataObject) -> None:
    """Unless a combination makes no sense, and then the sentence is about that and not about the value's type."""
    value = data.draw(SCALARS[key])
    typed = str(value).lower() if isinstance(value, bool) else str(value)
    config, faults = examine([f"{key}={typed}"])
    if faults:
        assert not [fault for fault in faults if " must be " in fault.text and fault.text.startswith(key)], faults
        return
    found = value_at(config, key)
    assert found == value and type(found) is type(value)


def test_most_keys_are_tried_so() -> None:
    assert len(SCALARS) > 60


# ---------------------------------------------------------------- metrics

TABLE = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 6)), min_size=2, max_size=30)


@settings(max_examples=60)
@given(TABLE.filter(lambda rows: len({y for y, _, _ in rows}) == 2), st.randoms(use_true_random=False))
def test_auc_is_that_of_all_pairs_and_turns_with_scores_and_classes(rows: list[tuple[int, int, int]], rng: Any) -> None:
    y, s = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    pairs = [(p > n) + (p == n) / 2 for p, n in itertools.product(s[y == 1], s[y == 0])]
    auc = roc_auc(y, s)
    assert auc == pytest.approx(np.mean(pairs), abs=1e-12)
    assert roc_auc(y, -s) == pytest.approx(1 - auc, abs=1e-12) == roc_auc(1 - y, s)
    assert roc_auc(y, np.exp(s / 3)) == auc
    order = rng.sample(range(len(y)), len(y))
    assert roc_auc(y[order], s[order]) == auc


@settings(max_examples=25)
@given(TABLE, st.sampled_from(["auto", "delong", "clustered", "bootstrap"]), st.sampled_from(["image", "patient"]))
def test_every_table_is_judged_and_only_who_is_who_matters(
    rows: list[tuple[int, int, int]], method: str, unit: str
) -> None:
    """Intervals lie in [0, 1] around their AUC, and other names for the same patients and images change no bit."""
    from dataclasses import replace

    y = np.array([[row[0]] for row in rows], float)
    s = np.array([[row[1]] for row in rows], float)
    settings_ = replace(DEFAULT.evaluation, interval=method, replicates=100)
    told = []
    for name in ("p{}", "{}-zz"):
        images = [name.format(100 - i) for i in range(len(rows))]
        table = make_predictions(images, ("A",), y, {"m": s}, [name.format(9 - row[2]) for row in rows], images)
        told.append(assess(table, None, None, settings_, unit, "mean", [], {}).judgement)
    assert repr(told[0]) == repr(told[1])
    for row in told[0].aucs:
        if not np.isnan(row.ci_low):
            assert 0 <= row.ci_low <= row.auc <= row.ci_high <= 1
