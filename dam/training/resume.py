"""What a resumed run may change, and that its data is still the same."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Any

from dam.compose import resume_changes
from dam.config import Config, PretrainConfig, StageConfig
from dam.data.store import changed_images
from dam.data.table import named
from dam.errors import UserError
from dam.objectives import make_schedule
from dam.report.run_files import ANONYMIZED
from dam.training.rundir import RunDirectory


def accept_changes(run: RunDirectory, cfg: Config, overrides: list[str]) -> Config:
    """The run's config with the overrides that a resume may make.

    What only moves a run (device, workers, trackers, checkpoints) is accepted. A part may be lengthened while none of
    its stages has ended and its schedule does not depend on the length. Anything else is a ``UserError`` by name.
    """
    if not overrides:
        return cfg
    changed, _ = resume_changes(cfg, overrides)
    faults = []
    for part in ("warm_start", "auc", "pretrain"):
        before, after = getattr(cfg, part), getattr(changed, part)
        if before is not None and (before.epochs, before.steps) != (after.epochs, after.steps):
            faults += _why_not_longer(run, part, before, after, cfg)
    if faults:
        raise UserError("; ".join(faults))
    return changed


def _why_not_longer(
    run: RunDirectory, part: str, before: StageConfig | PretrainConfig, after: StageConfig | PretrainConfig, cfg: Config
) -> list[str]:
    """Why this part of the run cannot be lengthened, a sentence; nothing if it can."""
    runs = [run.path, *sorted(run.path.glob("fold_*"))]
    folders = [path / name for path in runs for name in ((part, "control") if part == "auc" else (part,))]
    done = [marker.parent for folder in folders for marker in sorted(folder.glob("**/stage.json"))]
    unit = "steps" if before.steps is not None else "epochs"
    if done:
        return [
            f"{part}.{unit} cannot change on resume: {done[0].relative_to(run.path)} has already ended; start a new "
            f"run with {'model.weights' if part == 'pretrain' else 'warm_start.run'}={quote(str(run.path))} instead"
        ]
    old, new = getattr(before, unit), getattr(after, unit)
    if new is None or old is None or new < old:
        return [f"{part}.{unit} can only be raised on resume, and in the same unit (it is {old})"]
    schedules = [before.schedule] + ([cfg.control.schedule] if part == "auc" and cfg.control is not None else [])
    # Any length will do here: whether a schedule depends on it does not depend on it.
    return [
        f"{part}.{unit} cannot change on resume: the schedule {schedule.name} "
        f"(unit {schedule.unit}) depends on the length, so the steps already made would have been others"
        for schedule in schedules
        if not make_schedule(schedule, 100, 10).extendable
    ]


def check_same_data(run: RunDirectory, now: dict[str, Any]) -> None:
    """Raise ``UserError`` if tables, labels, images, their content or splits differ from the run's data.json, with what
    differs.

    A run that was killed before it wrote that file has trained nothing yet.
    """
    if not (run.path / "data.json").exists():
        return
    before, now = run.read_json("data.json"), json.loads(json.dumps(now, default=str))
    if not isinstance(before, dict):
        raise UserError(f"{run.path / 'data.json'} is damaged: it should hold a mapping; put back a copy of it")
    try:
        changed = [
            *_changed_tables(before, now),
            *(f"{_SAID[key]} ({key})" for key in _SAID if before.get(key) != now[key]),
        ]
        if before.get("pixels_sha256") != now["pixels_sha256"] and "images_sha256" not in " ".join(changed):
            changed.append(_changed_content(before, now))
    except (AttributeError, KeyError, TypeError) as error:  # values of other kinds than dam writes
        raise UserError(f"{run.path / 'data.json'} is damaged; put back a copy of it, or start a new run") from error
    if changed:
        raise UserError(
            f"{run.path} was started on other data: {', '.join(changed)} changed since; put the data back as it was, "
            "or start a new run"
        )


_SAID = {"images_sha256": "the list of images or their splits", "labels_sha256": "the labels"}


def _changed_tables(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of the text files that no longer hold what the run was started on."""
    known = [table["sha256"] for table in before.get("tables", ())]
    return [f"the table {table['file']}" for table in now["tables"] if known and table["sha256"] not in known]


def _changed_content(before: dict[str, Any], now: dict[str, Any]) -> str:
    noted, found = before.get("content") or {}, now["content"]
    images = [image for image, digest in found.items() if noted.get(image, digest) != digest]
    if not images and "store" in before and not before.get(ANONYMIZED):  # the old store, if it is still there
        images = changed_images(Path(before["store"]), Path(now["store"]))
    if images:
        return f"the content of {named(images, 5)}"
    return f"the content of images that are not among the {len(noted)} noted in data.json"
