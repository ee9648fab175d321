from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest
from data_configs import data_config

from dam.data import load_table
from dam.data.datasets.chexpert import read
from dam.data.datasets.phantom import COLUMNS
from dam.errors import UserError

HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS]
BATCH1 = "CheXpert-v1.0 batch 1 (validate & csv)"


def row(path: str, projection: str = "AP", sex: str = "Male", age: int = 60, **labels: str) -> dict[str, str]:
    view = "Lateral" if "lateral" in path else "Frontal"
    told = {name.replace("_", " "): value for name, value in labels.items()}
    return dict.fromkeys(HEADER, "") | {
        "Path": path, "Sex": sex, "Age": str(age), "Frontal/Lateral": view, "AP/PA": projection, **told,
    }  # fmt: skip


def train_rows(prefix: str) -> list[dict[str, str]]:
    return [
        row(f"{prefix}patient00001/study1/view1_frontal.jpg", Edema="1.0", Cardiomegaly="-1.0", Atelectasis="-1"),
        row(f"{prefix}patient00001/study2/view1_frontal.jpg", Edema="-1.0", Cardiomegaly="0.0"),
        row(f"{prefix}patient00002/study1/view1_frontal.jpg", "LL", sex="Unknown", age=0, Cardiomegaly="1"),
        row(f"{prefix}patient00002/study1/view2_lateral.jpg", "", Consolidation="1.0"),
        row(f"{prefix}patient00003/study1/view1_frontal.jpg", "PA", Pleural_Effusion="1.0"),
        row(f"{prefix}patient00004/study1/view1_frontal.jpg", "PA", Pleural_Effusion="0.0"),
    ]


def valid_rows(prefix: str) -> list[dict[str, str]]:
    return [
        row(f"{prefix}patient{n}/study1/view1_frontal.jpg") | dict.fromkeys(COLUMNS, f"{n % 2}.0")
        for n in (64541, 64542)
    ]


def write(path: Path, rows: list[dict[str, str]], columns: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows)[columns or list(rows[0])].to_csv(path, index=False)


def touch(folder: Path, rows: list[dict[str, str]]) -> None:
    for r in rows:
        path = folder / r["Path"][r["Path"].index("patient") :]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def layout(root: Path, kind: str) -> None:
    prefix = "CheXpert-v1.0-small/" if "small" in kind else "CheXpert-v1.0/"
    train, valid = train_rows(prefix + "train/"), valid_rows(prefix + "valid/")
    if kind == "batches":  # no train/ level, and spaces, & and brackets in the names
        folder = root / "chexpertchestxrays-u20210408"
        write(folder / BATCH1 / "train.csv", train)
        write(folder / BATCH1 / "valid.csv", valid)
        touch(folder / BATCH1 / "valid", valid)
        touch(folder / "CheXpert-v1.0 batch 2 (train 1)", train[:3])
        touch(folder / "CheXpert-v1.0 batch 3 (train 2)" / "CheXpert-v1.0", train[3:])
        return
    top = {
        "small": root / "CheXpert-v1.0-small",
        "small, kaggle": root,
        "small, twice": root / "CheXpert-v1.0-small" / "CheXpert-v1.0-small",
        "full": root / "CheXpert-v1.0",
    }[kind]
    write(top / "train.csv", train)
    write(top / "valid.csv", valid)
    touch(top / "train", train)
    touch(top / "valid", valid)
    (top / "__MACOSX").mkdir()
    (top / "train" / ".DS_Store").touch()
    (top / "train" / "patient00001" / "study1" / "._view1_frontal.jpg").touch()


@pytest.mark.parametrize("kind", ["small", "small, kaggle", "small, twice", "full", "batches"])
def test_every_release_gives_the_same_table(tmp_path: Path, kind: str) -> None:
    layout(tmp_path, kind)
    table = read(data_config("chexpert", root=str(tmp_path)))
    frame = table.frame
    assert all((tmp_path / image).is_file() for image in frame["image"])
    assert frame["split"].tolist() == ["train"] * 6 + ["test"] * 2
    assert frame["patient"].tolist()[:3] == ["patient00001", "patient00001", "patient00002"]
    assert frame["study"].tolist()[1] == "patient00001/study2"
    assert frame["view"].tolist() == ["frontal"] * 3 + ["lateral"] + ["frontal"] * 4
    assert frame["projection"].tolist()[2] == "LL"
    assert frame["sex"].tolist()[:3] == ["Male", "Male", ""]
    assert frame["age"].isna().tolist() == [False, False, True, *[False] * 5]
    assert frame["Cardiomegaly"].iloc[:3].tolist() == [-1.0, 0.0, 1.0]
    assert frame["Atelectasis"].iloc[0] == -1.0 and pd.isna(frame["Atelectasis"].iloc[1])
    assert table.labels == ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")


