"""``sweep.resume=true``: what is done stays, what stopped goes on, what never began begins; nothing else is taken."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_sweep import Result

from dam.cli import main
from dam.commands.completion import complete
from dam.compose import compose, read_config, to_yaml
from dam.config import AUCSquareConfig, Config
from dam.errors import UserError
from dam.sweep import run_job, run_sweep
from dam.sweep_resume import command, held

WORDS = ["+experiment=quickstart", "auc.loss.margin=0.3,0.5,0.7,0.9"]
RESUME = [*WORDS, "sweep.resume=true"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs one after another without Hydra, which reads all configs twice a job."""

    def one_by_one(folder: Path, words: list[str], task: Any) -> None:
        (axis,) = [word for word in words if "," in word]
        key, _, values = axis.partition("=")
        for num, text in enumerate(values.split(",")):
            run_job(folder, num, [f"{key}={text}" if word is axis else word for word in words], **task.keywords)

    monkeypatch.setattr("dam.sweep.multirun", one_by_one)


def margin_of(cfg: Config) -> float:
    assert cfg.auc is not None and isinstance(cfg.auc.loss, AUCSquareConfig)
    return cfg.auc.loss.margin


def log(job: Path, what: str) -> None:
    with open(job.parent / "log.txt", "a") as file:  # in a file, for jobs may run in other processes
        file.write(what + "\n")


def logged() -> list[str]:
    """What was started and resumed since the last call."""
    lines = []
    for file in Path().rglob("log.txt"):
        lines += file.read_text().splitlines()
        file.unlink()
    return sorted(lines)


def finish(folder: Path, margin: float) -> Result:
    (folder / "report").mkdir(parents=True, exist_ok=True)
    (folder / "report" / "auc.csv").write_text(f"split,label,model,auc\nval,mean,auc,{margin / 4}\n")
    return Result(folder, margin / 4)


def start(cfg: Config, words: list[str], shared_warm_starts: Path | None = None) -> Result:
    assert cfg.run_dir is not None
    folder = Path(cfg.run_dir)
    log(folder, f"start {margin_of(cfg)}")
    folder.mkdir(parents=True, exist_ok=False)
    (folder / "config.yaml").write_text(to_yaml(cfg))
    return finish(folder, margin_of(cfg))


def resume(folder: Path, overrides: list[str], words: list[str], shared_warm_starts: Path | None = None) -> Result:
    assert overrides == [] and shared_warm_starts == folder.parent / "warm_starts"
    margin = margin_of(read_config(folder / "config.yaml"))
    log(folder, f"resume {margin}")
    return finish(folder, margin)


def dies_at(margin: float, run: bool) -> object:
    """A ``start`` that raises at one margin, after its directory was made or before; the others are done."""

    def begin(cfg: Config, words: list[str], shared_warm_starts: Path | None = None) -> Result:
        if margin_of(cfg) != margin:
            return start(cfg, words, shared_warm_starts)
        if run:
            start(cfg, words, shared_warm_starts)
        raise KeyboardInterrupt if run else ValueError("boom")

    return begin


def the_sweep() -> Path:
    (folder,) = Path("outputs/quickstart/sweeps").iterdir()
    return folder


def table(folder: Path) -> str:
    return (folder / "sweep.csv").read_text().replace(str(folder.absolute()), "")


