from __future__ import annotations

import contextlib
import gzip
import io
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tfrecord_files import entry, example, feature, field, framed, masked, slow_crc32c, varint, write_records

from dam.data.containers import ItemError, open_container
from dam.data.containers.crc32c import crc32c
from dam.data.containers.tfrecord import TFRecordFile
from dam.data.readers import ImageError, ImageReader
from dam.errors import UserError

RANDOM = np.random.default_rng(0)
RAW = RANDOM.integers(0, 256, (299, 299), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (20, 20, 3), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind)
    return out.getvalue()


def one(tmp_path: Path, payload: bytes) -> TFRecordFile:
    (tmp_path / "a.tfrec").write_bytes(framed(payload))
    return TFRecordFile(tmp_path / "a.tfrec")


def test_checksum_vectors() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    # RFC 3720, appendix B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("length", [1, 4, 127, 511, 512, 513, 640, 1023, 1024, 1025, 4096, 12345])
def test_checksum_of_any_length(length: int) -> None:
    data = RANDOM.bytes(length)
    assert crc32c(data) == slow_crc32c(data)
    assert crc32c(data[:-1] + bytes([data[-1] ^ 1])) != crc32c(data)


def test_checksum_agrees_with_a_public_library() -> None:
    library = pytest.importorskip("crc32c")
    for length in [*range(500, 2100, 37), 89401, 1 << 20]:
        data = RANDOM.bytes(length)
        assert crc32c(data) == library.crc32c(data)


def test_a_file_of_a_public_writer_is_read_pixel_by_pixel(tmp_path: Path) -> None:
    library = pytest.importorskip("tfrecord")
    path = tmp_path / "train.tfrecords"
    writer = library.TFRecordWriter(str(path))
    for label in (0, -4):
        writer.write({"image": (RAW.tobytes(), "byte"), "label": (label, "int"), "share": ([0.25, 3.0], "float")})
    writer.write({"image": (encoded(COLOUR), "byte"), "label": ([1, 2, 300], "int"), "share": (1.5, "float")})
    writer.close()
    records = TFRecordFile(path)
    assert len(records) == 3
    assert records.features(1, "label", "share") == {"label": [-4], "share": [0.25, 3.0]}
    assert records.features(2, "label") == {"label": [1, 2, 300]}
    assert np.array_equal(records.read("0"), RAW)
    assert np.array_equal(ImageReader(tmp_path).read(f"{path.name}::2"), COLOUR)


def test_images_of_every_kind_by_locator(tmp_path: Path) -> None:
    rows = [{"image": [data]} for data in (RAW.tobytes(), COLOUR.tobytes(), encoded(COLOUR), encoded(RAW, "JPEG"))]
    write_records(tmp_path / "x" / "shard.tfrecord", rows)
    reader = ImageReader(tmp_path)
    assert np.array_equal(reader.read("x/shard.tfrecord::0"), RAW)
    assert np.array_equal(reader.read("x/shard.tfrecord::1"), COLOUR)
    assert np.array_equal(reader.read("x/shard.tfrecord::2"), COLOUR)
    with Image.open(io.BytesIO(encoded(RAW, "JPEG"))) as image:
        assert np.array_equal(reader.read("x/shard.tfrecord::3"), np.asarray(image))
    assert isinstance(open_container(tmp_path / "x" / "shard.tfrecord"), TFRecordFile)
    with pytest.raises(ImageError, match="items 0 to 3"):
        reader.read("x/shard.tfrecord::4")


def test_every_way_to_write_an_example(tmp_path: Path) -> None:
    unknown = varint(9 << 3) + varint(7) + varint(5 << 3 | 1) + bytes(8) + varint(4 << 3 | 5) + bytes(4)
    value_first = field(1, field(2, feature([7, -1, -(2**63), 2**63 - 1], packed=False)) + unknown + field(1, b"id"))
    payload = (
        unknown
        + field(6, b"some later field")
        + field(1, entry("label", [1]) + value_first + entry("label", [2]) + unknown)
        + field(1, entry("more", [0.5, -2.0], packed=False) + entry("words", [b"", b"b\xc3\xa9"]))
        + field(1, field(1, field(1, b"nothing")) + field(1, field(1, b"blank") + field(2, field(3, b""))))
    )
    records = one(tmp_path, payload)
    assert records.features(0) == {
        "label": [2],  # of a name that comes twice the later one
        "id": [7, -1, -(2**63), 2**63 - 1],
        "more": [0.5, -2.0],
        "words": [b"", b"b\xc3\xa9"],
        "nothing": [],
        "blank": [],
    }
    assert list(records.scan("id", "label")) == [{"label": [2], "id": [7, -1, -(2**63), 2**63 - 1]}]


