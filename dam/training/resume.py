"""What a resumed run may change, and that its data is still the same."""

from __future__ import annotations

import json
from shlex import quote
from typing import Any

from dam.compose import resume_changes
from dam.config import Config, StageConfig
from dam.errors import UserError
from dam.objectives import make_schedule
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
    for part in ("warm_start", "auc"):
        before, after = getattr(cfg, part), getattr(changed, part)
        if before is not None and (before.epochs, before.steps) != (after.epochs, after.steps):
            faults += _why_not_longer(run, part, before, after, cfg)
    if faults:
        raise UserError("; ".join(faults))
    return changed


def _why_not_longer(run: RunDirectory, part: str, before: StageConfig, after: StageConfig, cfg: Config) -> list[str]:
    """Why this part of the run cannot be lengthened, a sentence; nothing if it can."""
    runs = [run.path, *sorted(run.path.glob("fold_*"))]
    folders = [path / name for path in runs for name in ((part, "control") if part == "auc" else (part,))]
    done = [marker.parent for folder in folders for marker in sorted(folder.glob("**/stage.json"))]
    unit = "steps" if before.steps is not None else "epochs"
    if done:
        return [
            f"{part}.{unit} cannot change on resume: {done[0].relative_to(run.path)} has already ended; start a new "
            f"run with warm_start.run={quote(str(run.path))} instead"
        ]
    old, new = getattr(before, unit), getattr(after, unit)
    if new is None or old is None or new < old:
        return [f"{part}.{unit} can only be raised on resume, and in the same unit (it is {old})"]
    objectives = [before] + ([cfg.control] if part == "auc" and cfg.control is not None else [])
    # Any length will do here: whether a schedule depends on it does not depend on it.
    return [
        f"{part}.{unit} cannot change on resume: the schedule {objective.schedule.name} "
        f"(unit {objective.schedule.unit}) depends on the length, so the steps already made would have been others"
        for objective in objectives
        if not make_schedule(objective.schedule, 100, 10).extendable
    ]


def check_same_data(run: RunDirectory, now: dict[str, Any]) -> None:
    """Raise ``UserError`` if labels, images, pixels or splits differ from the run's data.json.

    A run that was killed before it wrote that file has trained nothing yet.
    """
    if not (run.path / "data.json").exists():
        return
    before, now = run.read_json("data.json"), json.loads(json.dumps(now, default=str))
    changed = [key for key in before if key.endswith("sha256") and before[key] != now.get(key)]
    if changed:
        raise UserError(
            f"{run.path} was started on other data ({', '.join(changed)} changed since); put the data back as it was, "
            "or start a new run"
        )
