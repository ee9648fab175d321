from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from data_configs import data_config

from dam.data import load_table
from dam.data.datasets.csv import read
from dam.errors import UserError


def write(root: Path, text: str, images: int = 4) -> str:
    (root / "img").mkdir(exist_ok=True)
    for i in range(images):
        (root / "img" / f"{i}.png").touch()
    (root / "mine.csv").write_text(text, encoding="utf-8")
    return str(root / "mine.csv")


PLAIN = """image,label,patient,split,site
img/0.png,1,a,train,X
img/1.png,0,b,Valid,Y
img/2.png,,c,TEST,X
img/3.png,-1,,,Z
"""


def test_a_plain_table(tmp_path: Path) -> None:
    table = read(data_config("csv", csv=write(tmp_path, PLAIN)))
    frame = table.frame
    assert table.root == tmp_path and table.labels == ("label",) and table.metadata == ("site",)
    assert frame["image"].tolist() == [f"img/{i}.png" for i in range(4)]
    np.testing.assert_equal(frame["label"].to_numpy(), [1, 0, np.nan, -1])
    assert frame["split"].tolist() == ["train", "val", "test", ""]
    assert frame["patient"].tolist() == ["a", "b", "c", "img/3.png"]
    assert table.notes == ("1 row has no patient: it counts as a patient of its own",)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_separators_are_found(tmp_path: Path, separator: str) -> None:
    table = read(data_config("csv", csv=write(tmp_path, "\ufeff" + PLAIN.replace(",", separator))))
    assert table.frame["patient"].tolist()[0] == "a" and len(table) == 4


def test_columns_of_other_names(tmp_path: Path) -> None:
    text = "file;has it;who;visit;part;age\nimg\\0.png;True;7;v1;training;30\nimg/./1.png;0.0;8;v2;dev;40\n"
    keys = {
        "labels": ["has it"], "image_column": "file", "patient_column": "who", "study_column": "visit",
        "split_column": "part", "metadata": ["age"],
    }  # fmt: skip
    table = read(data_config("csv", csv=write(tmp_path, text), **keys))
    assert table.frame.iloc[0].tolist() == ["img/0.png", "7", "v1", "train", 1.0, "30"]
    assert table.frame.iloc[1].tolist() == ["img/1.png", "8", "v2", "val", 0.0, "40"]


def test_root_and_absolute_paths(tmp_path: Path) -> None:
    csv = write(tmp_path, f"image,label\n{tmp_path}/img/0.png,1\n")
    assert read(data_config("csv", csv=csv)).frame["image"].tolist() == ["img/0.png"]
    table = read(data_config("csv", csv="mine.csv", root=str(tmp_path)))
    assert table.frame["image"].tolist() == ["img/0.png"]


@pytest.mark.parametrize("path", ["../secret.png", "img/../../x.png", "/etc/passwd", "C:\\x.png"])
def test_paths_stay_inside_the_root(tmp_path: Path, path: str) -> None:
    csv = write(tmp_path, f"image,label\nimg/0.png,1\n{path},0\n")
    with pytest.raises(UserError, match=r"mine\.csv, row 3: .* is outside data\.root"):
        read(data_config("csv", csv=csv))


