"""What `dam data check` finds, against tables made so that the answers are known."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_configs import data_config
from PIL import Image

from dam import cli
from dam.data import duplicates
from dam.data.duplicates import across, by_digest, equal_images
from dam.data.inspect import inspect
from dam.data.inspect_text import as_text
from dam.data.readers import ImageReader


def png(number: int, colour: bool = False, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + 2, 3) if colour else (side, side + 2))
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def toy(root: Path, n: int = 60) -> Any:
    """Sixty images of thirty patients, four colour; labels with a blank, an uncertain and a soft value."""
    (root / "img").mkdir(parents=True, exist_ok=True)
    lines = ["image,sick,ill,patient"]
    for i in range(n):
        (root / "img" / f"{i}.png").write_bytes(png(i, colour=i < 4))
        special = {7: "", 11: "-1", 12: "0.25"}.get(i, str(int(i % 4 == 0)))
        lines.append(f"img/{i}.png,{special},{int(i % 3 == 0)},p{i % 30}")
    (root / "t.csv").write_text("\n".join(lines) + "\n")
    return data_config("csv", csv=str(root / "t.csv"), labels=["sick", "ill"])


def test_counts_of_a_known_table(tmp_path: Path) -> None:
    found = inspect(toy(tmp_path), 2)
    assert found.refused == ()
    values = found.findings
    assert sum(row["images"] for row in values["splits"]) == 60
    assert [row["patients"] for row in values["splits"]] == [20, 4, 6]
    sick = values["before_policy"][0]
    assert sick == {"label": "sick", "positives": 14, "negatives": 43, "soft": 1, "uncertain": 1, "blank": 1}
    train = next(row for row in values["counts"] if row["split"] == "train" and row["label"] == "ill")
    assert train["imratio"] == train["positives"] / train["n"]
    sample = values["sample"]
    assert (sample["images"], sample["gray"], sample["colour"], sample["common"]) == (60, 56, 4, [["8x10", 60]])
    assert values["equal_images"] == {"checked": 60, "total": 60, "exact": True, "found": []}
    assert json.loads(json.dumps(values)) == values
    text = as_text(values)
    assert "sick" in text and max(map(len, text.splitlines()[2:12])) <= 80


def test_faults_are_collected_not_raised(tmp_path: Path) -> None:
    toy(tmp_path)
    rows = [line.split(",") for line in (tmp_path / "t.csv").read_text().splitlines()]
    splits = ["split", *(["train", "val", "test"][i % 3] for i in range(60))]
    rows[5][3] = rows[9][3] = "p7x"  # of val and test
    (tmp_path / "t.csv").write_text("\n".join(",".join([*r, s]) for r, s in zip(rows, splits, strict=True)))
    (tmp_path / "img" / "5.png").unlink()
    (tmp_path / "img" / "6.png").write_bytes(png(6)[:-30])
    (tmp_path / "img" / "2.png").write_bytes((tmp_path / "img" / "0.png").read_bytes())  # train 0, test 2
    (tmp_path / "img" / "9.png").write_bytes((tmp_path / "img" / "3.png").read_bytes())  # both train
    cfg = data_config("csv", csv=str(tmp_path / "t.csv"), labels=["sick"])
    found = inspect(cfg, 2)
    told = "; ".join(found.refused)
    assert "1 image of 60 has no file: img/5.png" in told
    assert "img/6.png (it is damaged" in told
    assert "1 patient in more than one split, such as p7x" in told
    assert "1 image in train and test byte for byte, such as img/0.png = img/2.png" in told
    pairs = {tuple(pair["splits"]): pair["images"] for pair in found.findings["equal_images"]["found"]}
    assert pairs == {("train", "test"): 1, ("train", "train"): 1}
    assert "twice within train" in as_text(found.findings)
    lenient = data_config("csv", csv=cfg.csv, labels=["sick"], leakage="allow", on_bad_image="skip")
    assert inspect(lenient, 2).refused == ()


def test_a_table_that_cannot_train_is_still_shown(tmp_path: Path) -> None:
    cfg = toy(tmp_path)
    text = (tmp_path / "t.csv").read_text().splitlines()
    zeros = [text[0], *(",".join([line.split(",")[0], "0", "0", line.split(",")[3]]) for line in text[1:])]
    (tmp_path / "t.csv").write_text("\n".join(zeros))
    found = inspect(cfg, 2)
    assert "has no positive at all" in found.refused[0]
    assert found.findings["before_policy"][0]["negatives"] == 60


def test_equal_images_against_brute_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    names = []
    for i in range(200):  # equal sizes, few contents, some that differ in one byte beyond middle and end
        data = bytearray(b"x" * 30_000)
        data[0] = int(rng.integers(0, 3))
        data[15_000] = int(rng.integers(0, 20))
        data[-1] = int(rng.integers(0, 4))
        (tmp_path / f"{i}.bin").write_bytes(data[: 30_000 - int(rng.integers(0, 2))])
        names.append(f"{i}.bin")
    reader = ImageReader(tmp_path)
    contents: dict[bytes, list[str]] = {}
    for name in sorted(names):
        contents.setdefault((tmp_path / name).read_bytes(), []).append(name)
    wanted = sorted(tuple(group) for group in contents.values() if len(group) > 1)
    equal = equal_images(reader, names, 2, 0)
    assert equal.exact and [tuple(sorted(g)) for g in equal.groups] == wanted
    digests = [reader.digest(name) for name in names]
    assert {tuple(sorted(g)) for g in by_digest(names, digests).groups} == set(wanted)
    split_of = {name: ["train", "test"][i % 2] for i, name in enumerate(names)}
    found = across(equal, split_of)
    assert len(found["train", "test"]) == sum(len({split_of[n] for n in g}) == 2 for g in wanted)
    monkeypatch.setattr(duplicates, "MOST_FILES", 50)
    part = equal_images(reader, names, 2, 0)
    assert not part.exact and part.checked <= 50 and set(part.groups) <= set(equal.groups)


def words(root: Path, *more: str) -> list[str]:
    return ["data", "check", "--out", str(root / "out"), "data=csv", f"data.csv={root / 't.csv'}",
            "data.labels=[sick,ill]", "workers=1", *more]  # fmt: skip


def test_the_command_writes_json_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy(tmp_path)
    assert cli.main(words(tmp_path)) == 0
    out = capsys.readouterr().out
    assert f"look at: {tmp_path / 'out' / 'contact_sheet.png'}" in out
    assert json.loads((tmp_path / "out" / "check.json").read_text())["dataset"] == "csv"
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.width == 10 + 8 * 154 and sheet.height > 4 * 144
        tile = np.asarray(sheet.crop((10, 78, 154, 222)))
    assert tile.std() > 20  # an image is there
    (tmp_path / "img" / "5.png").unlink()
    assert cli.main(words(tmp_path)) == 2
    assert "`dam train` would refuse this data: 1 image of 60 has no file" in capsys.readouterr().err


def test_all_images_and_prepare_share_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy(tmp_path)
    store = f"data.store={tmp_path / 'store'}"
    rest = [store, *words(tmp_path)[4:], "image_size=32"]
    assert cli.main(["data", "prepare", *rest]) == 0
    assert "images/s" in capsys.readouterr().out
    assert cli.main(words(tmp_path, "--images", store, "image_size=32")) == 0
    assert "unreadable: 0 of all 60, every one decoded" in capsys.readouterr().out
    assert len(list((tmp_path / "store").glob("images-*[!k]"))) == 1
    assert cli.main(["data", "prepare", *rest]) == 0
    assert "was there already" in capsys.readouterr().out
    (tmp_path / "img" / "6.png").write_bytes(png(6)[:-30])
    assert cli.main(["data", "prepare", *rest]) == 2
    assert "img/6.png (it is damaged" in capsys.readouterr().err
    assert cli.main(["data", "prepare", *rest, "data.on_bad_image=skip"]) == 0
    out = capsys.readouterr().out
    assert "59 images of 32 x 32 pixels, 3 channels" in out and "left out: img/6.png" in out
    assert cli.main(words(tmp_path, "--images", store, "image_size=32")) == 2
    assert "1 image cannot be read, such as img/6.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["data"], "write `dam data check` or `dam data prepare`"),
        (["data", "check", "--out"], "--out needs a folder"),
        (
            ["data", "check", "--outt=x"],
            r"--outt=x is no option of `dam data check`, which has only --images and --out",
        ),
        (["data", "prepare", "--images"], "--images is no option of `dam data prepare`, which has none"),
    ],
)
def test_words_that_are_wrong(line: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line) == 2
    assert sentence in capsys.readouterr().err


def test_datasets_say_where_and_under_which_licence(capsys: pytest.CaptureFixture[str]) -> None:
    from dam.data.datasets import DATASETS

    assert cli.main(["list", "datasets"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("from: ") == out.count("licence: ") == len(DATASETS)


@pytest.mark.real_data
@pytest.mark.skipif("DAM_REAL_DATA" not in os.environ, reason="DAM_REAL_DATA names no folder of data packs")
def test_real_packs() -> None:
    from real_data import packs

    cats = inspect(
        data_config("csv", root=str(packs() / "cats-dogs" / "cats_dogs_64.tar.gz"), positive_class="dogs"), 2
    )
    assert cats.refused == () and len(cats.table) == 1000 and cats.findings["sample"]["colour"] > 290
    xrays = inspect(data_config("csv", root=str(packs() / "kermany-cxr")), 2)
    assert xrays.findings["equal_images"]["exact"] and xrays.findings["sample"]["gray"] == 300
