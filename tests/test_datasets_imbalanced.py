from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from data_configs import data_config
from dataset_files import cifar100_labels, noise, write_cifar100_binary, write_cifar100_python

from dam.data import load_table
from dam.data.datasets.cifar import CLASSES, read_cifar10 as read, read_cifar100
from dam.data.datasets.cifar_pickle import PIXELS, load_batch, load_class_names
from dam.data.readers import ImageReader
from dam.data.splits import imbalanced_indices
from dam.errors import UserError

PER_BATCH = 40


def batch(seed: int) -> tuple[np.ndarray, list[int]]:
    g = np.random.default_rng(seed)
    return g.integers(0, 256, (PER_BATCH, PIXELS), dtype=np.uint8), [int(i) % 10 for i in range(PER_BATCH)]


def short(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def official(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and an old numpy wrote it: protocol 2, bytes keys, three numpy globals."""
    out = io.BytesIO()
    out.write(b"\x80\x02}(")
    out.write(short(b"batch_label") + short(b"training batch 1 of 5"))
    out.write(short(b"labels") + b"](" + b"".join(b"K" + bytes([v]) for v in labels) + b"e")
    out.write(short(b"data") + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b"))
    out.write(b"\x87R(K\x01")
    out.write(b"M" + struct.pack("<H", data.shape[0]) + b"M" + struct.pack("<H", data.shape[1]) + b"\x86")
    out.write(b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R(K\x03" + short(b"|") + b"NNN")
    out.write(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    raw = data.tobytes()
    out.write(b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb")
    out.write(short(b"filenames") + b"](" + b"".join(short(f"img\xe4{i}.png".encode("latin1")) for i in labels) + b"e")
    out.write(b"u.")
    return out.getvalue()


def write_python(root: Path, batches: int = 5) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i in range(1, batches + 1):
        (folder / f"data_batch_{i}").write_bytes(official(*batch(i)))
    (folder / "test_batch").write_bytes(official(*batch(0)))
    meta = {b"label_names": [name.encode() for name in CLASSES], b"num_vis": PIXELS}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def write_binary(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for i in range(6):
        data, labels = batch(i)
        rows = np.concatenate([np.array(labels, np.uint8)[:, None], data], axis=1)
        (folder / (f"data_batch_{i}.bin" if i else "test_batch.bin")).write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    return folder


def test_official_and_binary_batches_hold_the_same(tmp_path: Path) -> None:
    data, labels = batch(1)
    for path in (write_python(tmp_path) / "data_batch_1", write_binary(tmp_path) / "data_batch_1.bin"):
        found = load_batch(path)
        assert found["data"].dtype == np.uint8 and np.array_equal(found["data"], data)
        assert found["labels"].tolist() == labels
    assert load_batch(tmp_path / "cifar-10-batches-py" / "data_batch_1")["filenames"][0] == "imgä0.png"
    assert load_class_names(tmp_path / "cifar-10-batches-py" / "batches.meta") == list(CLASSES)
    assert load_class_names(tmp_path / "cifar-10-batches-bin" / "batches.meta.txt") == list(CLASSES)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_files_saved_again_by_a_newer_python_are_read(tmp_path: Path, protocol: int) -> None:
    data, labels = batch(1)
    (tmp_path / "b").write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol=protocol))
    assert np.array_equal(load_batch(tmp_path / "b")["data"], data)


class Run:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


def forbidden() -> dict[str, bytes]:
    wild = b"\x80\x02cnumpy\nndarray\n(K\x01\x85cnumpy\ndtype\nU\x01O\x85RU\x08\x41\x41\x41\x41\x41\x41\x41\x41tR."
    return {
        "a system call": pickle.dumps(Run(os.system, "true")),
        "eval": pickle.dumps(Run(eval, "1"), protocol=2),
        "an object array over bytes": wild,
        "an object dtype": official(*batch(1)).replace(b"cnumpy\ndtype\nU\x02u1", b"cnumpy\ndtype\nU\x02O8"),
        "another float array": pickle.dumps({b"data": np.zeros((2, PIXELS)), b"labels": [1, 2]}, protocol=2),
        "too few bytes": official(*batch(1)).replace(
            b"M" + struct.pack("<H", PER_BATCH) + b"M", b"M" + struct.pack("<H", PER_BATCH + 1) + b"M"
        ),
        "state for the array type": b"\x80\x02cnumpy\nndarray\n}b.",
        "not a pickle": b"hello",
        "nothing": b"",
        "a list": pickle.dumps([1]),
        "no images": pickle.dumps({b"labels": [1]}),
        "wrong labels": official(*batch(1)).replace(b"K\x00K\x01K\x02", b"K\x00NK\x02"),
    }


@pytest.mark.parametrize("kind", list(forbidden()))
def test_anything_else_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "data_batch_1").write_bytes(forbidden()[kind])
    with pytest.raises(UserError, match="data_batch_1"):
        load_batch(tmp_path / "data_batch_1")


def test_a_binary_file_cut_short_is_refused(tmp_path: Path) -> None:
    folder = write_binary(tmp_path)
    path = folder / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="was cut short"):
        load_batch(path)


@pytest.mark.parametrize("writer", [write_python, write_binary])
def test_the_upper_half_of_the_classes_is_positive(tmp_path: Path, writer: object) -> None:
    folder = writer(tmp_path)  # type: ignore[operator]
    table = read(data_config("cifar10", root=str(tmp_path)))
    assert len(table) == 6 * PER_BATCH and table.labels == ("positive",)
    suffix = ".bin" if folder.name.endswith("bin") else ""
    assert table.frame["image"].iloc[PER_BATCH + 17] == f"{folder.name}/data_batch_2{suffix}::17"
    assert table.frame["class"].iloc[:10].tolist() == list(CLASSES)
    assert table.frame["positive"].iloc[:10].tolist() == [0.0] * 5 + [1.0] * 5
    assert table.frame["split"].value_counts().to_dict() == {"train": 5 * PER_BATCH, "test": PER_BATCH}
    assert read(data_config("cifar10", root=str(folder))).frame["positive"].equals(table.frame["positive"])


def test_the_binary_version_is_preferred(tmp_path: Path) -> None:
    write_python(tmp_path)
    write_binary(tmp_path)
    assert read(data_config("cifar10", root=str(tmp_path))).frame["image"].iloc[0].endswith(".bin::0")


def test_classes_by_name_or_id_and_missing_batches(tmp_path: Path) -> None:
    write_python(tmp_path, batches=2)
    table = read(data_config("cifar10", root=str(tmp_path), positive_classes=["cat", "9"]))
    assert table.frame.loc[table.frame["positive"] == 1, "class"].unique().tolist() == ["cat", "truck"]
    assert table.notes == (
        "3 of CIFAR-10's six files are absent",
        "cifar-10-batches-py holds 120 images, the published one 30000",
        "positive classes: cat, truck",
    )


def test_imratio_then_validation(tmp_path: Path) -> None:
    write_python(tmp_path)
    table = load_table(data_config("cifar10", root=str(tmp_path), imratio=0.2, val_fraction=0.2))
    counts = table.counts().set_index("split")
    assert counts.loc["train", "positives"] + counts.loc["val", "positives"] == 25
    assert counts.loc["val", ["positives", "negatives"]].tolist() == [5, 20]
    assert counts.loc["test", ["positives", "negatives"]].tolist() == [20, 20]


def test_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No CIFAR-10 batch .* unpack cifar-10-python\.tar\.gz"):
        read(data_config("cifar10", root=str(tmp_path)))
    write_python(tmp_path)
    root = str(tmp_path)
    with pytest.raises(UserError, match=r"'zebra' is no class; the classes are airplane"):
        read(data_config("cifar10", root=root, positive_classes=["zebra"]))
    with pytest.raises(UserError, match="names every class"):
        read(data_config("cifar10", root=root, positive_classes=list(CLASSES)))
    with pytest.raises(UserError, match=r"cifar10 has one label, 'positive'"):
        read(data_config("cifar10", root=root, labels=["dog"]))


# ---------------------------------------------------------------- CIFAR-100


@pytest.mark.parametrize("writer", [write_cifar100_python, write_cifar100_binary])
def test_cifar100_by_its_fine_labels(tmp_path: Path, writer: object) -> None:
    folder = writer(tmp_path)  # type: ignore[operator]
    for root in (tmp_path, folder):
        table = read_cifar100(data_config("cifar100", root=str(root)))
        fine, coarse = cifar100_labels(60)
        training = table.frame[table.frame["split"] == "train"]
        assert training["positive"].tolist() == [float(f >= 50) for f in fine]
        assert training["class"].tolist() == [f"fine{f}" for f in fine]
        assert training["coarse"].tolist() == [f"coarse{c}" for c in coarse]
        assert len(table) == 100
        pixels = noise(60, 3072, seed=1)[17].reshape(3, 32, 32).transpose(1, 2, 0)
        assert np.array_equal(ImageReader(root).read(training["image"].iloc[17]), pixels)
    assert table.notes[0] == f"{folder.name} holds 100 images, the published one 60000"
    assert "fine50" in table.notes[-1]


def test_cifar100_without_names_and_by_id(tmp_path: Path) -> None:
    (write_cifar100_python(tmp_path) / "meta").unlink()
    table = read_cifar100(data_config("cifar100", root=str(tmp_path), positive_classes=["7", "14"]))
    assert table.frame.loc[table.frame["positive"] == 1, "class"].unique().tolist() == ["7", "14"]
    assert table.frame["coarse"].iloc[1] == "1"


def test_cifar100_sentences(tmp_path: Path) -> None:
    (tmp_path / "train").write_bytes(b"somebody's file of an everyday name")
    with pytest.raises(UserError, match=r"No CIFAR-100 batch \(train or train\.bin\).* unpack cifar-100-python"):
        read_cifar100(data_config("cifar100", root=str(tmp_path)))
    folder = write_cifar100_binary(tmp_path)
    path = folder / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"train\.bin has 184439 bytes, not a multiple of 3074: .* cut short"):
        read_cifar100(data_config("cifar100", root=str(tmp_path)))
    path.unlink()
    with pytest.raises(UserError, match="test batch but no training batch"):
        read_cifar100(data_config("cifar100", root=str(tmp_path)))


def test_a_cifar10_batch_is_no_cifar100(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(official(*batch(1)))
    with pytest.raises(UserError, match="no coarse labels"):
        read_cifar100(data_config("cifar100", root=str(tmp_path)))


# ---------------------------------------------------------------- the counts of the benchmarks


@pytest.mark.parametrize(
    ("negatives", "positives"),
    [(25000, (252, 1315, 2777, 6250)), (2500, (25, 131, 277, 625)), (10000, (101, 526, 1111, 2500))],
)
def test_positives_left_at_each_imratio(negatives: int, positives: tuple[int, ...]) -> None:
    # CIFAR (25,000 + 25,000), STL-10 and Cat & Dog; the paper's shares
    positive = np.arange(2 * negatives) % 2 == 1
    for imratio, expected in zip((0.01, 0.05, 0.1, 0.2), positives, strict=True):
        kept = imbalanced_indices(positive, imratio, 0)
        assert positive[kept].sum() == expected and (~positive[kept]).sum() == negatives
        assert len(np.unique(kept)) == len(kept)
        assert set(kept[positive[kept]]) != set(imbalanced_indices(positive, imratio, 1)[positive[kept]])


@pytest.mark.real_data
@pytest.mark.skipif("DAM_REAL_DATA" not in os.environ, reason="DAM_REAL_DATA names no folder of data packs")
def test_real_cifar10() -> None:
    from real_data import cifar10_folder

    folder = cifar10_folder()
    first = load_batch(folder / "data_batch_1")
    assert first["data"].shape == (10000, PIXELS) and first["labels"][0] == 6
    assert first["data"][0].reshape(3, 32, 32)[:, 0, 0].tolist() == [59, 62, 63]
    with open(folder / "data_batch_1", "rb") as file:
        plain = pickle.load(file, encoding="bytes")
    assert np.array_equal(first["data"], plain[b"data"]) and first["labels"].tolist() == plain[b"labels"]
    table = load_table(data_config("cifar10", root=str(folder), imratio=0.01, val_fraction=0.1))
    counts = table.counts().set_index("split")
    assert counts.loc["train", "positives"] + counts.loc["val", "positives"] == 252
    assert counts.loc["val", "positives"] == 25 and counts.loc["val", "n"] == 2525
    assert counts.loc["test", ["positives", "negatives"]].tolist() == [5000, 5000]
    kept = set(table.frame["image"][table.frame["split"] != "test"])
    assert len(kept) == 25252
    for index in (22382, 23377, 27338, 45683, 47004):  # the first that LibAUC keeps with seed 0
        assert f"data_batch_{index // 10000 + 1}::{index % 10000}" in kept


def test_file_names_of_another_type_are_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 6], b"filenames": 7}, 2))
    assert load_batch(path)["filenames"] == []