@pytest.mark.parametrize(
    ("text", "keys", "sentence"),
    [
        ("image,x,y\na,1,0\n", {}, r"no label column: .* its columns are image, x, y\. Set data\.labels=\[x\]\."),
        ("image,disease\na,1\n", {"labels": ["diseese"]}, r"no column 'diseese' \(nearest: 'disease'\)"),
        ("path,label\na,1\n", {}, r"no column 'image'.*its columns are path, label\. Set data\.image_column"),
        ("image,label,split\nimg/0.png,1,holdout\n", {}, r"row 2, column 'split': 'holdout' is no split"),
        ("image,label\nimg/0.png,1\nimg/1.png,sick\n", {}, r"row 3, column 'label': 'sick' is no label"),
        ("image,label\n,1\n", {}, r"row 2: the image path is blank"),
        ("image,label\n", {}, r"holds a header but no rows"),
        ("", {}, r"mine\.csv is empty"),
        ("image,label\nimg/0.png,1\n", {"patient_regex": "("}, r"is no regular expression"),
        ("image,label\nimg/0.png,1\n", {"patient_regex": "img"}, r"needs exactly one group"),
        ("image,label\nimg/0.png,1\n", {"patient_regex": "(p)_"}, r"matches no image path \(the first is img/0\.png\)"),
        ("image,x,x\nimg/0.png,1,0\n", {"labels": ["x"]}, r"mine\.csv has the column x twice in its header"),
        ("image,label\nimg/0.png,1,2\n", {}, r"row 2, has 3 cells where the header has 2 \(separator ','\): put quot"),
        ("image,label,a\nimg/0.png,1,\nimg\n", {}, r"row 3, has 1 cell where the header has 3"),
        ("image^label\nimg/0.png^1\n", {}, r"read as one column, 'image\^label': columns are separated by comma, sem"),
        ("img/0.png,1\nimg/1.png,0\n", {}, r"its first row, img/0\.png, 1, looks like data: put a header above it"),
        ("\n \n", {}, r"mine\.csv is empty"),
        ("image,sick\nimg/0.png,1\n", {"labels": ["sik"]}, r"nearest: 'sick'.*Set data\.labels=\[sick\]\."),
        (
            "image,label,patient\nimg/0.png,1,a\n",
            {"patient_regex": "(i)"},
            r"column 'patient', which names the patients",
        ),
        (
            "image,label\n0,1\n",
            {},
            r"no image 0 in .*, but .*img/0\.png is one\. Set data\.root=.*img data\.image_suffix=\.png",
        ),
        ("image,label\nimg/0.png,1\n", {"patient_column": "pid"}, r"no column 'pid'.*Set data\.patient_column"),
    ],
)
def test_sentences(tmp_path: Path, text: str, keys: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read(data_config("csv", csv=write(tmp_path, text), **keys))


def test_missing_table_and_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.csv=none\.csv does not exist"):
        read(data_config("csv", csv="none.csv", root=str(tmp_path)))
    with pytest.raises(UserError, match=r"data\.csv=.*/nope/x\.csv does not exist: correct the path\.$"):
        read(data_config("csv", csv=str(tmp_path / "nope" / "x.csv")))
    (tmp_path / "labels.csv").touch()
    with pytest.raises(UserError, match=r"does not exist; did you mean .*labels\.csv\?"):
        read(data_config("csv", csv=str(tmp_path / "label.csv")))
    with pytest.raises(UserError, match=r"is a folder, not a file: name the table in it, such as .*labels\.csv"):
        read(data_config("csv", csv=str(tmp_path)))
    with pytest.raises(UserError, match=r"data\.root is not set: .*class folders"):
        read(data_config("csv"))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"PK\x03\x04[Content_Types].xml", r"is a spreadsheet or an archive, not a text table: export it as CSV"),
        ("image,L\u00e4sion\nimg/0.png,1\n".encode("latin1"), r"row 1, is not UTF-8 text .*Latin-1.*iconv"),
        (bytes(range(256)), r"is no text file"),
        (b"\xff\xfei", r"begins like UTF-16 text and is damaged"),
    ],
)
def test_files_that_are_no_text_tables(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "mine.csv").write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        read(data_config("csv", csv=str(tmp_path / "mine.csv")))


