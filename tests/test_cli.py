"""The ``dam`` command: light help, one sentence and an exit code for every outcome, completion."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dam import __version__, cli
from dam.commands.completion import complete
from dam.errors import UserError

HEAVY = ("torch", "torchvision", "pandas", "timm", "hydra", "omegaconf", "numpy", "albumentations", "matplotlib")


def imported_by(*words: str) -> tuple[int, set[str]]:
    code = (
        "import json, sys\n"
        "from dam.cli import main\n"
        f"code = main({list(words)!r})\n"
        "print(json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules})]), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, names = json.loads(done.stderr.splitlines()[-1])
    return exit_code, set(names)


@pytest.mark.parametrize(
    "words",
    [["--help"], [], ["--version"], *[[name, "--help"] for name in cli.COMMANDS], ["__complete", "dam train a"]],
)
def test_help_and_completion_import_nothing_heavy(words: list[str]) -> None:
    code, names = imported_by(*words)
    assert code == 0
    assert not names & set(HEAVY)


def test_a_mistake_in_the_config_is_told_before_torch_is_imported_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom dam.cli import main\n"
        "code = main(['train', 'auc.loss.margn=3', 'batch_size=1'])\n"
        "assert not {'torch', 'pandas', 'timm'} & set(sys.modules)\nsys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "auc.loss.margin (now 1.0)" in done.stderr and "batch_size must be" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_of_each_command_holds_two_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.COMMANDS:
        assert cli.main([name, "--help"]) == 0
        text = capsys.readouterr().out.partition("examples:")[2]
        assert len([line for line in text.splitlines() if f"dam {name}" in line]) >= 2, name


def test_version_and_the_module_form() -> None:
    done = subprocess.run([sys.executable, "-m", "dam", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"dam {__version__}\n"


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == "dam: error: there is no command 'trian'; did you mean `dam train`?\n"
    assert cli.main(["+experiment=quickstart"]) == 2
    assert "dam train +experiment=quickstart" in capsys.readouterr().err


def failing(error: BaseException) -> object:
    class Module:
        HELP = ""

        @staticmethod
        def run(_words: list[str]) -> int:
            raise error

    return Module


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("the root is wrong"), 2, "dam: error: the root is wrong\n"),
        (KeyboardInterrupt(), 130, "dam: interrupted\n"),
        (ValueError("a\nb"), 1, "dam: failed: ValueError: a b\nset DAM_DEBUG=1 for the traceback\n"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAM_DEBUG", raising=False)
    monkeypatch.setattr(cli.importlib, "import_module", lambda _name: failing(error))
    assert cli.main(["train"]) == code
    assert capsys.readouterr().err == told
    monkeypatch.setenv("DAM_DEBUG", "1")
    cli.main(["train"])
    assert ("Traceback" in capsys.readouterr().err) == (code != 130)


def test_resume_of_no_run_and_of_a_path_that_hydra_could_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a=b,(c"
    assert cli.main(["train", f"resume={folder}"]) == 2
    assert "there is no such directory" in capsys.readouterr().err
    folder.mkdir()
    assert cli.main(["train", f"resume={folder}"]) == 2
    assert "is no run: it holds no config.yaml" in capsys.readouterr().err
    (folder / "config.yaml").touch()
    assert cli.main(["train", f"resume={folder}"]) == 2
    assert "config.yaml is empty: it was damaged or cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resume=r1", "resume=r2"], "resume=r1 and resume=r2: one command resumes one run"),
        (["+resume=r1"], "'+resume=r1' is not how a run is resumed: write resume=r1"),
        (["resume", "r 1"], "'resume' is not how a run is resumed: write 'resume=r 1'"),
        (["--resume", "r1", "device=cpu"], "write resume=r1"),
        (["--resume=r1"], "write resume=r1"),
        (["--resume"], "write resume=RUN"),
    ],
)
def test_other_forms_of_resume_are_told_the_right_one(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words]) == 2
    assert told in capsys.readouterr().err


def test_cfg_job_prints_the_config_through_the_same_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--cfg", "job", "seed=7", "auc.optimizer.lr=1e-4"]) == 0
    out = capsys.readouterr().out
    assert "seed: 7\n" in out and "lr: 0.0001\n" in out
    assert cli.main(["train", "--cfg", "job", "+auc.loss.margn=3"]) == 2
    assert cli.main(["train", "--cfg", "hydra"]) == 2
    capsys.readouterr()
    assert cli.main(["train", "--cfg"]) == 2
    assert "write `--cfg job`" in capsys.readouterr().err
    assert cli.main(["train", "--info"]) == 2


def test_list_prints_experiments_and_models_and_refuses_other_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "experiments"]) == 0
    assert "+experiment=quickstart" in capsys.readouterr().out
    assert cli.main(["list", "models"]) == 0
    assert "model=densenet121 " in capsys.readouterr().out
    assert cli.main(["list", "model"]) == 2
    assert "models" in capsys.readouterr().err
    assert cli.main(["data", "chek"]) == 2
    assert "dam data check" in capsys.readouterr().err
    assert cli.main(["data", "check", "--image"]) == 2
    assert "--image is no option of `dam data check`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dam tr", ["train"]),
        ("dam list mod", ["models"]),
        ("dam train -", ["-m", "--cfg", "--help"]),
        ("dam train --cfg ", ["job"]),
        ("dam data check --im", ["--images"]),
        ("dam train device=c", ["device=cpu", "device=cuda"]),
        ("dam train data.root=", []),
        ("dam train data.root=/tm", []),
        ("dam train resume=out", []),
        ("dam train data.root=n", ["data.root=null"]),
        ("dam train auc.loss.marg", ["auc.loss.margin="]),
        ("dam train au", ["auc.", "auc=", "augment.", "augment=", "augment_on="]),
        ("dam train auc.optimizer=adam", ["auc.optimizer=adam", "auc.optimizer=adamw"]),
        ("dam train -m auc.optimizer=pesg,adam", ["auc.optimizer=pesg,adam", "auc.optimizer=pesg,adamw"]),
        ("dam train +experiment=quick", ["+experiment=quickstart"]),
        ("dam train data.uncertain.Edema=z", ["data.uncertain.Edema=zeros"]),
        ("dam train compile=", ["compile=true", "compile=false"]),
        ("dam train nosuchkey=", []),
    ],
)
def test_completion_knows_verbs_keys_and_words(line: str, expected: list[str]) -> None:
    assert complete(line) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_bash_script_completes_behind_an_equals_sign(tmp_path: Path) -> None:
    program = tmp_path / "dam"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dam "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(dam completion bash)"\ncompopt() { :; }\n'
        'COMP_LINE="dam train auc.optimizer=adam"; COMP_POINT=${#COMP_LINE}; _dam; echo "${COMPREPLY[*]}"\n'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COMP_WORDBREAKS": " ="}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["adam", "adamw"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_paths_where_dam_has_no_word(tmp_path: Path) -> None:
    script = f'eval "$({sys.executable} -m dam completion bash)"; complete -p dam\n'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "-o bashdefault" in done.stdout and "-o default" in done.stdout and "-F _dam" in done.stdout


@pytest.mark.parametrize(
    ("code", "rc", "said"), [(errno.EROFS, 2, "choose a place"), (errno.ENOSPC, 2, "make room"), (errno.EIO, 1, "DAM_")]
)
def test_a_refusal_of_the_system_is_one_sentence(
    code: int, rc: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(arguments: list[str]) -> int:
        raise OSError(code, os.strerror(code), "outputs/x")

    monkeypatch.setattr("dam.commands.list.run", refused)
    assert cli.main(["list"]) == rc
    error = capsys.readouterr().err
    assert error.startswith("dam: error: outputs/x: ") and said in error and error.count("\n") == 1
