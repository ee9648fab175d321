"""Directories that `dam evaluate` makes: what it was told, and predictions in dam's own form; the report reads both."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dam.errors import UserError
from dam.evaluation.import_table import Imported
from dam.evaluation.predictions import write_predictions
from dam.files import atomic_path, atomic_write_text
from dam.report.run_files import ENSEMBLE, EVALUATION, read_mapping

_COPIED = ("config.yaml", "data.json", "environment.json", "progress.json", "history.json", ENSEMBLE)
_FOLDERS = ("report", "predictions", "warm_start", "auc", "control")
_BEFORE = ".before"  # what an earlier evaluation left, until the next one has succeeded


def check_out(folder: Path) -> Path:
    """``folder`` where a report may go: new, empty, or made by `dam evaluate`. Raises ``UserError`` otherwise."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give a new or empty directory")
    if folder.is_dir() and any(folder.iterdir()) and "source" not in read_mapping(folder / EVALUATION):
        what = "is a run" if (folder / "config.yaml").is_file() else "is not empty and holds no evaluation"
        raise UserError(f"--out {folder} {what}: it is not written over; give a new or empty directory")
    return folder


@contextmanager
def put_back_on_error(folder: Path, renewed: bool) -> Iterator[None]:
    """Leave ``folder`` as it was if judging it fails: its settings and its count of scorings are put back.

    ``renewed``: a directory that `dam evaluate` makes. What an earlier one left is set aside and comes back as well; a
    directory that was not there is removed. Raises ``UserError`` where it cannot be made.
    """
    existed, before = folder.is_dir(), folder / _BEFORE
    kept = {name: (folder / name).read_bytes() for name in (*_COPIED, EVALUATION) if (folder / name).is_file()}
    if renewed:
        shutil.rmtree(before, ignore_errors=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in _FOLDERS:
                if (folder / name).is_dir():
                    before.mkdir(exist_ok=True)
                    (folder / name).rename(before / name)
        except OSError as error:
            raise UserError(f"--out {folder} cannot be written: {error.strerror}") from error
    try:
        yield
    except BaseException:
        if renewed:
            _clear(folder)
            for path in before.glob("*"):
                path.rename(folder / path.name)
        for name in (*_COPIED, EVALUATION):
            (folder / name).unlink(missing_ok=True)
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        if not existed:
            shutil.rmtree(folder)
        raise
    finally:
        shutil.rmtree(before, ignore_errors=True)


def write_table_directory(folder: Path, test: Imported, val: Imported | None, facts: Mapping[str, Any]) -> None:
    """Put a foreign table into ``folder``: predictions/test.csv, val.csv, images.csv and evaluation.json.

    What an earlier evaluation left there is replaced; its history stays, since it counts how often a set was scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    # First: from here on the directory is known as an evaluation, also if what follows is interrupted.
    atomic_write_text(folder / EVALUATION, json.dumps(facts, indent=1) + "\n")
    predictions = folder / "predictions"
    predictions.mkdir(exist_ok=True)
    images = test.metadata.assign(split="test")
    if val is not None:
        import pandas as pd

        write_predictions(predictions / "val.csv", val.predictions)
        images = pd.concat([images, val.metadata.assign(split="val")], ignore_index=True)
    first = ["image", "patient", "study", "split"]
    with atomic_path(predictions / "images.csv") as temporary:
        images[[*first, *(c for c in images if c not in first)]].to_csv(temporary, index=False)
    atomic_write_text(folder / "data.json", json.dumps(_data_facts(test, val, facts), indent=1, allow_nan=False) + "\n")
    write_predictions(predictions / "test.csv", test.predictions)


def write_command(folder: Path, command: Sequence[str]) -> None:
    """environment.json of a foreign table: the command that judged it, and with what."""
    from dam import __version__

    content = {
        "dam": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("numpy", "pandas", "scipy")},
        "platform": platform.platform(),
        "command": list(command),
    }
    atomic_write_text(folder / "environment.json", json.dumps(content, indent=1) + "\n")


def _data_facts(test: Imported, val: Imported | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """data.json as a run has it, of what a table of predictions can tell."""
    tables = {"test": test.predictions, **({"val": val.predictions} if val is not None else {})}
    sizes, counts = {}, []
    for split, table in tables.items():
        known = {"images": len(table.images)}
        for what, names in (("patients", table.patients), ("studies", table.studies)):
            if (names != "").any():
                known[what] = len(set(names.tolist()) - {""})
        sizes[split] = known
        for label, values in zip(table.labels, table.targets.T, strict=True):
            positives, negatives = int((values == 1).sum()), int((values == 0).sum())
            total = positives + negatives
            counts.append({"split": split, "label": label, "n": len(values), "positives": positives,
                           "negatives": negatives, "unknown": len(values) - total,
                           "imratio": positives / total if total else None})  # fmt: skip
    images, targets = hashlib.sha256(), hashlib.sha256()
    for split, table in tables.items():
        images.update("".join(f"{image}\t{split}\n" for image in table.images).encode())
        targets.update(table.targets.astype("<f4").tobytes())
    return {
        "dataset": facts["name"],
        "labels": list(test.predictions.labels),
        "images_sha256": images.hexdigest(),
        "labels_sha256": targets.hexdigest(),
        "sizes": sizes,
        "counts": counts,
        "notes": facts["notes"],
    }


def copy_run(run: Path, folder: Path) -> None:
    """Copy what the report reads of a run: everything but weights and checkpoints."""
    if not (run / "predictions").is_dir():
        raise UserError(f"{run} has no predictions; give a finished run, such as outputs/NAME/DATE_TIME")
    if folder.resolve() == run.resolve():
        raise UserError(f"--out {folder} is what is judged; leave --out away to judge it in its place")
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    for name in _COPIED:
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    shutil.copytree(run / "predictions", folder / "predictions")
    for pattern in ("stage.json", "metrics.csv"):
        for file in sorted(run.glob(f"*/**/{pattern}")):
            target = folder / file.relative_to(run)
            if "report" not in file.relative_to(run).parts and folder not in file.parents:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


def read_own_settings(path: Path) -> dict[str, Any]:
    """The settings that a directory was made with: config.yaml of a run, evaluation.json of a foreign table.

    Raises ``UserError`` if it is neither.
    """
    if (path / "config.yaml").is_file():
        return read_mapping(path / "config.yaml")
    if (path / EVALUATION).is_file():
        return read_mapping(path / EVALUATION)
    raise UserError(
        f"{path} is no run directory: it has no config.yaml; give the folder that `dam train` printed, or a table of "
        "predictions (a CSV file)"
    )


def write_settings(folder: Path, judged: Mapping[str, Any] | None, stored: Mapping[str, Any]) -> None:
    """Record how ``folder`` is to be judged; None puts a run back to its own config."""
    file = folder / EVALUATION
    if "source" in stored and judged is not None:  # a foreign table: what it was made from stays
        judged = {**stored, **judged, "data": {**stored.get("data", {}), **judged["data"]}}
    if judged is None:
        if "source" not in read_mapping(file):
            file.unlink(missing_ok=True)
        return
    atomic_write_text(file, json.dumps(judged, indent=1) + "\n")


def _clear(folder: Path) -> None:
    """Remove what an earlier evaluation wrote, and nothing else."""
    for name in _FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
