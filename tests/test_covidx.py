from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from covidx_files import TEST, TRAIN, file_of, many, write
from data_configs import data_config
from PIL import Image

from dam.data import load_table
from dam.data.datasets.covidx import read
from dam.data.readers import ImageReader
from dam.errors import UserError


def config(root: Path, **keys: object) -> object:
    return data_config("covidx8b", root=str(root), **keys)


@pytest.mark.parametrize("layout", ["kaggle", "kaggle, a level down", "covid-net", "the lists zipped"])
def test_every_layout_gives_the_same_table(tmp_path: Path, layout: str) -> None:
    root, names = tmp_path, ("train.txt", "test.txt")
    images = root
    if "level" in layout:
        root = images = tmp_path / "COVIDx" / "covidx-cxr2"
    if layout in ("covid-net", "the lists zipped"):
        names = ("labels/train_COVIDx8B.txt", "labels/test_COVIDx8B.txt")
        images = tmp_path / "data"
    write(root, dict(zip(names, (TRAIN, TEST), strict=True)), images)
    if "zipped" in layout:
        for name in names:
            (root / f"{name}.gz").write_bytes(gzip.compress((root / name).read_bytes()))
            (root / name).unlink()
    (images / "train" / "._COVID(1).png").touch()
    table = read(config(tmp_path))
    frame = table.frame
    assert table.labels == ("COVID-19",)
    assert frame["split"].tolist() == ["train"] * 9 + ["test"] * 3
    assert [Path(image).name for image in frame["image"]] == [file_of(line) for line in TRAIN + TEST]
    assert frame["COVID-19"].tolist() == [0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0]
    assert frame["patient"].tolist()[:6] == [
        "cohen/5", "cohen/5", "actmed/ANON56", "sirm/COVID 1", "sirm/COVID 2", "ricord/419639-000238",
    ]  # fmt: skip
    assert frame["source"].tolist()[2:4] == ["actmed", "sirm"] and table.metadata == ("source",)
    reader = ImageReader(table.root)
    for locator in frame["image"]:
        with Image.open(tmp_path / locator) as image:
            assert np.array_equal(reader.read(locator), np.asarray(image))
    assert "no patient is in both the training and test list" in table.notes
    assert any("in test the source alone tells the class (ricord positive, rsna negative)" in n for n in table.notes)


def test_case_of_extensions_and_missing_files(tmp_path: Path) -> None:
    write(tmp_path, {"train.txt": TRAIN, "test.txt": TEST}, tmp_path)
    (tmp_path / "train" / "actmed-1.PNG").rename(tmp_path / "train" / "actmed-1.png")
    assert read(config(tmp_path)).frame["image"].iloc[2] == "train/actmed-1.png"
    (tmp_path / "train" / "COVID(1).png").unlink()
    with pytest.raises(UserError, match=r"1 of the 12 images .* not under .*: train/COVID\(1\)\.png"):
        load_table(config(tmp_path))
    table = load_table(config(tmp_path, on_bad_image="skip", val_fraction=0.4))
    assert len(table) == 11
    assert "left out 1 row without a file: train/COVID(1).png" in table.notes


def test_old_lists_of_three_classes(tmp_path: Path) -> None:
    train = ["5 a.png normal", "6 b.png pneumonia cohen", "7 8 c.png COVID-19", "9 d.png COVID-19 sirm"]
    write(tmp_path, {"train_COVIDx3.txt": train, "test_COVIDx3.txt": ["10 e.png normal rsna"]}, tmp_path)
    table = read(config(tmp_path))
    assert table.frame["COVID-19"].tolist() == [0, 0, 1, 1, 0]
    assert table.frame["patient"].tolist() == ["5", "cohen/6", "7 8", "sirm/9", "rsna/10"]
    assert table.frame["class"].tolist() == ["normal", "pneumonia", "covid-19", "covid-19", "normal"]


@pytest.mark.parametrize(
    ("negatives", "positives", "tests", "told"),
    [
        (13794, 2158, 400, "the lists are those of COVIDx8B"),
        (13794, 1670, 200, "the lists are those of COVIDx7B, not COVIDx8B: results are not comparable"),
        (13992, 16490, 400, "the lists are those of COVIDx9B, not COVIDx8B: results are not comparable"),
        (13441, 2158, 400, "the lists are those of COVIDx8A, not COVIDx8B: results are not comparable"),
        (10, 5, 4, "15 training lines (5 positive) and 4 test lines are no COVIDx release known here"),
    ],
)
def test_neighbours_are_recognised(tmp_path: Path, negatives: int, positives: int, tests: int, told: str) -> None:
    words = ["negative"] * negatives + ["positive"] * positives
    train = [f"{n} {n}.png {word} rsna" for n, word in enumerate(words)]
    test = [f"t{n} t{n}.png negative rsna" for n in range(tests)]
    write(tmp_path, {"train.txt": train, "test.txt": test}, tmp_path, pictures=False)
    assert any(note.startswith(told) for note in read(config(tmp_path)).notes)


def test_a_patient_in_both_lists_is_reported_and_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train.txt": TRAIN, "test.txt": [*TEST, "COVID 1 again.png positive sirm"]}, tmp_path)
    assert "patients in both lists: sirm/COVID 1" in read(config(tmp_path)).notes
    with pytest.raises(UserError, match=r"1 patient is in more than one split: sirm/COVID 1"):
        load_table(config(tmp_path, val_fraction=0.4))


