"""Images in HDF5 files: pixels, threads and forks, hostile files, and unpacking gzipped ones once."""

from __future__ import annotations

import builtins
import gzip
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import noise, write_h5

from dam.data.containers import open_container
from dam.data.readers import ImageError, ImageReader
from dam.errors import UserError

h5py = pytest.importorskip("h5py")

from dam.data.containers import hdf5  # noqa: E402
from dam.data.containers.hdf5 import H5Images, read_numbers, unpack_once  # noqa: E402

IMAGES = noise(12, 9, 7, 3)


@pytest.mark.parametrize("options", [{}, {"chunks": (5, 9, 7, 3), "compression": "gzip"}])
def test_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    write_h5(tmp_path / "a.h5", "x", IMAGES, **options)
    reader = ImageReader(tmp_path)
    for i in (11, 0, 5):
        assert np.array_equal(reader.read(f"a.h5::x/{i}"), IMAGES[i])


def test_gray_and_nested_datasets(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5", "group/x", IMAGES[..., :1])
    write_h5(tmp_path / "b.h5", "x", IMAGES[..., 0])
    for name in ("a.h5::group/x/3", "b.h5::x/3"):
        assert np.array_equal(ImageReader(tmp_path).read(name), IMAGES[3, ..., 0])


@pytest.mark.parametrize("item", ["x/12", "x/-1", "x/", "12", "", "x/1/2"])
def test_items_that_are_not_there(tmp_path: Path, item: str) -> None:
    write_h5(tmp_path / "a.h5", "x", IMAGES)
    with pytest.raises(UserError, match=r"items 0 to 11|dataset/number|no dataset 'x/1'; it holds x"):
        ImageReader(tmp_path).read(f"a.h5::{item}")


def test_threads_have_handles_of_their_own(tmp_path: Path) -> None:
    container = open_container(write_h5(tmp_path / "a.h5", "x", IMAGES))
    assert isinstance(container, H5Images)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(container.read, [f"x/{i % 12}" for i in range(200)]))
    assert all(np.array_equal(image, IMAGES[i % 12]) for i, image in enumerate(read))
    container.read("x/0")
    container.close()
    assert np.array_equal(container.read("x/1"), IMAGES[1])


def test_a_forked_process_opens_its_own(tmp_path: Path) -> None:
    container = H5Images(write_h5(tmp_path / "a.h5", "x", IMAGES))
    container.read("x/0")
    handle = container._own.file
    child = os.fork()
    if child == 0:  # nothing but the reading: no exception may reach pytest in the child
        status = 1
        try:
            same = np.array_equal(container.read("x/7"), IMAGES[7])
            status = 0 if same and container._own.file is not handle else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(container.read("x/7"), IMAGES[7]) and container._own.file is handle


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (IMAGES.astype(np.float32), "type float32, not images"),
        (IMAGES[..., :2], r"shape \(12, 9, 7, 2\)"),
        (np.zeros((3, 0, 4), np.uint8), "not images"),
        (np.zeros(5, np.uint8), "not images"),
    ],
)
def test_other_shapes_and_types_are_refused(tmp_path: Path, values: np.ndarray, told: str) -> None:
    write_h5(tmp_path / "a.h5", "x", values)
    with pytest.raises(UserError, match=told):
        H5Images(tmp_path / "a.h5").read("x/0")


