from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_configs import data_config
from melanoma_files import (
    DEOTTE,
    OFFICIAL,
    decoded,
    deotte,
    isic2019,
    jpeg,
    picture,
    save,
    save_csv,
    save_records,
    table,
)
from tfrecord_files import Feature, write_records

from dam.data import load_table
from dam.data.datasets.melanoma import read
from dam.data.readers import ImageReader
from dam.errors import UserError

ROWS = table()
KEPT = ROWS[ROWS["tfrecord"] >= 0]


def config(root: Path, **keys: object) -> object:
    return data_config("melanoma", root=str(root), **keys)


def layout(root: Path, kind: str) -> None:
    names = ROWS["image_name"]
    twice = pd.DataFrame({"image_name_1": ["ISIC_0001000"], "image_name_2": ["ISIC_0001001"]})
    if kind == "deotte":
        deotte(root)
    elif kind == "deotte, a level down, beside others":
        deotte(root / "jpeg-melanoma-256x256")
        isic2019(root / "jpeg-isic2019-256x256", ["ISIC_0500000", "ISIC_0500001"])
    elif kind == "table above the sizes":
        save_csv(root / "train.csv", ROWS, DEOTTE)
        save(root / "256x256" / "train", names)
        save(root / "256x256" / "test", ["ISIC_9999999"])
    elif kind == "kaggle":
        save_csv(root / "train.csv", ROWS, OFFICIAL)
        save_csv(root / "ISIC_2020_Training_Duplicates.csv", twice, list(twice))
        save(root / "jpeg" / "train", names)
        save(root / "jpeg" / "test", ["ISIC_9999999"])
        (root / "train").mkdir()
        (root / "train" / "ISIC_0000000.dcm").touch()
    elif kind == "isic archive":
        save_csv(
            root / "ISIC_2020_Training_GroundTruth_v2.csv", ROWS.assign(lesion_id="IL_1"), [*OFFICIAL, "lesion_id"]
        )
        save_csv(root / "ISIC_2020_Training_GroundTruth.csv", ROWS, OFFICIAL)
        save_csv(root / "ISIC_2020_Training_Duplicates.csv", twice, list(twice))
        save(root / "train", names)
    elif kind == "flat":
        save_csv(root / "train.csv", ROWS, DEOTTE)
        save(root, names)
    elif kind == "tfrecords":
        save_csv(root / "train.csv", ROWS, DEOTTE)
        save_records(root, KEPT, KEPT["tfrecord"].tolist())
    elif kind == "tfrecords, official table":
        save_csv(root / "train.csv", ROWS, OFFICIAL)
        save_records(root, KEPT, KEPT["tfrecord"].tolist())
    else:  # Kaggle's own TFRecords: no groups, duplicates are in
        save_csv(root / "train.csv", ROWS, OFFICIAL)
        save_csv(root / "ISIC_2020_Training_Duplicates.csv", twice, list(twice))
        save_records(root / "tfrecords", ROWS, [n * 16 // len(ROWS) for n in range(len(ROWS))])


GROUPED = [
    "deotte", "deotte, a level down, beside others", "table above the sizes", "flat", "tfrecords",
    "tfrecords, official table",
]  # fmt: skip


@pytest.mark.parametrize("kind", [*GROUPED, "kaggle", "isic archive", "kaggle's tfrecords"])
def test_every_release_gives_the_same_table(tmp_path: Path, kind: str) -> None:
    layout(tmp_path, kind)
    found = read(config(tmp_path))
    frame = found.frame
    assert len(frame) == 29 and found.labels == ("melanoma",)
    assert frame["melanoma"].tolist() == KEPT["target"].tolist()
    assert frame["patient"].tolist() == KEPT["patient_id"].tolist()
    assert frame["sex"].tolist() == KEPT["sex"].tolist() and (frame["sex"] == "").any()
    assert frame["age"].isna().sum() == 2 and frame["age"].iloc[0] == 30.0
    assert frame["site"].tolist() == KEPT["anatom_site_general_challenge"].tolist()
    assert set(frame["split"]) == {""}
    grouped = ("fold_group",) if kind in GROUPED else ()
    assert found.metadata == ("sex", "age", "site", *grouped)  # diagnosis would tell the label
    if grouped:
        assert frame["fold_group"].tolist() == KEPT["tfrecord"].astype(str).tolist()
    assert any(note.startswith("left out 1 duplicate by") for note in found.notes)
    reader = ImageReader(found.root)
    for locator, name in zip(frame["image"], KEPT["image_name"], strict=True):
        assert np.array_equal(reader.read(locator), decoded(name))
    assert read(config(tmp_path, duplicates="keep")).notes != found.notes


def test_dicom_images(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    rows = table(3)
    save_csv(tmp_path / "train.csv", rows, OFFICIAL)
    (tmp_path / "train").mkdir()
    for name in rows["image_name"]:
        pixels = picture(name, height=20)
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = "1.2.3"
        data = pydicom.dataset.FileDataset("", {}, preamble=bytes(128), file_meta=meta)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
        data.Rows, data.Columns, data.SamplesPerPixel, data.PlanarConfiguration = 20, 16, 3, 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation, data.PhotometricInterpretation = 7, 0, "RGB"
        data.PixelData = pixels.tobytes()
        data.save_as(tmp_path / "train" / f"{name}.dcm", enforce_file_format=True)
    frame = read(config(tmp_path)).frame
    assert frame["image"].iloc[1] == "train/ISIC_0000001.dcm"
    assert np.array_equal(ImageReader(tmp_path).read(frame["image"].iloc[1]), picture("ISIC_0000001", height=20))
    with pytest.raises(UserError, match=r"data\.images=tfrecord, but no such images of train\.csv were found"):
        read(config(tmp_path, images="tfrecord"))


def test_which_images_are_taken_can_be_said(tmp_path: Path) -> None:
    layout(tmp_path, "deotte")
    save_records(tmp_path / "tfrecords", KEPT, KEPT["tfrecord"].tolist())
    assert read(config(tmp_path)).frame["image"].iloc[0] == "train/ISIC_0000000.jpg"
    records = read(config(tmp_path, images="tfrecord")).frame["image"]
    assert records.iloc[0] == "tfrecords/train00-2.tfrec::0"


def test_without_a_list_of_duplicates_all_stay(tmp_path: Path) -> None:
    layout(tmp_path, "kaggle")
    (tmp_path / "ISIC_2020_Training_Duplicates.csv").unlink()
    found = read(config(tmp_path))
    assert len(found) == 30 and any("no list of duplicates is here" in note for note in found.notes)


def test_kept_duplicates_are_in_the_group_of_their_patient(tmp_path: Path) -> None:
    frame = read(config(deotte(tmp_path), duplicates="keep")).frame
    assert len(frame) == 30 and frame.query("patient == 'IP_0000001'")["fold_group"].tolist() == ["1", "1"]


def test_groups_as_the_test_set(tmp_path: Path) -> None:
    found = load_table(config(deotte(tmp_path, table(30)), test_groups=[12, 13, 14], val_fraction=0.25))
    test = found.frame[found.frame["split"] == "test"]
    assert set(test["fold_group"]) == {"12", "13", "14"} and len(test) == 12
    with pytest.raises(UserError, match=r"data\.test_groups names 15, but this table's groups are 0, 1, .*, 14\."):
        read(config(tmp_path, test_groups=[15]))
    (tmp_path / "kaggle").mkdir()
    layout(tmp_path / "kaggle", "kaggle")
    with pytest.raises(UserError, match=r"data\.test_groups needs the leak-free groups of a tfrecord column"):
        read(config(tmp_path / "kaggle", test_groups=[1]))


# ---------------------------------------------------------------- external sets

OUTSIDE = ["ISIC_0000000", *(f"ISIC_05000{n:02d}" for n in range(1, 12))]  # the first is in the main table


@pytest.mark.parametrize("records", [False, True])
def test_external_images_only_train(tmp_path: Path, records: bool) -> None:
    root = deotte(tmp_path / "jpeg-melanoma-256x256", table(40))
    isic2019(tmp_path / "isic2019", ["ISIC_0599999", *OUTSIDE[1:], OUTSIDE[0]][:12], records)
    keys = {"external": ["../isic2019"], "val_fraction": 0.25}
    frame = read(config(root, **keys)).frame
    extra = frame[frame["split"] == "extra"]
    assert len(extra) == 11 and not extra["image"].str.contains("ISIC_0599999").any()  # its group is below 0
    assert (extra["patient"] == extra["image"]).all() and extra["image"].is_unique
    assert set(extra["source"]) == {"isic2019"} and set(extra["fold_group"]) == {""}
    reader = ImageReader(root)
    assert np.array_equal(reader.read(extra["image"].iloc[0]), decoded(OUTSIDE[1]))
    if not records:
        assert set(extra["site"]) == {"torso", "upper extremity"}
    table_ = load_table(config(root, **keys))
    placed = table_.frame[table_.frame["source"] == "isic2019"]
    assert set(placed["split"]) == {"train"} and len(placed) == 11
    alone = load_table(config(root, val_fraction=0.25)).frame
    for split in ("val", "test"):  # the cuts are the same with and without
        assert table_.frame["image"][table_.frame["split"] == split].tolist() == (
            alone["image"][alone["split"] == split].tolist()
        )


def test_what_is_left_out_of_external_sets(tmp_path: Path) -> None:
    root = deotte(tmp_path / "main")
    isic2019(tmp_path / "isic2019", ["ISIC_0599999", "ISIC_0500001", *OUTSIDE[:1], "ISIC_0001001", *OUTSIDE[2:8]])
    notes = read(config(root, external=["../isic2019"])).notes
    told = "isic2019: 7 images (2 melanoma) train only; 1 row left out, removed by its makers (tfrecord below 0)"
    assert f"{told}; 2 rows left out, in the main table or a set before" in notes  # also a duplicate left out there
    for years, kept in (("until_2018", {4, 6, 8}), ("only_2019", {1, 5, 7, 9})):
        frame = read(config(root, external=["../isic2019"], external_years=years)).frame
        names = ["ISIC_0599999", "ISIC_0500001", *OUTSIDE[:1], "ISIC_0001001", *OUTSIDE[2:8]]
        found = {names.index(Path(p).stem) for p in frame["image"][frame["split"] == "extra"]}
        assert found == kept
    with pytest.raises(
        UserError, match=r"data\.external: \.\./isic2019 adds no image .*in the main table or a set bef"
    ):
        read(config(root, external=["../isic2019", "../isic2019"]))


def test_malignant_sets(tmp_path: Path) -> None:
    root = deotte(tmp_path / "main")
    folder = tmp_path / "malignant-v2-256x256"
    groups = [0, 14, 15, 16, 29, 30, 31, 58, 59]
    names = [f"ISIC_07000{n:02d}" for n in range(len(groups))]
    rows = table(9, 1).assign(image_name=names, patient_id="-1", tfrecord=groups, target=1, width="", height="")
    save_csv(folder / "train.csv", rows, DEOTTE)
    save(folder / "jpeg256", names)
    for years, kept in (("all", groups[2:]), ("until_2018", [15, 16, 29, 30, 58]), ("only_2019", [15, 16, 29, 31, 59])):
        frame = read(config(root, external=["../malignant-v2-256x256"], external_years=years)).frame
        found = [groups[names.index(Path(p).stem)] for p in frame["image"][frame["split"] == "extra"]]
        assert found == kept


def test_the_official_release_of_isic_2019(tmp_path: Path) -> None:
    root = deotte(tmp_path / "main")
    folder = tmp_path / "ISIC_2019"
    names = ["ISIC_0500000", "ISIC_0500001_downsampled", "ISIC_0500002"]
    truth = pd.DataFrame({"image": names, "MEL": [0.0, 1.0, 0.0], "NV": [1.0, 0.0, 0.0], "UNK": [0.0, 0.0, 1.0]})
    about = pd.DataFrame(
        {
            "image": names[:2], "age_approx": [55.0, None], "anatom_site_general": ["lateral torso", "palms/soles"],
            "lesion_id": "", "sex": ["female", "male"],
        }
    )  # fmt: skip
    save_csv(folder / "ISIC_2019_Training_GroundTruth.csv", truth, list(truth))
    save_csv(folder / "ISIC_2019_Training_Metadata.csv", about, list(about))
    save(folder / "ISIC_2019_Training_Input" / "ISIC_2019_Training_Input", names)
    for entry in ("../ISIC_2019", str(folder), str(folder / "ISIC_2019_Training_GroundTruth.csv")):
        frame = read(config(root, external=[entry])).frame.query("split == 'extra'")
        assert frame["melanoma"].tolist() == [0.0, 1.0, 0.0]
        assert frame["site"].tolist() == ["torso", "palms/soles", ""] and frame["sex"].tolist() == [
            "female",
            "male",
            "",
        ]
        assert frame["age"].tolist()[0] == 55.0 and frame["age"].isna().sum() == 2
        assert all((root / image).is_file() for image in frame["image"])
    with pytest.raises(UserError, match=r"data\.external_years=until_2018: .* set data\.external_years=all"):
        read(config(root, external=["../ISIC_2019"], external_years="until_2018"))


# ---------------------------------------------------------------- sentences


def test_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root is not set"):
        read(data_config("melanoma"))
    with pytest.raises(UserError, match=r"No train\.csv or .* was found under data\.root"):
        read(config(tmp_path))
    deotte(tmp_path / "a")
    with pytest.raises(UserError, match=r"melanoma has one label, 'melanoma'"):
        read(config(tmp_path, labels=["target"]))
    with pytest.raises(UserError, match=r"data\.external: nowhere does not exist"):
        read(config(tmp_path, external=["nowhere"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.external: .*empty holds neither train\.csv"):
        read(config(tmp_path, external=["empty"]))
    deotte(tmp_path / "b")
    with pytest.raises(UserError, match=r"holds several releases \(a, b\): set data\.root to one of them"):
        read(config(tmp_path))


def test_sizes_side_by_side_must_be_chosen(tmp_path: Path) -> None:
    layout(tmp_path, "table above the sizes")
    save(tmp_path / "512x512" / "train", ROWS["image_name"])
    with pytest.raises(UserError, match=r"in several folders below .* \(256x256/train, 512x512/train\)"):
        read(config(tmp_path))
    frame = read(config(tmp_path / "512x512", csv=str(tmp_path / "train.csv"))).frame
    assert frame["image"].iloc[0] == "train/ISIC_0000000.jpg" and len(frame) == 29


def test_unused_external_sets_are_named(tmp_path: Path) -> None:
    layout(tmp_path, "deotte, a level down, beside others")
    notes = read(config(tmp_path)).notes
    assert "jpeg-isic2019-256x256 under the root is not used (to train with it: data.external=[...])" in notes


def test_damaged_records(tmp_path: Path) -> None:
    layout(tmp_path, "tfrecords")
    shard = tmp_path / "train03-2.tfrec"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"train03-2\.tfrec, record 1 .* was not copied whole"):
        read(config(tmp_path))
    found = read(config(tmp_path, on_bad_image="skip"))
    assert "train03-2.tfrec holds 1 image, but its name says 2" in found.notes
    left = load_table(config(tmp_path, on_bad_image="skip", val_fraction=0.25, test_fraction=0.25))
    assert len(left) == 28
    shutil.copy(tmp_path / "train02-2.tfrec", tmp_path / "train16-3.tfrec")
    shard.unlink()
    with pytest.raises(UserError, match=r"train16-3\.tfrec holds 2 images, but its name says 3"):
        read(config(tmp_path))


@pytest.mark.parametrize("target", [[b"1"], [float("nan")], [2], [0, 1]])
def test_a_target_that_is_none(tmp_path: Path, target: Feature) -> None:
    table(1).to_csv(tmp_path / "train.csv", index=False)
    record = {"image": [jpeg("ISIC_0000000")], "image_name": [b"ISIC_0000000"], "target": target}
    write_records(tmp_path / "train00-1.tfrec", [record])
    with pytest.raises(UserError, match="record 0, has a target that is neither 0 nor 1"):
        load_table(config(tmp_path))


def test_records_of_another_set_are_refused(tmp_path: Path) -> None:
    save_csv(tmp_path / "train.csv", ROWS.assign(target=1 - ROWS["target"]), DEOTTE)
    save_records(tmp_path, KEPT, KEPT["tfrecord"].tolist())
    with pytest.raises(UserError, match=r"row 2: ISIC_0000000 has another target in the TFRecords \(one of 29\)"):
        read(config(tmp_path))


# ---------------------------------------------------------------- real tables

real = pytest.mark.skipif("DAM_REAL_DATA" not in os.environ, reason="DAM_REAL_DATA names no folder of data packs")
SIZES = [2182, 2185, 2193, 2182, 2167, 2171, 2175, 2174, 2177, 2178, 2174, 2176, 2198, 2186, 2174]
MELANOMAS = [38, 38, 39, 40, 38, 38, 38, 39, 39, 39, 39, 39, 39, 39, 39]


@pytest.mark.real_data
@real
def test_the_real_table() -> None:
    from real_data import packs

    root = packs() / "siim-isic-csv"
    start = time.perf_counter()
    found = read(config(root, csv="train_cdeotte.csv.gz"))
    print(f"\n33,126 rows: {time.perf_counter() - start:.2f} s")
    frame = found.frame
    assert (len(frame), int(frame["melanoma"].sum()), frame["patient"].nunique()) == (32692, 581, 2056)
    assert "left out 434 duplicates by the tfrecord column (C. Deotte's list)" in found.notes
    groups = frame.groupby(frame["fold_group"].astype(int))["melanoma"].agg(["size", "sum"])
    assert groups["size"].tolist() == SIZES and groups["sum"].tolist() == MELANOMAS
    assert frame.groupby("patient")["fold_group"].nunique().max() == 1
    raw = pd.read_csv(root / "train_cdeotte.csv.gz").query("tfrecord >= 0").set_index("image_name")["tfrecord"]
    assert (frame["image"].map(lambda p: raw[Path(p).stem]).astype(str) == frame["fold_group"]).all()
    third = frame[frame["fold_group"].isin(["12", "13", "14"])]  # LibAUC's test set
    assert (len(third), int(third["melanoma"].sum())) == (6558, 117)
    everything = read(config(root, csv="train.csv.gz")).frame
    assert (len(everything), int(everything["melanoma"].sum())) == (33126, 584)
    assert (everything["sex"] == "").sum() == 65 and everything["age"].isna().sum() == 68
    assert (everything["site"] == "").sum() == 527 and everything["site"].nunique() == 7


@pytest.mark.real_data
@real
def test_folds_of_the_real_table_are_its_groups(tmp_path: Path) -> None:
    from real_data import packs

    names = pd.read_csv(packs() / "siim-isic-csv" / "train_cdeotte.csv.gz", usecols=["image_name"])["image_name"]
    (tmp_path / "train").mkdir()
    for name in names:
        (tmp_path / "train" / f"{name}.jpg").touch()
    shutil.copy(packs() / "siim-isic-csv" / "train_cdeotte.csv.gz", tmp_path)
    keys = {"csv": "train_cdeotte.csv.gz", "test_fraction": 0.0, "folds": 5}
    sizes, seen = [], set()
    for fold in range(5):
        start = time.perf_counter()
        found = load_table(config(tmp_path, fold=fold, **keys))
        print(f"\nfold {fold}: {time.perf_counter() - start:.2f} s")
        rows = found.frame[found.frame["split"] == "val"]
        assert set(rows["fold_group"]) == {str(3 * fold + k) for k in range(3)}
        assert not seen & set(rows["patient"])
        seen |= set(rows["patient"])
        sizes.append((len(rows), int(rows["melanoma"].sum())))
    assert sizes == [(sum(SIZES[3 * f : 3 * f + 3]), sum(MELANOMAS[3 * f : 3 * f + 3])) for f in range(5)]


@pytest.mark.real_data
@real
def test_real_ham10000_mini() -> None:
    from real_data import packs

    found = load_table(config(packs() / "ham10000-mini"))
    frame = found.frame
    assert (len(frame), int(frame["melanoma"].sum()), frame["patient"].nunique()) == (560, 37, 560)
    assert ImageReader(found.root).read(frame["image"].iloc[0]).shape == (224, 224, 3)
