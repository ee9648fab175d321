"""`dam predict`: what is scored, what is listed as failed, what a kill loses, and the sentence for every mistake."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import signal
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from predict_runs import test_images, train

from dam import cli, load_run
from dam.commands.completion import complete
from dam.errors import UserError
from dam.inference import predict, predict_scores
from dam.inference.images import Asked, list_images
from dam.inference.predict_decode import Decoder, Form, Item
from dam.inference.predict_files import Partial
from dam.inference.predict_table import make_judge


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("full"))


@pytest.fixture
def folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven good images, a broken one and a text file, in a folder with another in it; the working directory above."""
    root, names = test_images(run)
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for number, name in enumerate(names[:7]):
        shutil.copy(root / name, images / ("more" if number % 2 else "") / f"{number}.jpg")
    (images / "broken.jpg").write_bytes((images / "0.jpg").read_bytes()[:300])
    (images / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return images


def dam(*words: object) -> int:
    return cli.main(["predict", *map(str, words)])


def failed(path: str) -> dict[str, str]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["image"]: row["reason"] for row in csv.DictReader(file)}


def empty_png(width: int, height: int) -> bytes:
    """All that is needed to be asked for width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# ---------------------------------------------------------------- numbers


def test_the_command_gives_the_runs_own_predictions(run: Path, tmp_path: Path) -> None:
    root, names = test_images(run)
    table = pd.read_csv(run / "predictions" / "images.csv", dtype=str)
    table[table["split"] == "test"].to_csv(tmp_path / "list.csv", index=False)
    out = tmp_path / "p.csv"
    assert dam(run, "--csv", tmp_path / "list.csv", "--root", root, "--out", out, "--device", "cpu") == 0
    found = pd.read_csv(out)
    expected = pd.read_csv(run / "predictions" / "test.csv")
    both = found.merge(expected, on=["image", "label"], suffixes=("", "_own"), validate="1:1")
    assert len(both) == len(expected) == 2 * len(names)
    assert list(found.columns) == ["image", "label", *expected.columns[5:], "probability", "decision"]
    for column in (c for c in expected.columns[5:] if "_tta" not in c):
        np.testing.assert_allclose(both[column], both[f"{column}_own"], atol=1e-5, rtol=0, err_msg=column)
    assert not (tmp_path / "p_failed.csv").exists() and not list(tmp_path.glob("*.partial"))
    frame = load_run(run, "cpu").predict([root / name for name in names], tta=0)
    np.testing.assert_allclose(frame["blend"], found["blend"], atol=1e-6)


def test_columns_load_only_their_networks(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    network = predict.LoadedRun.network
    monkeypatch.setattr(predict.LoadedRun, "network", lambda s, part: (loaded.append(part.stage), network(s, part))[1])
    assert dam(run, folder / "0.jpg", "--out", "p.csv", "--columns", "auc") == 0
    assert set(loaded) == {"auc/cardiomegaly", "auc/edema"}
    assert list(pd.read_csv("p.csv").columns) == ["image", "label", "auc", "probability", "decision"]


def test_networks_that_do_not_fit_are_loaded_anew(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dam(run, folder, "--out", "p.csv") == 1
    monkeypatch.setattr(predict_scores, "ROOM", 0.0)
    assert dam(run, folder, "--out", "q.csv") == 1
    p, q = pd.read_csv("p.csv"), pd.read_csv("q.csv")
    pd.testing.assert_frame_equal(p, q, check_exact=False, rtol=0, atol=1e-6)


def test_labels_that_were_never_trained_are_left_out_and_named(run: Path) -> None:
    loaded = load_run(run, "cpu")
    only = replace(loaded, parts=tuple(p for p in loaded.parts if p.stage == "auc/edema"), blends={}, encoding=None)
    assert only.trained == ("Edema",)
    judge = make_judge(only, only.columns_with(0, False), None)
    assert "Cardiomegaly" in " ".join(judge.notes) and "left out" in judge.notes[0]
    frame = only.predict([np.zeros((32, 32), np.uint8)], tta=0)
    assert frame["label"].tolist() == ["Edema"] and list(frame.columns[2:3]) == ["auc"]


# ---------------------------------------------------------------- what is listed


def test_a_folder_with_a_broken_image_and_a_text_file(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".DS_Store").write_text("x")
    assert dam(run, "images", "--out", "p.csv", "--tta", 0) == 1
    told = failed("p_failed.csv")
    assert set(told) == {"images/broken.jpg", "images/notes.txt"}
    assert "damaged" in told["images/broken.jpg"] and "not an image" in told["images/notes.txt"]
    assert pd.read_csv("p.csv")["image"].nunique() == 7
    out = capsys.readouterr().out
    assert "images/broken.jpg: it is damaged" in out and "images/notes.txt: not an image" in out
    assert "1 hidden file" in out and "without metadata" in out
    (folder / "broken.jpg").unlink()
    assert dam(run, "images", "--out", "p.csv", "--tta", 0) == 0  # a text file is no failed image, but is listed
    assert set(failed("p_failed.csv")) == {"images/notes.txt"}


def test_globs_archives_single_files_and_repetitions(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile("some.zip", "w") as archive:
        archive.write(folder / "0.jpg", "a/0.jpg")
        archive.writestr("readme.md", "no image")
    words = ["images/more/*.jpg", "images/0.jpg", "images/0.jpg", "some.zip", "some.zip::a/0.jpg"]
    assert dam(run, *words, "--out", "p.csv", "--columns", "auc") == 0
    frame = pd.read_csv("p.csv")
    names = ["images/more/1.jpg", "images/more/3.jpg", "images/more/5.jpg", "images/0.jpg", "some.zip::a/0.jpg"]
    assert frame["image"].unique().tolist() == names
    # One unit in the last place may lie between two rows of one batch.
    assert frame["auc"].iloc[6:8].tolist() == pytest.approx(frame["auc"].iloc[8:10].tolist(), rel=1e-6)
    assert failed("p_failed.csv") == {"some.zip::readme.md": "not an image by its name (.md)"}
    assert "2 images named more than once" in capsys.readouterr().out


def test_nothing_in_a_folder_is_dropped_silently(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ".hidden").mkdir()
    (folder / "up").symlink_to("..")
    (folder / "new\n\x1b[2J.png").write_bytes(b"")
    words = ["--columns", "auc", "--out"]
    assert dam(run, "images", *words, "p.csv") == dam(run, "images/*", *words, "q.csv") == 1
    out = capsys.readouterr().out
    assert "1 hidden file or folder" in out and "\\n\\x1b[2J.png: the file is empty" in out and "\x1b" not in out
    assert "a link to a folder" in failed("p_failed.csv")["images/up"]
    assert failed("p_failed.csv") == failed("q_failed.csv")
    assert set(pd.read_csv("p.csv")["image"]) == set(pd.read_csv("q.csv")["image"])


def test_another_kind_of_image_is_said_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(rng.integers(0, 255, (40, 120, 3), dtype=np.uint8)).save(f"colour{number}.png")
    Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8)).save("small.png")
    Image.fromarray(rng.integers(0, 60000, (40, 40)).astype(np.uint16)).save("deep.png")
    (tmp_path / "huge.png").write_bytes(empty_png(30_000, 30_000))
    words = ("colour0.png", "colour1.png", "small.png", "deep.png", "huge.png", "--columns", "auc", "--out", "p.csv")
    assert dam(run, *words) == 1
    out = capsys.readouterr().out
    assert "2 images: in colour, turned to gray" in out and "2 images: more than 2 times as long" in out
    assert "1 image: less than half of the 32 pixels" in out
    told = failed("p_failed.csv")
    assert "too many pixels" in told["huge.png"] and "data.window=full" in told["deep.png"]
    assert dam(run, *words, "data.window=[0,60000]") == 1
    assert set(failed("p_failed.csv")) == {"huge.png"}
    assert "1 image: gray of more than 8 bits: window [0, 60000]" in capsys.readouterr().out


def test_a_csv_names_images_and_its_own_faults(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.csv").write_text("Path,age,sex\nimages/0.jpg,70,Male\n,3,Male\nimages/absent.jpg,,\n")
    assert dam(run, "--csv", "list.csv", "--out", "p.csv", "--tta", 0) == 1
    assert failed("p_failed.csv") == {
        "list.csv, line 3": "the column Path is blank",
        "images/absent.jpg": "no such file",
    }
    frame = pd.read_csv("p.csv")
    assert {"metadata", "auc_meta"} <= set(frame) and frame["auc_meta"].notna().all()
    Path("bare.csv").write_text("picture\nimages/0.jpg\n")
    assert dam(run, "--csv", "bare.csv", "--image-column", "picture", "--out", "p.csv", "--tta", 0) == 0
    assert "metadata" not in pd.read_csv("p.csv")
    assert "scored without metadata" in capsys.readouterr().out


def test_names_that_are_no_utf8_are_written(run: Path, folder: Path) -> None:
    name = os.fsdecode(b"images/caf\xe9,\n.jpg")
    shutil.copy("images/0.jpg", name)
    assert dam(run, name, "--out", "p.csv", "--columns", "auc") == 0
    assert pd.read_csv("p.csv")["image"].iloc[0] == "images/caf\\udce9,\n.jpg"


# ---------------------------------------------------------------- going on


WORDS = ("images", "--out", "p.csv", "--batch-size", 2, "--columns", "auc,blend,auc_tta")


def stop_after(blocks: int, monkeypatch: pytest.MonkeyPatch, how: Callable[[], None]) -> None:
    update = predict._Progress.update
    seen = []

    def counted(self: predict._Progress, images: int) -> None:
        seen.append(images)
        update(self, images)
        if len(seen) == blocks:
            how()

    monkeypatch.setattr(predict._Progress, "update", counted)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def crash() -> None:
    raise RuntimeError("the power is gone")


def whole(run: Path) -> tuple[bytes, bytes]:
    assert dam(run, *WORDS) == 1
    result = Path("p.csv").read_bytes(), Path("p_failed.csv").read_bytes()
    Path("p.csv").unlink()
    Path("p_failed.csv").unlink()
    return result


@pytest.mark.parametrize("how", [interrupt, crash])
def test_a_stopped_command_goes_on(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str], how: Callable[[], None]
) -> None:
    expected = whole(run)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, patch, how)
        code = dam(run, *WORDS)
    err = capsys.readouterr().err
    assert code == (130 if how is interrupt else 1)
    assert not Path("p.csv").exists() and Path("p.csv.partial").exists()
    if how is interrupt:
        assert err.strip().endswith(shlex.join(["dam", "predict", str(run), *map(str, WORDS)]))
    assert dam(run, *WORDS) == 1
    assert "going on after 4 of 9 images" in capsys.readouterr().err
    assert (Path("p.csv").read_bytes(), Path("p_failed.csv").read_bytes()) == expected
    assert not Path("p.csv.partial").exists()


def test_half_a_record_is_cut_off(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole(run)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, patch, crash)
        dam(run, *WORDS)
    content = bytearray(Path("p.csv.partial").read_bytes())
    content[-40] ^= 1  # within the third record
    Path("p.csv.partial").write_bytes(bytes(content) + b"6 8 100 abcd\n{half")
    assert dam(run, *WORDS) == 1
    assert (Path("p.csv").read_bytes(), Path("p_failed.csv").read_bytes()) == expected


def test_another_command_does_not_take_over(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch, crash)
        dam(run, *WORDS)
    assert dam(run, *WORDS, "--tta", 1) == 2
    assert "another command (differing in tta)" in capsys.readouterr().err
    (folder / "0.jpg").touch()
    assert dam(run, *WORDS) == 2
    assert "differing in images" in capsys.readouterr().err
    assert dam(run, *WORDS, "--restart") == 1
    assert pd.read_csv("p.csv")["image"].nunique() == 7


def test_a_command_that_did_nothing_leaves_nothing_in_the_way(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(predict, "_of_block", lambda *_: 1 / 0)
        assert dam(run, "images/0.jpg", "--out", "p.csv") == 1
    assert not Path("p.csv.partial").exists()
    Path("p_failed.csv").write_text("mine\n")
    assert dam(run, "images/0.jpg", "--out", "p.csv") == 2
    assert "p_failed.csv, for what cannot be read, is there already" in capsys.readouterr().err
    assert Path("p_failed.csv").read_text() == "mine\n"


def test_results_beside_the_images_are_no_images(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = (".", "--out", "p.csv", "--batch-size", 2, "--columns", "auc")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch, crash)
        assert dam(run, *words) == 1
    (folder / "p_explain").mkdir()
    shutil.copy("0.jpg", "p_explain/000_a_b.png")
    assert dam(run, *words) == 1  # goes on, though p.csv.partial lies among the images
    first = Path("p.csv").read_bytes()
    assert dam(run, *words) == 1
    assert Path("p.csv").read_bytes() == first and set(failed("p_failed.csv")) == {"./broken.jpg", "./notes.txt"}


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    first = Partial(tmp_path / "p.csv", {}, False)
    with pytest.raises(UserError, match="another process"):
        Partial(tmp_path / "p.csv", {}, False)
    first.close()


def test_images_are_decoded_a_few_blocks_ahead() -> None:
    taken = []

    def endless() -> object:
        number = 0
        while True:
            taken.append(number)
            yield Item(f"#{number}", np.full((6, 6), number % 256, np.uint8))
            number += 1

    blocks = Decoder([Form(4, 1, "squash", "file")]).blocks(endless(), 8, 2)  # type: ignore[arg-type]
    for number in range(5):
        block = next(blocks)
        assert (block.start, block.stop) == (8 * number, 8 * number + 8)
        assert block.pixels[Form(4, 1, "squash", "file")][:, 0, 0, 0].tolist() == list(
            range(8 * number, 8 * number + 8)
        )
        assert len(taken) <= 8 * (number + 4)
    blocks.close()  # type: ignore[attr-defined]


def test_the_list_of_images_lies_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "b.png").write_bytes(b"2")
    listing = list_images(Asked((str(tmp_path),)), (), tmp_path)
    again = list_images(Asked((f"{tmp_path}/*.png", str(tmp_path / "b.png"))), (), tmp_path)
    assert [Path(e.name).name for e in listing.entries(1)] == ["b.png"]
    assert (listing.count, again.count, again.repeated, listing.digest == again.digest) == (2, 2, 1, True)
    (tmp_path / "b.png").write_bytes(b"33")
    assert list_images(Asked((str(tmp_path),)), (), tmp_path).digest != listing.digest


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "takes a run and images"),
        ("RUN images", "say where the predictions go"),
        ("RUN --out p.csv", "no images are named"),
        ("RUN empty --out p.csv", "the folder is empty"),
        ("RUN texts --out p.csv", "none is one by its name"),
        ("RUN ~nosuch/x --out p.csv", "there is no file or folder ~nosuch/x"),
        ("~nosuch/x texts --out p.csv", "~nosuch/x does not exist"),
        ("RUN absent.png --out p.csv", "no file or folder absent.png"),
        ("RUN 'images/*.gif' --out p.csv", "nothing matches"),
        ("empty images --out p.csv", "no config.yaml"),
        ("absent images --out p.csv", "does not exist"),
        ("RUN images --out empty", "is a folder"),
        ("RUN images --out no/p.csv", "there is no folder no"),
        ("RUN images --out other.csv", "no table of `dam predict`"),
        ("RUN images --csv other.csv --out p.csv", "not both"),
        ("RUN --csv other.csv --out p.csv", "--image-column"),
        ("RUN --csv other.csv --out other.csv", "is the table of --csv itself"),
        ("RUN --csv other.csv --image-column z --out p.csv", "no column z"),
        ("RUN --csv absent.csv --out p.csv", "cannot be read"),
        ("RUN images --root x --out p.csv", "no use without --csv"),
        ("RUN images --out p.csv --model best", "the scores here are"),
        ("RUN images --out p.csv --columns best", "there is no column best"),
        ("RUN images --out p.csv --columns auc --model ce", "--model ce"),
        ("RUN images --out p.csv --tta two", "--tta two: a whole number"),
        ("RUN images --out p.csv --batch-size 0", "--batch-size 0"),
        ("RUN images --out p.csv --devise cpu", "did you mean --device"),
        ("RUN images --out p.csv --explain-max 3", "no use without --explain"),
        ("RUN images --out p.csv data.window=half", "data.window=half"),
        ("RUN images --out p.csv data.fit=pad", "one key, data.window"),
    ],
)
def test_mistakes(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    assert dam(*(str(run) if word == "RUN" else word for word in shlex.split(words))) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
    assert not (tmp_path / "p.csv").exists() and not (tmp_path / "p.csv.partial").exists()


def test_completion_offers_the_options() -> None:
    assert "--image-column" in complete("dam predict run images --im")
    assert complete("dam predict run --device cu") == ["cuda"]
