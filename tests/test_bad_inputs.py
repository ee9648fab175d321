"""Every mistake of ``bad_inputs`` ends in one sentence, exit code 2, and nothing written, lost or run."""

from __future__ import annotations

import ast
import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import predict_runs
import pytest
from bad_inputs import CASES, MARKER, Case, evil, evil_npy, evil_torch, lay

import dam
from dam.cli import main


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and the image store of all cases."""
    folder = tmp_path_factory.mktemp("home")
    predict_runs.train(folder)
    return folder


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"  # the lock of a run: empty, and free once its owner is gone
    }


def prepare(case: Case, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.breaks is not None:
        shutil.copytree(home / "run", tmp_path / "run")
        lay(tmp_path / "run", case.breaks)
    lay(tmp_path, case.files)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAM_STORE", str(home / "store"))
    monkeypatch.setenv("DAM_ANONYMIZE_KEY", str(home / "no key"))


def check_sentence(case: Case, said: str) -> None:
    assert "Traceback" not in said
    first, *more = said[max(0, said.find("dam: error: ")) :].splitlines()
    assert first.startswith("dam: error: ") and len(first) < 1000 and said.count("dam: ") == 1, said
    assert all(line.startswith("  - ") for line in more), said  # several faults at once: a line each
    for word in case.says:
        assert word in first or any(word in line for line in more), said
    if book := os.environ.get("DAM_SENTENCES"):  # for reading them all by eye
        with open(book, "a", encoding="utf-8") as file:
            file.write(f"[{case.name}] {' '.join(case.arguments)}\n    {first}\n{chr(10).join(more)}\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_sentence(
    case: Case, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(case, tmp_path, home, monkeypatch)
    before = snapshot(tmp_path)
    capsys.readouterr()
    code = main(case.arguments)
    said = capsys.readouterr().err
    assert code == 2, said
    check_sentence(case, said)
    after = snapshot(tmp_path)
    assert MARKER not in after
    lost = [name for name in before if name not in after]
    new = [name for name in after if name not in before or after[name] != before[name]]
    assert not lost and [name for name in new if not (case.leaves and name.startswith(case.leaves))] == []


def test_there_are_many_and_each_has_a_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 100


def test_malicious_checkpoints_are_named_and_the_stage_begins_anew(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both checkpoints of a stage hold a pickle that makes a file: it is not made, and the result is what it was."""
    stage = {"last.ckpt": evil_torch(), "previous.ckpt": evil(), "next.ckpt": evil_torch(), "stage.json": None}
    breaks = {f"auc/edema/{name}": content for name, content in stage.items()}
    case = Case("checkpoints", "train resume=run", (), {}, {"progress.json": None, "report": None, **breaks})
    prepare(case, tmp_path, home, monkeypatch)
    monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])
    before = (tmp_path / "run" / "auc" / "edema" / "best.safetensors").read_bytes()
    assert main(case.arguments) == 0
    said = capsys.readouterr().err
    assert said.count("cannot be used") == 2 and "last.ckpt" in said and "previous.ckpt" in said
    assert not (tmp_path / MARKER).exists()
    assert (tmp_path / "run" / "auc" / "edema" / "best.safetensors").read_bytes() == before


def test_a_run_made_elsewhere_cannot_put_other_files_into_a_report(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a name in examples.csv or explain.csv that leads out of the folder, or by a link."""
    case = Case("examples", "report run", (), {"secret.png": "a secret"}, {})
    prepare(case, tmp_path, home, monkeypatch)
    monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])
    folder = tmp_path / "run" / "predictions"
    lines = (folder / "examples.csv").read_text().splitlines()
    name = lines[1].split(",")[1]
    secret = base64.b64encode(b"a secret").decode()
    (folder / "examples.csv").write_text("\n".join(lines).replace(f",{name},", ",../../../secret.png,") + "\n")
    assert main(case.arguments) == 0
    assert secret not in (tmp_path / "run" / "report" / "report.html").read_text()
    (folder / "examples.csv").write_text("\n".join(lines) + "\n")
    (folder / "examples" / name).unlink()
    (folder / "examples" / name).symlink_to(tmp_path / "secret.png")
    assert main(case.arguments) == 0
    assert secret not in (tmp_path / "run" / "report" / "report.html").read_text()


def test_copies_with_a_pickle_are_made_again(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a stop in test-time augmentation leaves, exchanged for an array of objects."""
    breaks = {"progress.json": None, "report": None, "auc/edema/copies_test.npy": evil_npy()}
    case = Case("copies", "train resume=run", (), {}, breaks)
    prepare(case, tmp_path, home, monkeypatch)
    monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])
    before = (tmp_path / "run" / "predictions" / "test.csv").read_bytes()
    assert main(case.arguments) == 0
    assert "copies_test.npy cannot be used" in capsys.readouterr().err
    assert (tmp_path / "run" / "predictions" / "test.csv").read_bytes() == before
    assert not (tmp_path / MARKER).exists()


def test_an_image_store_cannot_name_a_file_elsewhere(tmp_path: Path, home: Path) -> None:
    from dam.data.store import ImageStore

    found = next((home / "store").glob("images-*/index.json")).parent
    shutil.copytree(found, tmp_path / "store")
    index = json.loads((tmp_path / "store" / "index.json").read_text())
    shutil.move(tmp_path / "store" / index["file"], tmp_path / "rows")
    (tmp_path / "store" / "index.json").write_text(json.dumps({**index, "file": "../rows"}))
    with pytest.raises(Exception, match="leads out of it"):
        ImageStore(tmp_path / "store")


def test_the_pickles_would_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above show nothing."""
    import pickle

    monkeypatch.chdir(tmp_path)
    pickle.loads(evil())["state_dict"].close()
    assert (tmp_path / MARKER).exists()


@pytest.mark.parametrize("name", ["a misspelt key", "resume with a config of tags", "predict onto its own list"])
def test_the_real_command(name: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.name == name)
    prepare(case, tmp_path, home, monkeypatch)
    command = [sys.executable, "-m", "dam", *case.arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    check_sentence(case, done.stderr)
    assert not (tmp_path / MARKER).exists()


def test_the_source_loads_nothing_that_can_run_code() -> None:
    """No eval, exec, shell or plain pickle; ``torch.load``, ``np.load`` and ``yaml.load`` only in their safe forms."""
    needed = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
    barred = ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "joblib.load", "pd.read_pickle",
              "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive")  # fmt: skip
    found = []
    for path in sorted((Path(dam.__file__).parent).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, given = ast.unparse(node.func), {ast.unparse(word) for word in node.keywords}
            bad = name in barred or "shell=True" in given or name.endswith(".extractall")
            bad |= name in needed and needed[name] not in given
            if bad:
                found.append(f"{path.name}:{node.lineno} {name}")
    assert found == []