def test_utf16_gzip_quotes_and_blank_lines_are_read(tmp_path: Path) -> None:
    text = '\n"image";"a, b, c";label\n"img/0.png";"x;y";1\n   \nimg/1.png;"two\nlines";0\n\n'
    plain = read(data_config("csv", csv=write(tmp_path, text)))
    assert plain.frame["a, b, c"].tolist() == ["x;y", "two\nlines"]
    for name, data in (("u.csv", text.encode("utf-16")), ("g.csv.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(data)
        assert read(data_config("csv", csv=str(tmp_path / name))).frame.equals(plain.frame)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(text.encode())[:-9])
    with pytest.raises(UserError, match=r"cut\.gz cannot be read"):
        read(data_config("csv", csv=str(tmp_path / "cut.gz")))


def test_names_without_an_ending_get_one(tmp_path: Path) -> None:
    csv = write(tmp_path, "image,label\nimg/0,1\nimg/1,0\n")
    with pytest.raises(UserError, match=r"no image img/0 in .*Set data\.image_suffix=\.png\."):
        read(data_config("csv", csv=csv))
    table = read(data_config("csv", csv=csv, image_suffix=".png"))
    assert table.frame["image"].tolist() == ["img/0.png", "img/1.png"]


def test_cuts_count_images_where_patients_are_unknown(tmp_path: Path) -> None:
    text = "\n".join(line.rpartition(",")[0] for line in big().splitlines())
    notes = load_table(data_config("csv", csv=write(tmp_path, text, 60))).notes
    assert "cut 12 images from training as test (fraction 0.2)" in notes
    notes = load_table(data_config("csv", csv=write(tmp_path, big(), 60))).notes
    assert "cut 12 images of 6 patients from training as test (fraction 0.2)" in notes


def big(n: int = 60, patients: int = 30) -> str:
    rows = [f"img/{i}.png,{i % 3 == 0:d},p{i % patients}" for i in range(n)]
    return "image,label,patient\n" + "\n".join(rows) + "\n"


def test_load_table_splits_by_patient(tmp_path: Path) -> None:
    table = load_table(data_config("csv", csv=write(tmp_path, big(), 60)))
    assert table.frame.groupby("patient")["split"].nunique().max() == 1
    assert [len(table.split(s)) for s in ("train", "val", "test")] == [40, 8, 12]


def test_load_table_refuses_a_patient_in_two_splits(tmp_path: Path) -> None:
    rows = [f"img/{i}.png,{i // 3 % 2},p{i if i else 1},{['train', 'val', 'test'][i % 3]}" for i in range(12)]
    csv = write(tmp_path, "image,label,patient,split\n" + "\n".join(rows), 12)
    with pytest.raises(UserError, match=r"p1 \(p1 is in train and val\)"):
        load_table(data_config("csv", csv=csv))
    assert any("allowed" in note for note in load_table(data_config("csv", csv=csv, leakage="allow")).notes)


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    table = load_table(data_config("csv", csv=write(tmp_path, big().replace("img/5.png,0", "img/5.png,"), 60)))
    assert len(table) == 59 and "left out 1 row without any known label" in table.notes


# ---------------------------------------------------------------- class folders


def classes(root: Path, counts: dict[str, int]) -> None:
    for folder, n in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(n):
            (root / folder / f"{folder.replace('/', '-')}-{i}.jpeg").touch()
        (root / folder / "Thumbs.db").touch()
        (root / folder / "notes.txt").touch()


def test_class_folders_with_splits(tmp_path: Path) -> None:
    top = tmp_path / "chest_xray"  # the archive's own folder; Kaggle packs it twice
    classes(top / "chest_xray", {"train/NORMAL": 3, "train/PNEUMONIA": 2, "val/NORMAL": 1, "Test/PNEUMONIA": 1})
    table = read(data_config("csv", root=str(top)))
    assert table.labels == ("PNEUMONIA",)
    assert table.frame["PNEUMONIA"].tolist() == [1, 0, 0, 0, 1, 1, 0]
    assert table.frame["split"].tolist() == ["test"] + ["train"] * 5 + ["val"]
    assert table.frame["image"].iloc[0] == "chest_xray/Test/PNEUMONIA/Test-PNEUMONIA-0.jpeg"


def test_class_folders_without_splits(tmp_path: Path) -> None:
    classes(tmp_path, {"cats": 3, "dogs": 4})
    with pytest.raises(UserError, match=r"Which class is positive\? Set data\.positive_class=cats or .*=dogs"):
        read(data_config("csv", root=str(tmp_path)))
    table = read(data_config("csv", root=str(tmp_path), positive_class="dogs"))
    assert table.labels == ("dogs",) and table.frame["dogs"].sum() == 4
    assert set(table.frame["split"]) == {""}
    assert read(data_config("csv", root=str(tmp_path), labels=["cats"])).frame["cats"].sum() == 3


def test_many_classes(tmp_path: Path) -> None:
    classes(tmp_path, {"a": 2, "b": 3, "c": 1})
    table = read(data_config("csv", root=str(tmp_path)))
    assert table.labels == ("a", "b", "c") and table.targets().sum(0).tolist() == [2, 3, 1]
    assert table.metadata == ("class",)
    assert read(data_config("csv", root=str(tmp_path), positive_class="b")).labels == ("b",)
    assert read(data_config("csv", root=str(tmp_path), labels=["c"])).labels == ("c",)
    with pytest.raises(UserError, match=r"data\.positive_class=z is no folder; the classes are a, b, c"):
        read(data_config("csv", root=str(tmp_path), positive_class="z"))


def test_a_folder_without_classes(tmp_path: Path) -> None:
    classes(tmp_path, {"only": 2})
    with pytest.raises(UserError, match=r"expected \{train,val,test\}/CLASS/\* or CLASS/\*"):
        read(data_config("csv", root=str(tmp_path)))
    with pytest.raises(UserError, match=r"holds 2 images in 1 folder \(only\), of fewer than two classes"):
        read(data_config("csv", root=str(tmp_path)))
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"only holds 2 images and no class folder.*perhaps .* \(it also holds other\)"):
        read(data_config("csv", root=str(tmp_path / "only")))
    with pytest.raises(UserError, match=r"other holds no image \(\.jpg"):
        read(data_config("csv", root=str(tmp_path / "other")))


def test_patients_from_file_names(tmp_path: Path) -> None:
    classes(tmp_path, {"NORMAL": 1, "SICK": 1})
    for name in ("person12_bacteria_3.jpeg", "person12_virus_9.jpeg", "person7_virus_1.jpeg"):
        (tmp_path / "SICK" / name).touch()
    table = read(data_config("csv", root=str(tmp_path), patient_regex=r"(person\d+)_"))
    assert table.frame["patient"].tolist()[2:] == ["person12", "person12", "person7"]
    assert "does not match 2 images" in table.notes[1]


def test_a_table_wins_over_folders(tmp_path: Path) -> None:
    classes(tmp_path, {"cats": 1, "dogs": 1})
    (tmp_path / "t.csv").write_text("image,label\ncats/cats-0.jpeg,1\n")
    assert len(read(data_config("csv", root=str(tmp_path), csv="t.csv"))) == 1


@pytest.mark.real_data
@pytest.mark.skipif("DAM_REAL_DATA" not in os.environ, reason="DAM_REAL_DATA names no folder of data packs")
def test_real_chest_xrays() -> None:
    from real_data import packs

    regex = r"((?:NORMAL2-)?IM-\d+|person\d+)[-_]"
    cfg = data_config("csv", root=str(packs() / "kermany-cxr"), patient_regex=regex, imratio=0.1)
    counts = load_table(cfg).counts().set_index("split")
    assert counts.loc["train", "n"] + counts.loc["val", "n"] == 322 + 35
    assert counts.loc["test", ["positives", "negatives"]].tolist() == [114, 81]
