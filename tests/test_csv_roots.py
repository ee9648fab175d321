"""Several image columns, several roots: every image is found where it is, and rows stay one study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_configs import data_config
from PIL import Image

from dam.compose import compose, with_absolute_paths
from dam.data import load_table
from dam.data.datasets import text_tables
from dam.data.datasets.csv import read
from dam.data.readers import ImageReader
from dam.errors import UserError


def touch(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), len(name), np.uint8)).save(root / name)


def config(tmp_path: Path, text: str, **keys: Any) -> Any:
    (tmp_path / "t.csv").write_text(text)
    return data_config("csv", csv=str(tmp_path / "t.csv"), **keys)


TWO = "frontal,lateral,label,age\na.png,b.png,1,30\nc.png,,0,40\n,d.png,0,50\n"


def test_two_image_columns_with_their_own_roots(tmp_path: Path) -> None:
    touch(tmp_path / "f", ["a.png", "c.png"])
    touch(tmp_path / "l", ["b.png", "d.png"])
    cfg = config(tmp_path, TWO, image_column=["frontal", "lateral"], root=str(tmp_path / "f"),
                 column_roots={"lateral": str(tmp_path / "l")})  # fmt: skip
    table = read(cfg)
    frame = table.frame
    lateral = (tmp_path / "l").as_posix()
    assert frame["image"].tolist() == ["a.png", f"{lateral}/b.png", "c.png", f"{lateral}/d.png"]
    assert frame["study"].tolist() == ["a.png", "a.png", "c.png", f"{lateral}/d.png"]
    assert frame["patient"].tolist() == frame["study"].tolist()
    assert frame["view"].tolist() == ["frontal", "lateral", "frontal", "lateral"]
    assert frame["label"].tolist() == [1, 1, 0, 0] and frame["age"].tolist() == ["30", "30", "40", "50"]
    assert "3 rows with 4 images: frontal 2, lateral 2" in table.notes
    assert all(ImageReader(table.root).read(image).shape == (4, 4) for image in frame["image"])


def test_a_row_never_crosses_splits(tmp_path: Path) -> None:
    rows = [f"f{i}.png,l{i}.png,{i % 2}" for i in range(40)]
    touch(tmp_path, [f"{kind}{i}.png" for kind in "fl" for i in range(40)])
    table = load_table(config(tmp_path, "f,l,label\n" + "\n".join(rows), image_column=["f", "l"]))
    assert len(table) == 80 and table.frame.groupby("study")["split"].nunique().max() == 1


def test_roots_are_searched_in_order(tmp_path: Path) -> None:
    touch(tmp_path / "one", ["a.png"])
    touch(tmp_path / "two", ["a.png", "b.png"])
    cfg = config(tmp_path, "image,label\na.png,1\nb.png,0\nnone.png,0\n", root=str(tmp_path / "one"),
                 more_roots=[str(tmp_path / "two")])  # fmt: skip
    two = (tmp_path / "two").as_posix()
    assert read(cfg).frame["image"].tolist() == ["a.png", f"{two}/b.png", "none.png"]
    for bad in ("../two/a.png", "/etc/passwd"):
        with pytest.raises(UserError, match=r"row 2: .* is outside data\.root"):
            read(config(tmp_path, f"image,label\n{bad},1\n", root=cfg.root, more_roots=cfg.more_roots))
    absolute = config(tmp_path, f"image,label\n{two}/b.png,1\n", root=cfg.root, more_roots=cfg.more_roots)
    assert read(absolute).frame["image"].tolist() == [f"{two}/b.png"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"image_column": []}, r"data\.image_column=\[\] must name at least one column"),
        ({"image_column": ["frontal", "frontal"]}, "each once"),
        ({"image_column": ["frontal"], "column_roots": {"latral": "/x"}}, r"data\.column_roots names latral"),
        ({"image_column": ["frontal", "side"]}, r"no column 'side'"),
        ({"image_column": "frontal"}, r"row 4: the image path is blank"),
        (
            {"image_column": "frontal", "more_roots": ["/nope"]},
            r"data\.more_roots=/nope is neither a folder nor an arc",
        ),
    ],
)
def test_sentences(tmp_path: Path, keys: dict[str, Any], sentence: str) -> None:
    touch(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    with pytest.raises(UserError, match=sentence):
        read(config(tmp_path, TWO, **keys))
    with pytest.raises(UserError, match="row 3: the image path is blank"):
        read(config(tmp_path, "f,l,label\na.png,,1\n,,0\n", image_column=["f", "l"]))


def test_soft_labels_and_fractions(tmp_path: Path) -> None:
    touch(tmp_path, [f"{i}.png" for i in range(40)])
    rows = [f"{i}.png,{[0, 1, 0.25, 0.75][i % 4]}" for i in range(40)]
    table = load_table(config(tmp_path, "image,label\n" + "\n".join(rows)))
    train = table.targets(table.split("train"))
    assert set(np.unique(train)) == {0, 0.25, 0.75, 1}
    assert set(np.unique(table.targets(table.split("test")))) == {0, 1}
    with pytest.raises(UserError, match=r"is 1\.5 for 0\.png"):
        load_table(config(tmp_path, "image,label\n0.png,1.5\n1.png,0\n"))


def test_the_keys_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data=csv", "data.csv=t.csv", "data.image_column=[f,l]", "data.more_roots=[x,y]",
             "data.column_roots={l: side}", "data.window=[100, 900]"]  # fmt: skip
    cfg: Any = with_absolute_paths(compose(words)).data
    assert cfg.image_column == ["f", "l"] and cfg.window == [100, 900]
    assert cfg.more_roots == [str(tmp_path / "x"), str(tmp_path / "y")]
    assert cfg.column_roots == {"l": str(tmp_path / "side")}


def test_long_tables_are_refused_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr(text_tables, "MOST_ROWS", 1000)
    text = "image,label\n" + "a.png,1\n" * 1001
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(UserError, match=r"t\.csv\.gz has more than 1,000 rows or 1,024 MiB of text"):
        read(data_config("csv", csv=str(tmp_path / "t.csv.gz")))
    monkeypatch.setattr(text_tables, "MOST_BYTES", 5000)
    (tmp_path / "zeros.csv.gz").write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(UserError, match="has more than"):
        read(data_config("csv", csv=str(tmp_path / "zeros.csv.gz")))


def test_a_cell_without_an_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 2: ::a.png names no archive"):
        read(config(tmp_path, "image,label\n::a.png,1\n"))
