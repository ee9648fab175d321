"""An ensemble as a directory: like a run's, but its ensemble.json names other runs, which stay where they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dam.errors import UserError, in_a_line
from dam.evaluation.ensemble import ENSEMBLE as COLUMN, Mixture
from dam.evaluation.predictions import read_predictions
from dam.inference.run import LoadedRun, Scores, load_run
from dam.report.run_files import ENSEMBLE

FORMAT = 1
_DIGESTED = ("val.csv", "test.csv", "blend.json")  # what a run says of its images; building its report changes none


@dataclass(frozen=True)
class Member:
    """One run of an ensemble: ``column`` in its tables (auc@densenet121), which is the run's own column ``model``.

    ``path`` and ``relative`` (to the ensemble's directory): where it was. ``digest``: of its predictions. ``facts``:
    network, image_size, seed, val_auc.
    """

    column: str
    model: str
    path: str
    relative: str
    digest: str
    facts: dict[str, Any]

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Member:
        """Read it from ensemble.json; raises ``KeyError`` for what is missing."""
        names = ("column", "model", "path", "relative", "digest")
        column, model, path, relative, known = (str(stored[name]) for name in names)
        facts = {key: value for key, value in stored.items() if key not in names}
        return cls(column, model, path, relative, known, facts)


@dataclass(frozen=True)
class Ensemble:
    """What ensemble.json says: the members, and how their scores are mixed. ``labels``: all that the members share."""

    path: Path
    name: str
    unit: str
    merge: str
    labels: tuple[str, ...]
    members: tuple[Member, ...]
    mixture: Mixture

    @property
    def used(self) -> tuple[Member, ...]:
        """Members with a weight for some label: the others need not be scored."""
        return tuple(member for member in self.members if member.column in self.mixture.models)

    def find(self, member: Member) -> Path:
        """Where a member is now. Raises ``UserError`` if it is gone, or is not what the ensemble was made from."""
        places = [Path(member.path), self.path / member.relative]
        there = [place for place in places if (place / "config.yaml").is_file()]
        found = next((place for place in there if digest(place) == member.digest), None)
        if not there:
            raise UserError(
                f"{self.path}: its member {member.column} is not at {member.path} any more; put the run back, or write "
                f"its new folder as `path` of that member into {self.path / ENSEMBLE}"
            )
        if found is None:
            raise UserError(
                f"{there[0]} is not the run that {self.path} was made from as {member.column}: its predictions differ; "
                "make the ensemble again with `dam ensemble`, or put the run back"
            )
        return found


def digest(run: Path) -> str:
    """SHA-256 over a run's predictions and blend, by which a member is known wherever it lies."""
    found = hashlib.sha256()
    for name in _DIGESTED:
        file = run / "predictions" / name
        found.update(name.encode())
        if file.is_file():
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    found.update(block)
    return found.hexdigest()


def read_ensemble(path: Path) -> Ensemble | None:
    """The ensemble in a directory, None where it is none. Raises ``UserError`` for a damaged one."""
    file = path / ENSEMBLE
    if not file.is_file():
        return None
    try:
        node = json.loads(file.read_text(encoding="utf-8"))
        if node["format"] != FORMAT:
            raise UserError(f"{file} is of another version of dam (format {node['format']}): make the ensemble again")
        members = tuple(Member.from_dict(member) for member in node["members"])
        mean = str(node["mean"])
        validation = read_predictions(path / "predictions" / "val.csv") if mean == "ranks" else None
        mixture = Mixture.from_dict(mean, node["mixture"], validation)
        unknown = set(mixture.models) - {member.column for member in members}
        unknown |= set(mixture.labels) - set(node["labels"])
        if unknown:
            raise ValueError(f"it mixes {', '.join(sorted(unknown))}, which is no member or label")
        labels = tuple(map(str, node["labels"]))
        return Ensemble(path, str(node["name"]), str(node["unit"]), str(node["merge"]), labels, members, mixture)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else in_a_line(error)
        raise UserError(f"{file} is damaged ({reason}): make the ensemble again with `dam ensemble`") from error


def open_ensemble(found: Ensemble, device: str = "auto", precision: str | None = None) -> LoadedRun:
    """Open an ensemble with those of its members that have a weight; arguments and errors as ``load_run``.

    Its config is the first member's, with the ensemble's name and the unit it is judged by. Raises ``UserError`` if a
    member is gone, or is another run by now.
    """
    path = found.path
    runs = tuple(
        replace(load_run(found.find(member), device, precision), only=(member.model,)) for member in found.used
    )
    for member, run in zip(found.used, runs, strict=True):
        if set(found.labels) - set(run.labels):
            raise UserError(f"{path / ENSEMBLE} names labels that {member.column} does not have: it is damaged")
    places = [[run.labels.index(label) for label in found.labels] for run in runs]

    def combine(several: Sequence[Scores]) -> Scores:
        columns: Scores = {}
        for member, run, place, scores in zip(found.used, runs, places, several, strict=True):
            if member.model not in scores:
                raise UserError(
                    f"{path}: its member {member.column} gives no {member.model} here, which needs "
                    f"{_needs(member.model, run)}"
                )
            columns[member.column] = scores[member.model][:, place]
        return found.mixture.combine(found.labels, columns)

    first = runs[0]
    data = replace(first.config.data, unit=found.unit, merge=found.merge)  # type: ignore[arg-type]
    return LoadedRun(
        path,
        replace(first.config, name=found.name, data=data),
        found.labels,
        first.channels,
        first.device,
        (),
        {},
        members=runs,
        combine=combine,
        own_columns=(COLUMN, *(member.column for member in found.used)),
    )


def _needs(model: str, run: LoadedRun) -> str:
    """What a column is made with that was left away."""
    if "_tta" in model:
        return "test-time augmentation (do not switch it off)"
    return f"the columns {', '.join(run.metadata_columns)} of the table" if run.metadata_columns else "all its networks"
