"""All that a report is written from: the run's files, its judged sets and what was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dam.evaluation.rows import Assessment
from dam.report.document import Figure
from dam.report.history import times_scored
from dam.report.run_files import RunFiles
from dam.report.style import Drawn
from dam.report.tables import CONTROLS, JudgedSplit, main_models


@dataclass(frozen=True)
class Content:
    """``judged``: headline set first. ``further_steps``: model -> words about its longer training, or absent."""

    run: RunFiles
    judged: tuple[JudgedSplit, ...]
    further_steps: Mapping[str, str]
    settings: Mapping[str, Any]  # the `evaluation` node
    drawn: tuple[Drawn, ...] = field(default=())

    @property
    def headline(self) -> JudgedSplit:
        """Test, or validation where there is no test."""
        return self.judged[0]

    @property
    def assessment(self) -> Assessment | None:
        """Of the headline set."""
        return self.headline.assessment

    @property
    def model(self) -> str:
        """The model the report is about."""
        return main_models(self.headline.models)[0]

    @property
    def externals(self) -> tuple[JudgedSplit, ...]:
        """Sets from elsewhere."""
        return tuple(s for s in self.judged if s.external)

    def figures(self, *sections: str) -> tuple[Figure, ...]:
        """The figures that go under one of the headings."""
        return tuple(Figure(d.name, d.caption, d.alt, d.wide) for d in self.drawn if d.section in sections)

    def test_scorings(self) -> int:
        """How often the test set was scored after a change, from history.json; 1 without a record of more."""
        return max(1, times_scored(self.run.history, "test"))

    def control_differs(self) -> str:
        """What else than the objective differs between the AUC models and their control, as a sentence; or ""."""
        found: dict[str, str] = {}
        for stage in self.run.stages_of("auc"):
            for other in (s for column in CONTROLS for s in self.run.stages_of(column) if s.label == stage.label):
                for key in ("sampler", "schedule", "ema", "clip_norm", "head", "select"):
                    ours, theirs = stage.facts.get(key), other.facts.get(key)
                    if ours != theirs:
                        found[key] = f"{key} ({words(ours)} against {words(theirs)})"
        return f"Beside the objective these differ: {'; '.join(found.values())}." if found else ""


def words(value: object) -> str:
    """A value of a config or stage in words."""
    if value is None or value == "":
        return "–"
    if isinstance(value, dict):
        return ", ".join(str(v) if k == "name" else f"{k} {words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def column(rows: Sequence[Any], name: str) -> list[Any]:
    """One field of every row."""
    return [getattr(row, name) for row in rows]
