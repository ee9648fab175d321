"""``report.anonymize=true``: no file of a run names a patient or an image, and every number is what it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pandas as pd
import pytest
import tiny
from PIL import Image

from dam.cli import main
from dam.data.table import Naming, without_names
from dam.errors import UserError
from dam.training import run as run_module
from dam.training.anonymize import ENV, Pseudonyms, for_run, key_file, of_run

MORE = ("data=csv", "data.csv=t.csv", "data.root=.", "data.labels=[sick,other]", "data.metadata=[sex,ward,clinic]",
        "evaluation.subgroups=[ward]", "data.on_bad_image=skip", "control=ce", "warm_start.steps=3", "auc.steps=3",
        "data.test_fraction=0.3", "data.val_fraction=0.3", "data.unit=study")  # fmt: skip


@pytest.fixture(autouse=True)
def _a_key_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, str(tmp_path_factory.getbasetemp() / "a key" / "k"))


def words(run_dir: str, *more: str) -> list[str]:
    gone = ("data=", "data.patients", "data.phantom", "data.labels", "warm_start.steps", "auc.steps")
    return [*(word for word in tiny.words(run_dir) if not word.startswith(gone)), *MORE, *more]


def make_data(folder: Path) -> None:
    """Forty patients, named so that a name is found wherever it stands; one image is damaged, one is not there."""
    rows = ["image,patient,study,sick,other,sex,ward,clinic"]
    (folder / "scan").mkdir()
    for i in range(80):
        name = f"scan/Meier_{i:02d}.png"
        if i != 79:
            picture = Image.new("L", (40, 40), 20 + 2 * i)
            picture.putpixel((i % 40, i // 40), 255)
            picture.save(folder / name)
        owner = f"Schulze-{i // 2:02d}"
        rows.append(f"{name},{owner},{owner}/Visit,{i % 3 == 0:d},{i // 2 % 2},{'mf'[i % 2]},{'AB'[i % 4 // 2]},Mercy")
    (folder / "scan" / "Meier_78.png").write_bytes(b"no image")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``plain`` and ``anon``: the same run with and without names; ``log``: what it said on the screen."""
    folder = tmp_path_factory.mktemp("home")
    make_data(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DAM_STORE", str(folder / "store"))
        monkeypatch.setenv(ENV, str(tmp_path_factory.getbasetemp() / "a key" / "k"))
        monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])  # plots name nobody, and take most of the time
        assert main(["train", *words("plain")]) == 0
        assert main(["train", *words("anon", "report.anonymize=true")]) == 0
    return folder


