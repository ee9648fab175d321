"""Learning-rate schedules as pure functions of the step: constant, step decay, cosine, cyclic, each with warm-up.

Durations (epochs, steps, or a fraction of the stage) become steps once, when the schedule is made.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dam.config import CosineConfig, CyclicConfig, ScheduleConfig, StepScheduleConfig

Unit = Literal["epochs", "steps", "fraction"]


@dataclass(frozen=True)
class Schedule(ABC):
    """Multiplier of the learning rate at each step.

    Attributes:
        total_steps: length of the stage.
        warmup: steps below the full rate; step s of them has (s + 1) / (warmup + 1) of it.
        extendable: whether more steps leave the earlier ones as they were (nothing hangs on ``total_steps``).
    """

    total_steps: int
    warmup: int
    extendable: bool

    def factor(self, step: int) -> float:
        """What the base rate is multiplied by at the 0-based ``step``, >= 0."""
        ramp = min(1.0, (step + 1) / (self.warmup + 1))
        return ramp * self._shape(step)

    def is_drop(self, step: int) -> bool:
        """Whether a step decay takes effect at ``step``: the moment for ``PESG.update_reference``."""
        return False

    @abstractmethod
    def _shape(self, step: int) -> float:
        """The multiplier without warm-up."""


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """The full rate throughout."""

    def _shape(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class StepSchedule(Schedule):
    """The rate times ``drop_factor`` from each of ``drops`` on; two drops on one step multiply twice."""

    drops: tuple[int, ...]
    drop_factor: float

    def is_drop(self, step: int) -> bool:
        """Whether ``step`` is the first at a lower rate."""
        return step in self.drops

    def _shape(self, step: int) -> float:
        return self.drop_factor ** sum(drop <= step for drop in self.drops)


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """Half a cosine from the full rate after the warm-up to ``final`` times it at ``total_steps``."""

    final: float

    def _shape(self, step: int) -> float:
        progress = (step - self.warmup) / max(1, self.total_steps - self.warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


@dataclass(frozen=True)
class CyclicSchedule(Schedule):
    """Triangles between ``low`` times the rate, where each begins, and the full rate in the middle of ``period`` steps.

    Source: Smith 2017, arXiv 1506.01186 ("triangular").
    """

    low: float
    period: int

    def _shape(self, step: int) -> float:
        phase = max(0, step - self.warmup) % self.period / self.period
        return self.low + (1 - self.low) * (1 - abs(2 * phase - 1))


def make_schedule(cfg: ScheduleConfig, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The schedule of ``cfg`` for a stage of ``total_steps`` steps, ``steps_per_epoch`` of them an epoch.

    Raises:
        ValueError: an unknown name, a stage without steps, a fraction above 1, or drops out of order.
    """
    if total_steps < 1 or steps_per_epoch < 1:
        raise ValueError(f"a stage needs at least one step, not {total_steps} ({steps_per_epoch} an epoch)")
    if cfg.name not in _BUILDERS:
        raise ValueError(f"unknown schedule {cfg.name!r}; choose one of {', '.join(_BUILDERS)}")

    def steps(duration: float, what: str) -> int:
        return resolve_steps(duration, cfg.unit, total_steps, steps_per_epoch, f"schedule.{what}")

    warmup = steps(cfg.warmup, "warmup")
    return _BUILDERS[cfg.name](cfg, total_steps, warmup, steps)


def resolve_steps(duration: float, unit: Unit, total_steps: int, steps_per_epoch: int, what: str = "duration") -> int:
    """``duration`` in steps; a positive one is never less than 1.

    Args:
        duration: epochs, steps, or fraction of ``total_steps``, as ``unit`` says; >= 0.
        what: its name, for the error.

    Raises:
        ValueError: negative, or a fraction above 1.
    """
    if duration < 0:
        raise ValueError(f"{what} must be at least 0, not {duration:g}")
    if unit == "fraction" and duration > 1:
        raise ValueError(f"{what}={duration:g} is no fraction of the stage: with unit=fraction it is at most 1")
    scale = {"epochs": steps_per_epoch, "steps": 1, "fraction": total_steps}[unit]
    return max(1, round(duration * scale)) if duration > 0 else 0


_Steps = Callable[[float, str], int]


def _absolute(cfg: ScheduleConfig, *durations: float) -> bool:
    return cfg.unit != "fraction" or not any(duration > 0 for duration in (cfg.warmup, *durations))


def _constant(cfg: ScheduleConfig, total: int, warmup: int, steps: _Steps) -> Schedule:
    return ConstantSchedule(total, warmup, _absolute(cfg))


def _step(cfg: ScheduleConfig, total: int, warmup: int, steps: _Steps) -> Schedule:
    if not isinstance(cfg, StepScheduleConfig):
        raise ValueError("schedule step needs the keys at and factor")
    if list(cfg.at) != sorted(cfg.at):
        raise ValueError(f"schedule.at must be in ascending order, not {list(cfg.at)}")
    drops = tuple(steps(at, "at") for at in cfg.at)
    return StepSchedule(total, warmup, _absolute(cfg, *cfg.at), drops, cfg.factor)


def _cosine(cfg: ScheduleConfig, total: int, warmup: int, steps: _Steps) -> Schedule:
    if not isinstance(cfg, CosineConfig):
        raise ValueError("schedule cosine needs the key final")
    return CosineSchedule(total, warmup, False, cfg.final)


def _cyclic(cfg: ScheduleConfig, total: int, warmup: int, steps: _Steps) -> Schedule:
    if not isinstance(cfg, CyclicConfig):
        raise ValueError("schedule cyclic needs the keys low and period")
    # A triangle needs a low and a high step.
    return CyclicSchedule(total, warmup, _absolute(cfg, cfg.period), cfg.low, max(2, steps(cfg.period, "period")))


_BUILDERS: dict[str, Callable[[ScheduleConfig, int, int, _Steps], Schedule]] = {
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "cyclic": _cyclic,
}
