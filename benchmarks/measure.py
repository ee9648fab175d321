"""How things are timed here: CPU seconds of this process and its reaped children, variants rotated every round, the
median of ratios that are paired within a round. Wall time only where a goal says so."""

from __future__ import annotations

import gc
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Variant = Callable[[], float | None]


@dataclass(frozen=True)
class Line:
    """One ratio. ``low`` and ``high`` are its quartiles over the rounds, where there are any; ``bound`` None: shown,
    not judged."""

    what: str
    ratio: float
    bound: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 1
    at_least: bool = False  # the bound is a lower one
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether the ratio is on the wrong side of its bound (a NaN is)."""
        if self.bound is None:
            return False
        return not (self.ratio >= self.bound if self.at_least else self.ratio <= self.bound)


@dataclass
class Report:
    """What a script hands back: ratios, absolute figures, tables, and a profile where a bound was missed."""

    lines: list[Line] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    profile: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For the .json file."""
        lines = [asdict(line) | {"missed": line.missed} for line in self.lines]
        return {"lines": lines, "facts": self.facts, "profile": self.profile}


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Rounds:
    """Seconds a unit, by variant and round. A variant returns how many units of work it did (None: one)."""

    def __init__(self, variants: Mapping[str, Variant], clock: Callable[[], float] = cpu_seconds) -> None:
        self._variants, self._clock = dict(variants), clock
        self.seconds: dict[str, list[float]] = {name: [] for name in variants}

    def run(self, rounds: int, warmup: int = 1) -> Rounds:
        """``warmup`` rounds that do not count, then ``rounds`` that do; each begins with another variant."""
        names = list(self._variants)
        for number in range(warmup + rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                gc.collect()
                began = self._clock()
                units = self._variants[name]()
                taken = (self._clock() - began) / (units or 1)
                if number >= warmup:
                    self.seconds[name].append(taken)
        return self

    def median(self, name: str) -> float:
        """Seconds a unit."""
        return statistics.median(self.seconds[name])

    def ratios(self, name: str, base: str) -> list[float]:
        """Paired within each round."""
        return [a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True)]

    def line(self, name: str, base: str, what: str, bound: float | None = None, **more: Any) -> Line:
        """The median ratio of two variants with its quartiles."""
        return line_of(self.ratios(name, base), what, bound, **more)


def line_of(ratios: list[float], what: str, bound: float | None = None, **more: Any) -> Line:
    """The median of ratios with its quartiles, if there are several."""
    if len(ratios) == 1:
        return Line(what, ratios[0], bound, **more)
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Line(what, statistics.median(ratios), bound, low, high, len(ratios), **more)


def repeated(function: Callable[[], Any], times: int) -> Variant:
    """``function`` so many times in a row, counted as so many units: what takes microseconds."""

    def run() -> float:
        for _ in range(times):
            function()
        return times

    return run


def milliseconds(seconds: float) -> str:
    """For notes."""
    return f"{1e3 * seconds:.3g} ms"


def peak_bytes() -> int:
    """Largest resident memory of this process since it was started (VmHWM), bytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise OSError("/proc/self/status has no VmHWM")
    return int(found.group(1)) * 1024


def profile_of(function: Callable[[], Any], rows: int = 25) -> str:
    """Where the CPU time of ``function`` goes, by torch operator and by Python function."""
    import cProfile
    import io
    import pstats

    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as by_operator:
        function()
    table = by_operator.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=40)
    profiler, text = cProfile.Profile(), io.StringIO()
    profiler.runcall(function)
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(rows)
    kept = "\n".join(line[:118] for line in table.splitlines())
    return f"{kept}\n{text.getvalue().strip()}"
