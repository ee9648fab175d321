"""Images inside archives: read where they are, and no trick of a hostile archive goes unnoticed."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from data_configs import data_config
from PIL import Image

from dam.data import load_table
from dam.data.containers import ItemError, archive, open_container
from dam.data.containers.archive import Archive
from dam.data.datasets.csv import read
from dam.data.readers import ImageError, ImageReader
from dam.errors import UserError

KINDS = (".zip", ".tar", ".tar.gz", ".tgz")


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in members.items():
                packed.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


MANY = {f"top/{'sick' if i % 2 else 'normal'}/{i}.png": png(i) for i in range(40)}


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_by_many_threads(tmp_path: Path, kind: str) -> None:
    pack(tmp_path / f"a{kind}", {**MANY, "readme.txt": b"x" * 5000})
    reader = ImageReader(tmp_path)
    names = list(MANY) * 5
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda name: reader.read(f"a{kind}::{name}"), names))
    assert [int(image[0, 0]) for image in images] == [int(Path(name).stem) for name in names]
    assert reader.identity(f"a{kind}::x")[0] == (tmp_path / f"a{kind}").stat().st_size
    with pytest.raises(ImageError, match=r"::nope\.png: the archive has no such member"):
        reader.read(f"a{kind}::nope.png")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../out.png", "/etc/passwd", "a/../../b.png", "C:\\x.png", "..\\up.png"])
def test_names_that_lead_out(tmp_path: Path, kind: str, name: str) -> None:
    packed = Archive(pack(tmp_path / f"a{kind}", {"in.png": png(1), name: png(2)}))
    assert list(packed.names) == ["in.png"]
    with pytest.raises(ItemError, match="its name leads out of the archive"):
        packed.read(name.replace("\\", "/") if kind == ".zip" else name)


def test_links_encrypted_and_dense_members(tmp_path: Path) -> None:
    pack(tmp_path / "a.zip", {"link.png": b"/etc/passwd", "ok.png": png(1), "bomb.png": b"\0" * (80 << 20)})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"link.png"))
    data[entry + 41] = 0o120000 >> 8  # the mode of a link, in the upper half of the external attributes
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"ok.png"))
    data[entry + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    packed = Archive(tmp_path / "a.zip")
    for name, reason in (("link.png", "it is a link"), ("ok.png", "it is encrypted; unpack"), ("bomb.png", "zip bomb")):
        with pytest.raises(ItemError, match=reason):
            packed.read(name)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    packed = Archive(tmp_path / "a.tar")
    assert not packed.names and set(packed.refused.values()) == {"it is a link", "it is no regular file"}


def test_a_member_larger_than_it_says(tmp_path: Path) -> None:
    pack(tmp_path / "a.zip", {"lie.png": b"\0" * 100_000})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 24, 10)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ItemError, match=r"damaged in the archive|another size"):
        Archive(tmp_path / "a.zip").read("lie.png")


def test_declared_sizes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    for kind in (".zip", ".tar"):
        packed = Archive(pack(tmp_path / f"a{kind}", {"big.png": bytes(range(256)) * 8}))
        with pytest.raises(ItemError, match=r"unpacks to 0 MiB, which no image needs"):
            packed.read("big.png")
    monkeypatch.setattr(archive, "MOST_MEMBERS", 3)
    for kind in (".zip", ".tar"):
        with pytest.raises(UserError, match=r"more than 3 members: unpack it and give the folder"):
            Archive(pack(tmp_path / f"b{kind}", MANY))


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path / "a.tar.gz", {"zeros.png": b"\0" * (96 << 20)})
    with pytest.raises(UserError, match="looks like a decompression bomb"):
        Archive(tmp_path / "a.tar.gz")
    monkeypatch.setattr(archive, "_SPARE_DISK", 1 << 60)
    with pytest.raises(UserError, match=r"does not fit unpacked .* or set TMPDIR"):
        Archive(pack(tmp_path / "b.tar.gz", MANY))


@pytest.mark.parametrize("kind", KINDS)
def test_damage(tmp_path: Path, kind: str) -> None:
    whole = pack(tmp_path / f"a{kind}", MANY).read_bytes()
    for name, data in (("empty", b""), ("text", b"<html>404</html>" * 99), ("head", whole[:40])):
        (tmp_path / f"{name}{kind}").write_bytes(data)
        with pytest.raises((UserError, ItemError), match=r"damaged|no archive|no such member|cut short"):
            open_container(tmp_path / f"{name}{kind}").read("top/normal/0.png")
    (tmp_path / f"cut{kind}").write_bytes(whole[: len(whole) * 3 // 4])
    if kind == ".zip":
        with pytest.raises(UserError, match=r"cut\.zip is no archive, or damaged"):
            Archive(tmp_path / f"cut{kind}")
        return
    packed = Archive(tmp_path / f"cut{kind}")
    assert packed.read("top/normal/0.png") == MANY["top/normal/0.png"]
    with pytest.raises(ItemError, match="cut short"):
        packed.read("top/sick/39.png")
    with pytest.raises(UserError, match="fetch it again"):
        read(data_config("csv", root=str(tmp_path / f"cut{kind}")))


def test_a_damaged_member_of_a_zip(tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "a.zip", MANY).read_bytes())
    data[60] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ItemError, match="damaged in the archive"):
        Archive(tmp_path / "a.zip").read("top/normal/0.png")


# ---------------------------------------------------------------- as data.root and in cells


@pytest.mark.parametrize("kind", KINDS)
def test_class_folders_in_an_archive(tmp_path: Path, kind: str) -> None:
    debris = {"__MACOSX/top/sick/._1.png": b"x", "top/sick/Thumbs.db": b"x", "../evil.png": b"x"}
    table = read(data_config("csv", root=str(pack(tmp_path / f"a{kind}", {**MANY, **debris}))))
    assert table.labels == ("sick",) and len(table) == 40 and table.frame["sick"].sum() == 20
    assert table.frame["image"].iloc[0] == f"a{kind}::top/normal/0.png" and table.root == tmp_path
    assert any("left out 1 member" in note for note in table.notes)
    assert read(data_config("csv", root=f"{tmp_path}/a{kind}::top")).frame.equals(table.frame)


def csv(tmp_path: Path, rows: list[str]) -> str:
    (tmp_path / "t.csv").write_text("image,label\n" + "\n".join(rows) + "\n")
    return str(tmp_path / "t.csv")


def test_a_table_over_an_archive(tmp_path: Path) -> None:
    pack(tmp_path / "a.zip", MANY)
    rows = [f"{name.removeprefix('top/')},{i % 2}" for i, name in enumerate(MANY)]
    table = load_table(data_config("csv", csv=csv(tmp_path, rows), root=f"{tmp_path}/a.zip::top"))
    assert set(table.frame["image"]) == {f"a.zip::{name}" for name in MANY}
    with pytest.raises(UserError, match=r"40 images are not in the archive .* a\.zip holds top/normal/0\.png, "):
        read(data_config("csv", csv=csv(tmp_path, rows), root=f"{tmp_path}/a.zip"))


def test_cells_that_name_members(tmp_path: Path) -> None:
    pack(tmp_path / "part1.zip", MANY)
    rows = [f"part1.zip::{name},{i % 2}" for i, name in enumerate(MANY)]
    table = read(data_config("csv", csv=csv(tmp_path, rows)))
    assert ImageReader(table.root).read(table.frame["image"].iloc[3])[0, 0] == 3
    lost = [*rows, "part1.zip::top/none.png,1"]
    with pytest.raises(UserError, match=r"1 image is not in the archive .*part1\.zip::top/none\.png"):
        read(data_config("csv", csv=csv(tmp_path, lost)))
    kept = read(data_config("csv", csv=csv(tmp_path, lost), on_bad_image="skip"))
    assert len(kept) == 40 and any("left out: 1 image" in note for note in kept.notes)
    for bad in ("part1.zip::../x.png", "../part1.zip::a.png", "part1.zip::/etc/passwd"):
        with pytest.raises(UserError, match=r"row 42: .* is outside data\.root"):
            read(data_config("csv", csv=csv(tmp_path, [*rows, f"{bad},1"])))