def test_the_root_may_be_the_release_itself(tmp_path: Path) -> None:
    layout(tmp_path, "small")
    table = read(data_config("chexpert", root=str(tmp_path / "CheXpert-v1.0-small")))
    assert table.frame["image"].iloc[0] == "train/patient00001/study1/view1_frontal.jpg"


def test_official_valid_as_validation(tmp_path: Path) -> None:
    layout(tmp_path, "small")
    table = read(data_config("chexpert", root=str(tmp_path), official_valid="val"))
    assert table.frame["split"].tolist() == ["train"] * 6 + ["val"] * 2
    assert "the official validation set (2 images) is used as val" in table.notes


def test_study_labels_serve_every_image_of_the_study(tmp_path: Path) -> None:
    layout(tmp_path, "small")
    images = [row(f"x/patient64741/study1/view{v}.jpg") for v in ("1_frontal", "2_lateral")]
    touch(tmp_path / "CheXpert-v1.0" / "test", images)
    swapped = ["Study", "Pleural Effusion", *[c for c in COLUMNS if c != "Pleural Effusion"]]
    truth = {"Study": "CheXpert-v1.0/test/patient64741/study1", **dict.fromkeys(COLUMNS, "0"), "Pleural Effusion": "1"}
    gone = truth | {"Study": "CheXpert-v1.0/test/patient64742/study1"}
    write(tmp_path / "labels" / "groundtruth.csv", [truth], swapped)
    cfg = data_config("chexpert", root=str(tmp_path), official_valid="val", test_csv="labels/groundtruth.csv")
    test = read(cfg).frame.query("split == 'test'")
    assert test["view"].tolist() == ["frontal", "lateral"]
    assert test["Pleural Effusion"].tolist() == [1.0, 1.0] and test["Edema"].tolist() == [0.0, 0.0]
    assert test["study"].unique().tolist() == ["patient64741/study1"] and test["sex"].tolist() == ["", ""]
    write(tmp_path / "labels" / "groundtruth.csv", [truth, gone], swapped)
    with pytest.raises(UserError, match=r"1 of the 9 images .* patient64742/study1/view1_frontal\.jpg"):
        load_table(cfg)
    with pytest.raises(UserError, match=r"set data\.official_valid=val"):
        read(data_config("chexpert", root=str(tmp_path), test_csv="groundtruth.csv"))


def test_chexlocalize_beside_the_small_release(tmp_path: Path) -> None:
    train = train_rows("CheXpert-v1.0-small/train/")
    write(tmp_path / "CheXpert-v1.0-small" / "train.csv", train)
    touch(tmp_path / "CheXpert-v1.0-small" / "train", train)
    localize = tmp_path / "chexlocalize" / "chexlocalize" / "CheXpert"
    columns = ["Path", *COLUMNS]  # no Sex, Age, Frontal/Lateral, AP/PA
    val = valid_rows("CheXpert-v1.0/valid/")
    test = [
        row(f"test/patient64741/study1/view{v}.jpg") | dict.fromkeys(COLUMNS, "1") for v in ("1_frontal", "2_lateral")
    ]
    write(localize / "val_labels.csv", val, columns)
    write(localize / "test_labels.csv", test, columns)
    touch(localize / "val", val)
    touch(localize / "test", test)
    frame = read(data_config("chexpert", root=str(tmp_path), official_valid="val")).frame
    assert frame["split"].value_counts().to_dict() == {"train": 6, "val": 2, "test": 2}
    assert frame["view"].tolist()[-2:] == ["frontal", "lateral"]
    assert all((tmp_path / image).is_file() for image in frame["image"])


def test_a_release_that_is_there_twice_uses_the_copy_beside_its_table(tmp_path: Path) -> None:
    layout(tmp_path, "small")
    touch(tmp_path / "A copy" / "train", train_rows("train/"))
    table = read(data_config("chexpert", root=str(tmp_path)))
    assert table.frame["image"].str.startswith("CheXpert-v1.0-small/").all()
    assert any("6 images lie under the root more than once" in note for note in table.notes)


def test_another_training_table(tmp_path: Path) -> None:
    layout(tmp_path, "batches")
    changed = [r | {"Edema": "1.0"} for r in train_rows("CheXpert-v1.0/train/")]
    write(tmp_path / "chexpertchestxrays-u20210408" / "train_cheXbert.csv", changed)
    frame = read(data_config("chexpert", root=str(tmp_path), csv="train_cheXbert.csv")).frame
    assert frame.query("split == 'train'")["Edema"].tolist() == [1.0] * 6