@pytest.fixture
def there(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    monkeypatch.setenv("DAM_STORE", str(home / "store"))
    return home


def named_in(folder: Path, *also: str) -> list[str]:
    """The files that hold, or are called by, a patient, a study or an image."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if any(name.encode() in content or name in path.name for name in ("Meier", "Schulze", "Visit", *also)):
            found.append(str(path.relative_to(folder)))
    return found


def test_no_file_of_the_run_names_anybody(home: Path) -> None:
    assert named_in(home / "plain", "Mercy") != []
    assert named_in(home / "anon", "Mercy") == []
    assert not (home / "anon/predictions/examples").exists() and (home / "plain/predictions/examples").is_dir()
    report = (home / "anon" / "report" / "report.md").read_text()
    assert "An anonymized run (`report.anonymize=true`) keeps no example images" in report
    assert "left out 1 row without a file\n" in (home / "anon" / "train.log").read_text()
    assert "data.on_bad_image=skip: 1 row left out, unreadable\n" in (home / "anon" / "train.log").read_text()
    assert len(json.loads((home / "anon" / "data.json").read_text())["skipped"]) == 1


def test_numbers_are_those_of_the_plain_run_to_the_last_bit(home: Path) -> None:
    """Weights, metrics, scores, and every interval, which are clustered by patient."""
    plain, anon = tiny.contents(home / "plain"), tiny.contents(home / "anon")
    scores = {"predictions/images.csv", "predictions/test.csv", "predictions/val.csv", "predictions/examples.csv"}
    same = [name for name in plain if name not in scores and "examples" not in name]
    assert "report/auc.csv" in same and "auc/sick/metrics.csv" in same
    assert [name for name in same if plain[name] != anon[name]] == []
    for name in ("subgroups.csv", "calibration.csv", "performance.csv"):
        files = [home / run / "report" / name for run in ("plain", "anon")]
        assert files[0].exists() == files[1].exists()
        assert not files[0].exists() or files[0].read_bytes() == files[1].read_bytes()


def test_names_are_pseudonyms_that_join_and_columns_that_nobody_names_are_gone(home: Path) -> None:
    names = Pseudonyms.open()
    for file in ("images", "test", "val"):
        plain, anon = (pd.read_csv(home / run / f"predictions/{file}.csv", dtype=str) for run in ("plain", "anon"))
        for column in ("image", "patient", "study"):
            assert anon[column].tolist() == names.names(plain[column])
            assert anon[column].nunique() == plain[column].nunique()
    assert plain.drop(columns=["image", "patient", "study"]).equals(anon.drop(columns=["image", "patient", "study"]))
    images = pd.read_csv(home / "anon/predictions/images.csv")
    assert list(images.columns) == ["image", "patient", "study", "split", "sex", "ward"]


def test_report_evaluate_compare_and_resume_go_on_with_it(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])
    run = tmp_path / "anon"
    shutil.copytree(there / "anon", run)
    before = tiny.contents(run)
    assert main(["report", str(run)]) == 0
    assert main(["compare", str(run), "anon", "--model", "auc", "--model", "ce"]) == 0
    assert main(["evaluate", str(run), "--out", str(tmp_path / "judged")]) == 0
    assert named_in(tmp_path / "judged") == []
    (run / "progress.json").unlink()
    (run / "auc/sick/stage.json").unlink()
    assert main(["train", f"resume={run}"]) == 0
    assert tiny.contents(run) == before and named_in(run) == []
    assert main(["train", f"resume={run}", "report.anonymize=false"]) == 2
    assert "the names in its files are written already" in capsys.readouterr().err
    assert main(["report", str(run), "--explain"]) == 2
    assert "keeps no example images (report.anonymize=true: no pictures)" in capsys.readouterr().err


def test_an_external_set_gets_the_same_names_and_leakage_is_still_found(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "anon"
    shutil.copytree(there / "anon", run)
    lines = (there / "t.csv").read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([lines[0], *lines[1:30]]) + "\n")
    command = ["evaluate", str(run), "--data", "csv", f"data.csv={tmp_path}/other.csv", f"data.root={there}", "--name",
               "b", "data.labels=[sick,other]", "data.metadata=[sex,ward,clinic]", "--device", "cpu"]  # fmt: skip
    assert main(command) == 2
    assert "have the name of one that the run trained or chose on (scan/Meier_" in capsys.readouterr().err
    assert main([*command, "data.leakage=allow"]) == 0
    assert named_in(run, "Mercy") == []
    external = pd.read_csv(run / "predictions" / "external_b.csv", dtype=str)
    known = pd.read_csv(run / "predictions" / "images.csv", dtype=str)
    assert set(external["image"]) <= set(known["image"]) and len(external) == 58
    assert "byte for byte, allowed by" in (run / "predictions" / "external_b.json").read_text()


def test_a_warm_start_under_pseudonyms_is_still_checked_for_leakage(there: Path, tmp_path: Path) -> None:
    from dam.compose import compose

    with pytest.raises(UserError, match=r"was trained on \d+ of the patients .* \(such as Schulze-"):
        run_module.start(compose(words(str(tmp_path / "r"), "warm_start.run=anon", "data.split_seed=4")), ["dam"])


def test_without_the_key_nothing_that_needs_the_names_goes_on(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "anon"
    shutil.copytree(there / "anon", run)
    (run / "progress.json").unlink()
    monkeypatch.setenv(ENV, str(tmp_path / "k2"))
    assert main(["train", f"resume={run}"]) == 2
    assert "are pseudonyms: there is no key" in capsys.readouterr().err and not (tmp_path / "k2").exists()
    (tmp_path / "k2").write_text("ab" * 32)
    assert main(["train", f"resume={run}"]) == 2
    assert "made by another key than" in capsys.readouterr().err
    (tmp_path / "k2").write_text("secret")
    assert main(["train", f"resume={run}"]) == 2
    assert "is no key of report.anonymize: it should hold 64 hexadecimal digits" in capsys.readouterr().err
    monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])
    assert main(["report", str(run)]) == 0  # needs no names


def test_a_run_of_any_kind_asks_for_its_key_before_anything_else(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the key the data would seem to be other data."""

    def never(*_: object) -> None:
        raise AssertionError("it went on")

    shutil.copytree(there / "anon", tmp_path / "anon")
    (tmp_path / "anon" / "progress.json").unlink()
    (tmp_path / "k2").write_text("ab" * 32)
    monkeypatch.setenv(ENV, str(tmp_path / "k2"))
    kind = run_module.Kind(never, never, never, never)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="made by another key than"):
        run_module.resume(tmp_path / "anon", [], ["dam"], kind=kind)


def test_an_image_that_fails_in_training_is_told_by_its_pseudonym(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def boom(*_: object) -> None:
        raise ValueError("boom")

    monkeypatch.setattr("dam.data.store.ImageStore.take", boom)
    assert main(["train", *words(str(tmp_path / "r"), "report.anonymize=true")]) == 1
    assert "cannot read image id_" in capsys.readouterr().err
    assert "cannot read image id_" in (tmp_path / "r" / "progress.json").read_text()
    assert named_in(tmp_path / "r") == []


def test_the_key_is_drawn_once_is_the_users_alone_and_lies_in_no_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = key_file().read_text().strip()
    assert len(bytes.fromhex(secret)) == 32 and named_in(home / "anon", secret, secret[:16]) == []
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    monkeypatch.delenv(ENV)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    cfg = tiny.tiny(tmp_path / "r", "report.anonymize=true")
    first, second = for_run(cfg), for_run(cfg)
    assert first is not None and second is not None and first.mark == second.mark != Pseudonyms(bytes(32)).mark
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == ["dam/anonymize.key"]
    assert for_run(tiny.tiny(tmp_path / "r")) is None and of_run(home / "plain") is None


def test_a_dry_run_draws_no_key(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, str(tmp_path / "k"))
    assert main(["train", *words(str(tmp_path / "r"), "report.anonymize=true", "dry_run=true")]) == 0
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_pseudonyms_depend_on_the_key_and_keep_equality() -> None:
    one, two = Pseudonyms(b"1" * 32), Pseudonyms(b"2" * 32)
    assert one.name("a") == one.name("a") != one.name("b") and one.name("a") != two.name("a")
    assert one.name("") == "" and one.name("a").startswith("id_") and len(one.name("a")) == 19
    key = b"1" * 32 + bytes(32)
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + b"a").digest()
    assert (
        one.name("a") == "id_" + hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()[:16]
    )  # HMAC by its definition


def test_a_note_that_names_somebody_is_cut_or_withheld() -> None:
    assert without_names(Naming("left out 2 rows", ": a.png, b.png"), ()) == "left out 2 rows"
    assert without_names("it was a.png", {"a.png"}) == "a step whose note named images or patients"
    assert without_names("left out 12 rows", {"12", "row"}) == "left out 12 rows"
