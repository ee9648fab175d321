"""What a run writes down of where it came from, and that a resume refuses other data and says what differs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from dam.data import fingerprint, load_table
from dam.data.datasets.text_tables import read_text, recorded
from dam.errors import UserError
from dam.training import environment, single
from dam.training.device import resolve
from dam.training.resume import check_same_data
from dam.training.rundir import RunDirectory

WORDS = ("data=csv", "data.csv=t.csv", "data.root=.", "data.labels=[sick]", "auc.optimizer=adamw")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    for i in range(24):
        Image.fromarray(np.full((40, 40), 5 * i, np.uint8)).save(f"{i:02d}.png")
    Path("t.csv").write_text("image,sick,note\n" + "".join(f"{i:02d}.png,{i % 2},x\n" for i in range(24)))
    return tmp_path


def facts(*more: str) -> dict[str, Any]:
    gone = ("data=", "data.patients", "data.phantom", "data.labels")
    from dam.compose import compose

    cfg = compose([*(word for word in tiny.words("run") if not word.startswith(gone)), *WORDS, *more])
    device, table = resolve(cfg), load_table(cfg.data)
    return single.data_facts(single.inputs_of(cfg, table, device))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def kept() -> RunDirectory:
    run = RunDirectory(Path("run"))
    run.path.mkdir()
    run.write_json("data.json", facts())
    return run


def test_data_json_has_the_hash_of_the_table_of_the_list_of_images_and_of_their_content(data: Path) -> None:
    found = facts()
    assert found["tables"] == [{"file": str(data / "t.csv"), "sha256": sha256((data / "t.csv").read_bytes())}]
    table = load_table(tiny.compose([*WORDS]).data)
    lines = "\n".join(
        f"{image}\t{split}" for image, split in zip(table.frame["image"], table.frame["split"], strict=True)
    )
    assert found["images_sha256"] == sha256(lines.encode())
    digest = {f"{i:02d}.png": hashlib.blake2b((data / f"{i:02d}.png").read_bytes(), digest_size=16).hexdigest()
              for i in range(24)}  # fmt: skip
    assert found["content"] == digest
    assert found["pixels_sha256"] == sha256("\n".join(digest[name] for name in sorted(digest)).encode())


def test_of_a_large_table_the_content_of_a_sample_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "SAMPLE", 5)
    assert len(facts()["content"]) == 5


def test_the_same_data_pass(data: Path) -> None:
    run = kept()
    shutil.rmtree(data / "store")  # another store of the same images, and other times of the files
    for path in data.glob("*.png"):
        os.utime(path, (1, 1))
    check_same_data(run, facts())


def changed_table(data: Path) -> None:
    (data / "t.csv").write_text((data / "t.csv").read_text().replace(",x\n", ",y\n"))


def changed_label(data: Path) -> None:
    (data / "t.csv").write_text((data / "t.csv").read_text().replace("03.png,1", "03.png,0"))


def changed_image(data: Path) -> None:
    Image.fromarray(np.full((40, 40), 250, np.uint8)).save("07.png")


def lost_image(data: Path) -> None:
    (data / "t.csv").write_text((data / "t.csv").read_text().replace("07.png,1,x\n", ""))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_table, ["the table ", "t.csv changed since; put the data back as it was, or start a new run"]),
        (changed_label, ["the table ", "the labels (labels_sha256)"]),
        (changed_image, ["was started on other data: the content of 07.png changed since"]),
        (lost_image, ["the table ", "the list of images or their splits (images_sha256)"]),
    ],
)
def test_a_resume_says_what_of_the_data_changed(data: Path, change: Any, said: list[str]) -> None:
    run = kept()
    change(data)
    with pytest.raises(UserError) as caught:
        check_same_data(run, facts())
    assert [words for words in said if words not in str(caught.value)] == []


def test_an_image_outside_the_sample_is_still_noticed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "SAMPLE", 2)
    run = kept()
    changed_image(data)
    now = facts()
    with pytest.raises(UserError, match=r"the content of 07\.png changed"):  # the store from before still knows
        check_same_data(run, now)
    shutil.rmtree(data / "store")
    with pytest.raises(UserError, match=r"the content of images that are not among the 2 noted in data\.json changed"):
        check_same_data(run, now)


@pytest.mark.parametrize("key", ["tables", "content"])
def test_facts_of_another_kind_are_damaged_and_no_traceback(data: Path, key: str) -> None:
    run = kept()
    changed_image(data)
    for value in (3, ["x"], [{}], "text"):
        run.write_json("data.json", {**facts(), "pixels_sha256": "0", key: value})
        with pytest.raises(UserError):
            check_same_data(run, facts())


def test_texts_are_noted_once_as_they_were_read_and_only_where_asked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x,y\r\n")
    with recorded() as outer:
        with recorded() as inner:
            read_text(tmp_path / "a")
            read_text(tmp_path / "a")
        assert inner == [(str(tmp_path / "a"), sha256(b"x,y\r\n"))] and outer == []
    assert read_text(tmp_path / "a") and inner and outer == []


def test_a_table_without_text_files_has_none(data: Path) -> None:
    from dataclasses import replace

    table = load_table(tiny.compose([*WORDS]).data)
    assert fingerprint(replace(table, sources=()))["tables"] == []


def test_environment_json_has_versions_hardware_seeds_command_and_git(tmp_path: Path) -> None:
    cfg = tiny.tiny(tmp_path / "r", "seed=3", "data.split_seed=5")
    found = single.describe_run(["dam", "train", "seed=3"], cfg, resolve(cfg))
    assert found["seeds"] == {"seed": 3, "data.split_seed": 5, "data.phantom_seed": 0, "evaluation.seed": 0}
    assert found["command"] == ["dam", "train", "seed=3"] and found["packages"]["pillow"]
    assert found["memory_bytes"] > 1e8 and found["cpu_count"] >= 1 and found["python"] and "gpu" in found
    json.dumps(found)


def test_git_tells_commit_and_changes(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        named = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *named, *words], cwd=tmp_path, check=True, capture_output=True)

    assert environment._git(tmp_path) is None
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    first = environment._git(tmp_path)
    assert first is not None and len(first["commit"]) == 40 and first["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert environment._git(tmp_path) == {"commit": first["commit"], "dirty": True}
    (tmp_path / ".venv" / "dam").mkdir(parents=True)  # installed within a user's own repository
    assert environment._git(tmp_path / ".venv" / "dam") is None