@pytest.mark.parametrize(
    "launcher", [[], pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], marks=pytest.mark.slow)]
)
def test_what_is_missing_is_completed_and_what_is_done_is_left(
    launcher: list[str], request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    else:
        request.getfixturevalue("quick")
    assert run_sweep([*WORDS, *launcher], start) == 0
    folder = the_sweep()
    whole = table(folder)
    logged()
    # As a kill -9 may leave it: 0 done, 1 stopped in its run, 2 killed while its directory was made, 3 never begun.
    for num, state in ((1, "running"), (2, "running")):
        record = json.loads((folder / "jobs" / f"{num}.json").read_text())
        (folder / "jobs" / f"{num}.json").write_text(json.dumps({**record, "state": state, "auc": {}}))
    (folder / "jobs" / "3.json").unlink()
    for path in (folder / "2_margin-0.7").rglob("*"):
        if path.is_file():
            path.unlink()
    (folder / "2_margin-0.7" / "report").rmdir()
    (folder / "2_margin-0.7" / ".lock").touch()
    subprocess.run(["rm", "-r", str(folder / "3_margin-0.9")], check=True)
    (folder / "sweep.csv").unlink()
    capfd.readouterr()
    assert run_sweep([*RESUME, *launcher], start, resume) == 0
    assert logged() == ["resume 0.5", "start 0.7", "start 0.9"]
    assert launcher or "auc.loss.margin=0.3: done before" in capfd.readouterr().out
    assert table(folder) == whole


def test_a_failed_job_is_started_again_and_an_interrupted_one_resumed(
    quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep([*WORDS, "run_dir=whole"], start) == 0
    assert run_sweep([*WORDS, "run_dir=here"], dies_at(0.5, run=False)) == 1  # type: ignore[arg-type]
    told = capsys.readouterr().out
    assert f"to complete it: dam train -m {' '.join(WORDS)} run_dir={Path('here').absolute()} sweep.resume=true" in told
    logged()
    assert run_sweep([*RESUME, "run_dir=here"], dies_at(0.5, run=True), resume) == 130  # type: ignore[arg-type]
    assert logged() == ["start 0.5"]
    assert run_sweep([*RESUME, "run_dir=here"], start, resume) == 0
    assert logged() == ["resume 0.5"]
    assert run_sweep([*RESUME, "run_dir=here"], start, resume) == 0
    assert logged() == []
    assert table(Path("here")) == table(Path("whole"))


def test_the_newest_sweep_of_the_same_jobs_is_meant(quick: None) -> None:
    for name in ("2026-01-01_00-00-00_2", "2026-01-01_00-00-00_10", "2026-01-01_00-00-00"):
        parent = Path("outputs/quickstart/sweeps")
        assert run_sweep([*WORDS, f"run_dir={parent / name}"], start) == 0
        (parent / name / "jobs" / "0.json").unlink()
    assert run_sweep(["+experiment=quickstart", "seed=1,2", f"run_dir={parent / '2027-01-01_00-00-00'}"], start) == 0
    logged()
    reordered = [WORDS[1], "experiment=quickstart", "sweep.resume=true"]  # other spelling, same jobs
    assert run_sweep(reordered, start, resume) == 0
    assert logged() == ["resume 0.3"]
    assert (parent / "2026-01-01_00-00-00_10" / "jobs" / "0.json").exists()
    assert not (parent / "2026-01-01_00-00-00_2" / "jobs" / "0.json").exists()


def test_what_cannot_be_resumed_is_refused_by_a_sentence(quick: None) -> None:
    with pytest.raises(UserError, match=r"there is no sweep under .* leave out sweep\.resume"):
        run_sweep(RESUME, start, resume)
    with pytest.raises(UserError, match="holds no sweep to go on with"):
        run_sweep([*RESUME, "run_dir=here"], start, resume)
    run_sweep([*WORDS, "run_dir=here"], start)
    other = ["+experiment=quickstart", "auc.loss.margin=0.3,0.5", "sweep.resume=true"]
    with pytest.raises(UserError, match=r"started by other words: `dam train -m \+experiment=quickstart"):
        run_sweep([*other, "run_dir=here"], start, resume)
    notes = json.loads(Path("here/sweep.json").read_text())
    Path("here/sweep.json").write_text(json.dumps({**notes, "identity": "0"}))
    with pytest.raises(UserError, match="same words, but they give other configs now"):
        run_sweep([*RESUME, "run_dir=here"], start, resume)
    Path("here/sweep.json").write_text("[]")
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        run_sweep([*RESUME, "run_dir=here"], start, resume)
    Path("here/sweep.json").write_text(json.dumps(notes))
    Path("here/jobs/1.json").write_text('{"num": 1}')
    logged()
    with pytest.raises(UserError, match=r"1\.json is damaged"):
        run_sweep([*RESUME, "run_dir=here"], start, resume)
    assert logged() == []
    for words, said in (
        (["sweep.resume=maybe"], "must be true or false, got maybe"),
        (["sweep.resume=true", "dry_run=true"], "leave out dry_run=true"),
        (["sweep.resume=true", "hydra/sweeper=optuna"], "which draws its jobs anew"),
    ):
        with pytest.raises(UserError, match=said):
            run_sweep([*WORDS, *words], start, resume)
    with pytest.raises(UserError, match=r"sweep\.resume=true belongs to a sweep: add -m"):
        compose(["sweep.resume=true"])


def test_a_record_cannot_lead_out_of_the_sweep(quick: None) -> None:
    """The directory of a job is the sweep's own, whatever its record says."""
    run_sweep([*WORDS, "run_dir=here"], start)
    record = json.loads(Path("here/jobs/0.json").read_text())
    Path("here/jobs/0.json").write_text(json.dumps({**record, "state": "running", "run_dir": "/elsewhere"}))
    assert run_sweep([*RESUME, "run_dir=here"], start, resume) == 0
    assert json.loads(Path("here/jobs/0.json").read_text())["run_dir"] == record["run_dir"]


def test_a_run_that_was_removed_is_missing_whatever_its_record_says(quick: None) -> None:
    run_sweep([*WORDS, "run_dir=here"], start)
    shutil.rmtree("here/0_margin-0.3")
    logged()
    assert run_sweep([*RESUME, "run_dir=here"], start, resume) == 0
    assert logged() == ["start 0.3"]


def test_a_sweep_that_still_runs_is_left_alone(quick: None) -> None:
    run_sweep([*WORDS, "run_dir=here"], start)
    code = "import sys, time; from pathlib import Path; from dam.sweep_resume import held\n"
    code += "with held(Path('here')): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as job:  # one of its joblib workers
        assert job.stdout is not None and job.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="still running in another process"):
            run_sweep([*RESUME, "run_dir=here"], start, resume)
        job.kill()
    assert run_sweep([*RESUME, "run_dir=here"], start, resume) == 0
    with held(Path("here"), alone=True):
        pass


def test_dam_runs_and_completion_know_it(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    run_sweep([*WORDS, "run_dir=outputs/my sweep"], dies_at(0.5, run=True))  # type: ignore[arg-type]
    capsys.readouterr()
    assert main(["runs"]) == 0
    told = capsys.readouterr().out
    again = command(Path("outputs/my sweep").absolute())
    assert f"  {again}  # 3 of 4 jobs are not done" in told and "run_dir=/" in again and told.count("to go on:") == 1
    assert "dam train resume=" not in told
    assert complete("dam train sweep.r") == ["sweep.resume="]
    assert complete("dam train -m sweep.resume=t") == ["sweep.resume=true"]


KILLED = """
import os, signal, sys
from dam.training import checkpoint
save, count = checkpoint.Writer.save, 0
def dying(writer, state):
    global count
    save(writer, state)
    writer.wait()
    count += 1
    if count == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.Writer.save = dying
from dam.cli import main
main(["train", "-m", *sys.argv[2:]])
"""


def test_a_killed_sweep_ends_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of the whole sweep in the AUC stage of its first job; the warm start is shared with the second."""
    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("dam.report.plots.draw_all", lambda *_: [])
    words = [word for word in tiny.WORDS if not word.startswith("data.labels")]
    words += ["data.labels=[Edema]", "auc=auc_margin", "auc.loss.margin=0.5,1.0"]
    done = subprocess.run([sys.executable, "-c", KILLED, "4", *words, "run_dir=a"], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert json.loads(Path("a/jobs/0.json").read_text())["state"] == "running" and not Path("a/jobs/1.json").exists()
    assert not Path("a/0_margin-0.5/auc/edema/stage.json").exists()
    assert run_sweep([*words, "run_dir=a", "sweep.resume=true"]) == 0
    assert run_sweep([*words, "run_dir=b"]) == 0
    assert table(Path("a")) == table(Path("b")) and "done" in table(Path("a"))
    for job in ("0_margin-0.5", "1_margin-1.0"):
        first, second = (tiny.contents(Path(name) / job) for name in "ab")
        assert first == second and len(first) > 5
    assert math.isfinite(json.loads(Path("a/jobs/1.json").read_text())["mean_val_auc"])
    taken = json.loads(Path("a/1_margin-1.0/warm_start/stage.json").read_text())["taken_from"]
    assert taken == str(Path("a/0_margin-0.5").absolute())