def test_ids_that_differ_in_a_letter_are_named(tmp_path: Path) -> None:
    train, test = ["COVID-00015b x.png positive fig1", *TRAIN], ["COVID-00015a y.png positive fig1", *TEST]
    write(tmp_path, {"train.txt": train, "test.txt": test}, tmp_path, pictures=False)
    told = "1 id of training and test with a last letter that differs, perhaps one patient each: fig1/COVID-00015"
    assert told in read(config(tmp_path)).notes


def test_one_list_among_several_and_by_name(tmp_path: Path) -> None:
    lists = {"labels/train_COVIDx9B.txt": TRAIN, "labels/test_COVIDx9B.txt": TEST, "labels/train_COVIDx7A.txt": TRAIN}
    write(tmp_path, lists, tmp_path)
    with pytest.raises(UserError, match=r"2 other lists: choose one with data\.train_list=labels/train_COVIDx7A\.txt"):
        read(config(tmp_path))
    table = read(config(tmp_path, train_list="labels/train_COVIDx9B.txt"))
    assert table.frame["split"].tolist() == ["train"] * 9 + ["test"] * 3
    other = read(config(tmp_path, train_list="labels/train_COVIDx7A.txt"))
    assert set(other.frame["split"]) == {"train"} and "there is no test list" in other.notes
    given = read(config(tmp_path, train_list="labels/train_COVIDx7A.txt", test_list="labels/test_COVIDx9B.txt"))
    assert len(given) == 12


def test_a_validation_list_is_used(tmp_path: Path) -> None:
    lists = {"train.txt": TRAIN, "val.txt": ["v1 v1.png positive cohen", "v2 v2.png negative cohen"], "test.txt": TEST}
    write(tmp_path, lists, tmp_path)
    assert read(config(tmp_path)).frame["split"].value_counts().to_dict() == {"train": 9, "test": 3, "val": 2}


def test_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root is not set"):
        read(data_config("covidx8b"))
    with pytest.raises(UserError, match=r"No train\.txt or train_COVIDx8B\.txt was found under data\.root"):
        read(config(tmp_path))
    for line, told in (
        ("5 a.png maybe cohen", r"train\.txt, row 2: '5 a\.png maybe cohen' is not `patient file class source`"),
        ("a.png positive cohen", "is not `patient file class source`"),
        ("5 a.png level1 ricord", "severity lists, which hold no negatives"),
        ("../../5 ../../etc/passwd positive x", "outside data.root"),
    ):
        (tmp_path / "train.txt").write_text(f"{TRAIN[0]}\n{line}\n")
        with pytest.raises(UserError, match=told):
            read(config(tmp_path))
    (tmp_path / "train.txt").write_text("\n\n")
    with pytest.raises(UserError, match="is empty"):
        read(config(tmp_path))
    with pytest.raises(UserError, match=r"covidx8b has one label, 'COVID-19'"):
        read(config(tmp_path, labels=["Pneumonia"]))


def test_load_table_keeps_patients_together(tmp_path: Path) -> None:
    table = load_table(config(many(tmp_path), val_fraction=0.25))
    assert len(table.split("val")) == 20 and len(table.split("test")) == 8
    assert table.frame.groupby("patient")["split"].nunique().max() == 1


real = pytest.mark.skipif("DAM_REAL_DATA" not in os.environ, reason="DAM_REAL_DATA names no folder of data packs")


@pytest.mark.real_data
@real
def test_real_covidx8b_mini() -> None:
    from real_data import packs

    table = load_table(config(packs() / "covidx8b-mini"))
    frame = table.frame
    known = {"train": (92, 217), "test": (15, 55)}
    training = frame["split"].isin(["train", "val"])
    for split, rows in (("train", frame[training]), ("test", frame[~training])):
        assert ((rows["COVID-19"] == 0).sum(), (rows["COVID-19"] == 1).sum()) == known[split]
    assert frame[training]["source"].value_counts().to_dict() == {"cohen": 278, "fig1": 16, "actmed": 15}
    assert frame[~training]["source"].value_counts().to_dict() == {"cohen": 50, "actmed": 12, "fig1": 8}
    assert frame.groupby("patient")["split"].nunique().max() == 1


@pytest.mark.real_data
@real
def test_official_lists() -> None:
    from real_data import packs

    root = packs() / "covidx8b-mini"
    table = read(config(root, train_list="labels/train_COVIDx8B.txt.gz"))
    train, test = (table.frame[table.frame["split"] == split] for split in ("train", "test"))
    assert "the lists are those of COVIDx8B" in table.notes
    assert (len(train), int(train["COVID-19"].sum())) == (15952, 2158)
    assert (len(test), int(test["COVID-19"].sum()), test["patient"].nunique()) == (400, 200, 378)
    classes = train.groupby("patient")["COVID-19"].nunique()
    assert (len(classes), int((classes == 2).sum())) == (14968, 10)
    lines = gzip.decompress((root / "labels" / "train_COVIDx8B.txt.gz").read_bytes()).decode().splitlines()
    assert sum(len(line.split()) == 5 for line in lines) == 943
    assert (train["source"] == "sirm").sum() == 943 and train["patient"].str.contains(" ").sum() == 943
    assert train.groupby("source")["COVID-19"].agg(["size", "sum"]).astype(int).to_dict("index") == {
        "rsna": {"size": 13389, "sum": 0}, "cohen": {"size": 568, "sum": 270}, "actmed": {"size": 132, "sum": 25},
        "sirm": {"size": 943, "sum": 943}, "ricord": {"size": 896, "sum": 896}, "fig1": {"size": 24, "sum": 24},
    }  # fmt: skip
    assert not set(train["patient"]) & set(test["patient"])