def many(root: Path, patients: int = 40) -> None:
    train = []
    for n in range(1, patients + 1):
        labels = {name.replace(" ", "_"): f"{(n + k) % 4 == 0:d}" for k, name in enumerate(COLUMNS)}
        train.append(row(f"CheXpert-v1.0-small/train/patient{n:05d}/study1/view1_frontal.jpg", **labels))
        train.append(row(f"CheXpert-v1.0-small/train/patient{n:05d}/study1/view2_lateral.jpg", **labels))
    valid = valid_rows("CheXpert-v1.0-small/valid/")
    top = root / "CheXpert-v1.0-small"
    write(top / "train.csv", train)
    write(top / "valid.csv", valid)
    touch(top / "train", train)
    touch(top / "valid", valid)


def test_load_table_end_to_end(tmp_path: Path) -> None:
    many(tmp_path)
    keys = {"root": str(tmp_path), "val_fraction": 0.25}
    table = load_table(data_config("chexpert", **keys))
    assert len(table) == 42 and len(table.split("val")) == 10
    assert any("left out 40 of 82 rows" in note for note in table.notes)
    assert len(load_table(data_config("chexpert", views="all", **keys))) == 82
    more = load_table(data_config("chexpert", upsample=["Cardiomegaly", "Consolidation"], **keys))
    train = table.targets(table.split("train"))
    assert len(more) == 42 + train[:, 0].sum() + train[:, 2].sum()
    assert more.split("val").tolist() == table.split("val").tolist()
    with pytest.raises(UserError, match=r"data\.upsample names \['Fracture'\]"):
        load_table(data_config("chexpert", upsample=["Fracture"], **keys))


def test_a_label_missing_in_the_official_validation_set(tmp_path: Path) -> None:
    many(tmp_path)
    path = tmp_path / "CheXpert-v1.0-small" / "valid.csv"
    pd.read_csv(path).assign(Fracture=0.0).to_csv(path, index=False)
    keys = {"root": str(tmp_path), "labels": ["Edema", "Fracture"]}
    with pytest.raises(UserError, match=r"label 'Fracture' has no positive in val \(2 images\)"):
        load_table(data_config("chexpert", official_valid="val", **keys))
    notes = load_table(data_config("chexpert", val_fraction=0.25, **keys)).notes
    assert "label 'Fracture' has no positive in test (2 images): its test AUC is undefined" in notes


def test_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root is not set: give the folder that holds CheXpert"):
        read(data_config("chexpert"))
    with pytest.raises(UserError, match=r"data\.root=.*nowhere does not exist"):
        read(data_config("chexpert", root=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match=r"No train\.csv was found under data\.root"):
        read(data_config("chexpert", root=str(tmp_path)))
    layout(tmp_path, "small")
    root = str(tmp_path)
    with pytest.raises(UserError, match=r"no column 'Edemas' \(nearest: 'Edema'\).*Set data\.labels"):
        read(data_config("chexpert", root=root, labels=["Edemas"]))
    with pytest.raises(UserError, match=r"data\.csv=mine\.csv does not exist"):
        read(data_config("chexpert", root=root, csv="mine.csv"))
    train = train_rows("CheXpert-v1.0-small/train/")
    write(tmp_path / "odd.csv", [*train, row("somewhere/else.jpg")])
    with pytest.raises(UserError, match=r"odd\.csv, row 8: 'somewhere/else\.jpg' is no CheXpert path"):
        read(data_config("chexpert", root=root, csv="odd.csv"))
    write(tmp_path / "odd.csv", [train[0] | {"Edema": "maybe"}])
    with pytest.raises(UserError, match=r"odd\.csv, row 2, column 'Edema': 'maybe' is no label"):
        read(data_config("chexpert", root=root, csv="odd.csv"))


def test_a_large_table_is_read_in_seconds(tmp_path: Path) -> None:
    """Rows of a full train.csv over a few images on disk; the rest must be named as missing."""
    n = 60_000
    frame = pd.DataFrame(
        {
            "Path": [f"CheXpert-v1.0/train/patient{i // 3:05d}/study{i % 3}/view1_frontal.jpg" for i in range(n)],
            **dict.fromkeys(HEADER[1:], ""),
        }
    )
    frame.to_csv(tmp_path / "train.csv", index=False)
    touch(tmp_path / "train", frame.head(10).to_dict("records"))  # type: ignore[arg-type]
    start = time.process_time()
    with pytest.raises(UserError, match=f"{n - 10} of the {n} images"):
        load_table(data_config("chexpert", root=str(tmp_path)))
    assert time.process_time() - start < 10