@pytest.mark.parametrize(
    "shape, chunks", [((2, 30_000, 30_000), (1, 64, 64)), ((40_000, 200, 200), (40_000, 200, 200))]
)
def test_images_and_chunks_too_large_for_memory_are_refused(tmp_path: Path, shape: Any, chunks: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", shape, "u1", chunks=chunks, compression="gzip")  # nothing is written: a small file
    with pytest.raises(UserError, match="more than 512 MiB to read an image"):
        H5Images(tmp_path / "a.h5").read("x/0")


def test_numbers_elsewhere_are_not_followed(tmp_path: Path) -> None:
    write_h5(tmp_path / "secret.h5", "x", IMAGES)
    (tmp_path / "raw").write_bytes(IMAGES.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink("secret.h5", "x")
        file["group"] = h5py.ExternalLink("secret.h5", "/")
        file["soft"] = h5py.SoftLink("/link")
        layout = h5py.VirtualLayout((12, 9, 7, 3), np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", (12, 9, 7, 3))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (12, 9, 7, 3), np.uint8, external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
    for name in ("link", "soft", "group/x", "virtual", "raw"):
        with pytest.raises(UserError, match="not followed"):
            H5Images(tmp_path / "a.h5").read(f"{name}/0")


def test_files_that_are_no_hdf5(tmp_path: Path) -> None:
    whole = write_h5(tmp_path / "a.h5", "x", IMAGES).read_bytes()
    for data in (b"", b"hello", whole[:-100]):
        (tmp_path / "a.h5").write_bytes(data)
        with pytest.raises(UserError, match="cannot be read as HDF5"):
            H5Images(tmp_path / "a.h5").read("x/0")


def test_damaged_chunks_are_an_item_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", "x", IMAGES, chunks=(6, 9, 7, 3), compression="gzip")
    with h5py.File(path) as file:
        place = file["x"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place : place + 20] = b"\0" * 20
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"x/0: it is damaged"):
        ImageReader(tmp_path).read("a.h5::x/0")
    assert np.array_equal(ImageReader(tmp_path).read("a.h5::x/8"), IMAGES[8])


def test_numbers(tmp_path: Path) -> None:
    labels = np.arange(6, dtype=np.uint8)
    assert read_numbers(write_h5(tmp_path / "a.h5", "y", labels.reshape(6, 1, 1, 1)), "y").tolist() == [*range(6)]
    for values in (labels.reshape(3, 2), labels.astype(float), np.zeros(0, np.uint8)):
        with pytest.raises(UserError, match="'y' has shape"):
            read_numbers(write_h5(tmp_path / "a.h5", "y", values), "y")


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest, **more)

    path = write_h5(tmp_path / "a.h5", "x", IMAGES)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'a\.h5 is an HDF5 file, which needs h5py: pip install "dam\[hdf5\]"'):
        H5Images(path).read("x/0")


# ---------------------------------------------------------------- .h5.gz


def packed(folder: Path) -> Path:
    path = write_h5(folder / "a.h5", "x", IMAGES)
    with open(path, "rb") as source, gzip.open(folder / "a.h5.gz", "wb") as out:
        shutil.copyfileobj(source, out)
    return folder / "a.h5.gz"


def test_unpacked_once(tmp_path: Path) -> None:
    path = packed(tmp_path)
    target = unpack_once(path, tmp_path / "store")
    assert target == tmp_path / "store" / "a.h5" and target.read_bytes() == (tmp_path / "a.h5").read_bytes()
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["a.h5"]
    before = target.stat()
    assert unpack_once(path, tmp_path / "store").stat().st_ino == before.st_ino  # not again
    os.utime(path, ns=(1, 1))
    assert unpack_once(path, tmp_path / "store").stat().st_mtime_ns == 1  # another file: again
    assert np.array_equal(H5Images(target).read("x/3"), IMAGES[3])


def test_damaged_archives_leave_nothing(tmp_path: Path) -> None:
    path = packed(tmp_path)
    whole = path.read_bytes()
    bomb = whole[:-4] + (100).to_bytes(4, "little")  # says that it holds 100 bytes
    for data in (whole[:-9], whole[:30], whole[:200] + b"\0" * 50 + whole[250:], b"hello" * 10, b"", bomb):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"a\.h5\.gz is (damaged|no gzip file)|needs .* GB"):
            unpack_once(path, tmp_path / "store")
        assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())


def test_more_than_the_end_of_the_file_says_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.gz"
    path.write_bytes(gzip.compress(bytes(10 << 20)) + gzip.compress(bytes(100_000)))
    with pytest.raises(UserError, match="it holds more than its last bytes say"):
        unpack_once(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(hdf5.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs .* GB in .*, where only 1e-06 GB are free.*gunzip -k"):
        unpack_once(packed(tmp_path), tmp_path / "store")
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    ("size", "low", "expected"),
    [
        (6_100_000_000, 7_247_757_312 % 2**32, 7_247_757_312),  # PCam's training images
        (7_249_000_000, 7_247_757_312 % 2**32, 7_247_757_312),  # not compressible: a little longer than its content
        (800_000_000, 905_969_664, 905_969_664),
        (300, 264_192, 264_192),
    ],
)
def test_size_after_unpacking(tmp_path: Path, size: int, low: int, expected: int) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(b"\x1f\x8b" + b"\0" * 20 + low.to_bytes(4, "little"))
    assert hdf5._unpacked_size(path, size) == expected