def test_labels_are_found_without_reading_images(tmp_path: Path) -> None:
    big = bytes(3_000_000)
    rows = [{"a": [1], "image": [big], "label": [n]} for n in range(4)]
    path = tmp_path / "big.tfrecords"
    frames = b"".join(
        len(p := example(row)).to_bytes(8, "little") + masked(len(p).to_bytes(8, "little")) + p + bytes(4)
        for row in rows
    )
    path.write_bytes(frames)
    tracemalloc.start()
    assert [row["label"] for row in TFRecordFile(path).scan("label")] == [[0], [1], [2], [3]]
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    with pytest.raises(ItemError, match="checksum is wrong"):  # the payload's is 0 here, and scan did not look
        TFRecordFile(path).read("0")


def test_damage_is_told_in_one_sentence(tmp_path: Path) -> None:
    good = [framed(example({"image": [bytes(400)], "label": [n]})) for n in range(3)]
    path = tmp_path / "shard.tfrecords"

    def told(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            list(TFRecordFile(path).scan("label"))
        return str(caught.value)

    whole = b"".join(good)
    assert "record 2 (byte" in told(whole[:-7]) and "was not copied whole" in told(whole[:-7])
    assert "should have" in told(whole[:-7])
    assert "cut off within its header" in told(whole + b"\0" * 5)
    assert "length with a wrong checksum" in told(good[0] + b"\1" + good[1][1:])
    assert "is no TFRecord file" in told(b"hello, this is text")
    assert "compressed by gzip" in told(gzip.compress(whole))
    huge = (1 << 40).to_bytes(8, "little")
    assert "only 0 follow" in told(huge + masked(huge))
    endless = (2**64 - 1).to_bytes(8, "little")
    assert "was not copied whole" in told(endless + masked(endless) + bytes(100))
    assert "record 0, is no tf.train.Example" in told(framed(b"\x0a\x7f\x00"))
    with pytest.raises(UserError, match=r"none\.tfrec cannot be read: No such file"):
        len(TFRecordFile(tmp_path / "none.tfrec"))


def test_whole_records_of_a_damaged_file_can_be_had_on_request(tmp_path: Path) -> None:
    good = [framed(example({"image": [bytes(400)], "label": [n]})) for n in range(3)]
    bad = framed(b"\x0a\x7f\x00")
    path = tmp_path / "shard.tfrecords"
    path.write_bytes(good[0] + bad + b"".join(good[1:])[:-7])
    records = TFRecordFile(path)
    assert list(records.scan("label", damaged="skip")) == [{"label": [0]}, {}, {"label": [1]}]
    assert len(records) == 3
    assert "was not copied whole" in records.problem
    assert np.array_equal(records.read("2"), np.zeros((20, 20)))
    with pytest.raises(ItemError, match=r"no tf\.train\.Example"):
        records.read("1")


def test_items_that_cannot_be_images(tmp_path: Path) -> None:
    flipped = bytearray(framed(example({"image": [bytes(400)]})))
    flipped[-10] ^= 1
    (tmp_path / "b.tfrec").write_bytes(flipped)
    with pytest.raises(ItemError, match="checksum is wrong"):
        TFRecordFile(tmp_path / "b.tfrec").read("0")
    for values, reason in (
        ({"image": [bytes(401)]}, "neither an encoded image nor a square one"),
        ({"image": [b""]}, "is empty"),
        ({"image": [1, 2]}, "is not one byte string"),
        ({"picture": [bytes(400)]}, "no feature 'image'"),
    ):
        (tmp_path / "c.tfrec").unlink(missing_ok=True)
        write_records(tmp_path / "c.tfrec", [values])  # type: ignore[list-item]
        with pytest.raises(ItemError, match=reason):
            TFRecordFile(tmp_path / "c.tfrec").read("0")
    with pytest.raises(IndexError):
        TFRecordFile(tmp_path / "b.tfrec").features(1)


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_never_ends_in_anything_else(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    payload = bytearray(example({"image": [bytes(50)], "label": [1, -1], "share": [0.5]}))
    for place in random.integers(0, len(payload), 3):
        payload[place] = random.integers(0, 256)
    records = one(tmp_path, bytes(payload[: random.integers(1, len(payload) + 1)]))
    with contextlib.suppress(ItemError):
        records.features(0)
    assert len(list(records.scan("label", damaged="skip"))) == 1


def test_threads_share_a_file(tmp_path: Path) -> None:
    images = [RANDOM.integers(0, 256, (40, 40), dtype=np.uint8) for _ in range(8)]
    records = TFRecordFile(write_records(tmp_path / "a.tfrec", [{"image": [image.tobytes()]} for image in images]))
    wrong: list[int] = []

    def work(offset: int) -> None:
        for k in range(100):
            n = (k + offset) % 8
            if not np.array_equal(records.read(str(n)), images[n]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
