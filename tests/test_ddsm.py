"""DDSM+ in the exact format of its release: TFRecords by a public writer, npy of five-class labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_configs import data_config
from dataset_files import noise, write_ddsm
from tfrecord_files import entry, field, framed

from dam.data import load_table
from dam.data.datasets.ddsm import CODES, read
from dam.data.inspect import inspect
from dam.data.readers import ImageReader
from dam.data.table import ImageTable
from dam.errors import UserError


def table(root: Path, **changes: object) -> ImageTable:
    return read(data_config("ddsm", root=str(root), **changes))


def test_pixels_of_a_public_writer(tmp_path: Path) -> None:
    library = pytest.importorskip("tfrecord")
    images = noise(3, 299, 299)
    (tmp_path / "training10_0").mkdir()
    path = tmp_path / "training10_0" / "training10_0.tfrecords"
    writer = library.TFRecordWriter(str(path))
    for image, label in zip(images, (0, 3, 1), strict=True):
        writer.write(
            {
                "label": (label, "int"),
                "label_normal": (int(label != 0), "int"),
                "image": (image.tobytes(), "byte"),
                "filename": ("NORMAL".encode("utf-32-le"), "byte"),
            }
        )
    writer.close()
    np.save(tmp_path / "test10_data.npy", images[..., None])  # the flat variant
    np.save(tmp_path / "test10_labels.npy", np.array([0, 2, 4], np.int32))
    found = table(tmp_path)
    reader = ImageReader(tmp_path)
    assert len(found) == 6
    for row, name in enumerate(found.frame["image"]):
        assert np.array_equal(reader.read(name), images[row % 3])
    assert found.frame["abnormal"].tolist() == [0, 1, 1, 0, 1, 1]


def test_splits_labels_and_patients(tmp_path: Path) -> None:
    found = table(write_ddsm(tmp_path))
    frame = found.frame
    assert found.labels == ("abnormal",)
    assert frame["split"].value_counts().to_dict() == {"train": 120, "test": 16}
    assert frame.groupby("finding")["abnormal"].mean().to_dict() == {name: float(name != "normal") for name in CODES}
    testing = frame[frame["split"] == "test"]
    assert testing["finding"].nunique() == 5  # both halves: each alone has only masses or calcifications
    positive = frame[(frame["split"] == "train") & (frame["abnormal"] == 1)]
    assert positive["patient"].unique().tolist() == [f"P_{i:05d}" for i in range(5)]
    negative = frame[frame["abnormal"] == 0]
    assert (negative["patient"] == negative["image"]).all()
    assert frame["image"].iloc[0] == "training10_0/training10_0.tfrecords::0"
    assert any("patients are known for 20 training images" in note for note in found.notes)


def test_a_tenth_of_training_by_patient(tmp_path: Path) -> None:
    full = load_table(data_config("ddsm", root=str(write_ddsm(tmp_path, negatives=40))))
    counts = full.counts().set_index("split")
    assert counts.loc["val", "n"] == 22 and counts.loc["val", "positives"] == 4
    assert counts.loc["test", ["positives", "negatives"]].tolist() == [4, 12]


def test_malignant_against_benign(tmp_path: Path) -> None:
    found = table(write_ddsm(tmp_path), task="malignant")
    assert found.labels == ("malignant",) and set(found.frame["finding"]) == set(CODES[1:])
    assert found.frame.groupby("finding")["malignant"].mean().tolist() == [0, 0, 1, 1]
    assert any("left out 112 normal images" in note for note in found.notes)


def test_without_file_names_it_is_said(tmp_path: Path) -> None:
    found = table(write_ddsm(tmp_path, names=False))
    assert (found.frame["patient"] == found.frame["image"]).all()
    assert any("patients are unknown" in note and "crops of one lesion" in note for note in found.notes)


def test_absent_parts_are_said(tmp_path: Path) -> None:
    write_ddsm(tmp_path)
    for name in ("training10_2/training10_2.tfrecords", "cv10_data/cv10_data.npy"):
        (tmp_path / name).unlink()
    notes = table(tmp_path).notes
    assert "1 of the 5 training shards are absent: training10_2" in notes
    assert "cv10 is absent, so nearly all test positives are masses" in notes
    (tmp_path / "test10_labels.npy").unlink()
    with pytest.raises(UserError, match=r"not test10_labels\.npy: put it beside"):
        table(tmp_path)
    with pytest.raises(UserError, match=r"No training10_0\.tfrecords .* skooch/ddsm-mammography"):
        table(tmp_path / "cv10_data")


def test_truncated_shard(tmp_path: Path) -> None:
    write_ddsm(tmp_path)
    path = tmp_path / "training10_4" / "training10_4.tfrecords"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"training10_4\.tfrecords, record 23"):
        table(tmp_path)
    assert (table(tmp_path, on_bad_image="skip").frame["split"] == "train").sum() == 119


def test_unpacked_integers_and_records_without_a_label(tmp_path: Path) -> None:
    write_ddsm(tmp_path, names=False)
    pixels = noise(1, 225)[0].tobytes()
    unpacked = field(1, entry("label", [4], packed=False) + entry("image", [pixels]))
    bare = field(1, entry("image", [pixels]) + entry("label", [5]))
    path = tmp_path / "training10_1" / "training10_1.tfrecords"
    path.write_bytes(framed(unpacked))
    assert table(tmp_path).frame["finding"].iloc[24] == "malignant mass"
    path.write_bytes(framed(unpacked) + framed(bare))
    with pytest.raises(UserError, match=r"record 1, has no label 0 to 4"):
        table(tmp_path)
    notes = table(tmp_path, on_bad_image="skip").notes
    assert "left out 1 record of training10_1/training10_1.tfrecords without a label: 1" in notes


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        (np.array([0, 1, 2, 3, 4, 5, 0, 0]), "row 5: 5 is no label; labels are 0 to 4"),
        (np.array([0, 1, 2]), "8 labels were expected"),
        (np.array([0.5] * 8), "row 0: 0.5 is no label"),
        (np.array([{}] * 8, dtype=object), "no plain numpy array"),
    ],
)
def test_other_label_files(tmp_path: Path, codes: np.ndarray, told: str) -> None:
    write_ddsm(tmp_path)
    np.save(tmp_path / "cv10_labels.npy", codes, allow_pickle=True)
    with pytest.raises(UserError, match=told):
        table(tmp_path)


def test_the_label_is_the_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one label is its task, 'abnormal'"):
        table(write_ddsm(tmp_path), labels=["malignant"])


def test_a_cut_shard_is_counted_and_told_by_check(tmp_path: Path) -> None:
    root = write_ddsm(tmp_path)
    shard = next(tmp_path.rglob("training10_1.tfrecords"))
    whole = len(table(root))
    shard.write_bytes(shard.read_bytes()[:-7])
    left = table(root, on_bad_image="skip")
    assert len(left) == whole - 1
    assert any("left out all after the first" in note and "was not copied whole" in note for note in left.notes)
    found = inspect(data_config("ddsm", root=str(root)), 1)
    assert any("was not copied whole" in told for told in found.refused)
    assert inspect(data_config("ddsm", root=str(root), on_bad_image="skip"), 1).refused == ()
    shard.write_bytes(b"")
    with pytest.raises(UserError, match=r"training10_1.tfrecords is empty: .* get it again"):
        table(root)
