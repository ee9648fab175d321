"""What a study is made of: cells, the keys that a user sets, the paper's numbers, and the outcome of its reducer."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dam.errors import UserError
from dam.studies import STUDIES

if TYPE_CHECKING:
    from dam.report.document import Section
    from dam.report.style import Drawn
    from dam.studies.results import Results


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    ``words``: its overrides of ``dam train``. ``replicate``: what mean and standard deviation are over (a fold, a
    training set). ``arms``: row of the tables -> score column of this run. ``lacks``: why it cannot be run yet, a
    sentence with the way out, or "".
    """

    name: str  # its folder: letters, digits, '-', '_'
    words: tuple[str, ...]
    replicate: str
    arms: Mapping[str, str]
    lacks: str = ""


@dataclass(frozen=True)
class Key:
    """A key ``study.<name>``: what it means, what it is if nothing is said (None: not set), how its value is read."""

    name: str
    meaning: str
    default: str | None
    read: Callable[[str, str], str | None]  # (key, text) -> value; raises UserError


@dataclass(frozen=True)
class Reference:
    """A number of the paper: ``mean`` and, where it gives one, the standard deviation ``sd`` over its replicates."""

    mean: float
    sd: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a reducer makes: sections of the report, rows for CSV files, figures, and lines to end with on screen."""

    sections: tuple[Section, ...]
    tables: Mapping[str, list[dict[str, Any]]]
    drawn: tuple[Drawn, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A paper's matrix of runs. ``fixed``: keys that are the study's own -> what a user does instead of setting them;
    a key stands for those below it where it ends in a dot."""

    name: str
    source: str
    about: str
    keys: tuple[Key, ...]
    fixed: Mapping[str, str]
    cells: Callable[[Mapping[str, str | None]], list[Cell]]
    reduce: Callable[[Results], Outcome]
    references: Mapping[str, Mapping[str, Reference]] = field(default_factory=dict)  # measure -> arm -> number

    @property
    def summary(self) -> str:
        """One line about it."""
        return STUDIES[self.name]


def find(name: str) -> Study:
    """The study of this name. Raises ``UserError`` with the nearest one."""
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1)
        hint = f"did you mean {near[0]}" if near else f"there are {', '.join(STUDIES)}"
        raise UserError(f"`dam study {name}`: there is no such study; {hint}; `dam study list` shows them")
    study: Study = importlib.import_module(f"dam.studies.{name}").STUDY
    return study


# ---------------------------------------------------------------- how values are read


def weights(key: str, text: str) -> str | None:
    """A value of ``model.weights``, a path made absolute, null not set. Raises ``UserError`` for a path to nowhere."""
    if text in ("", "null"):
        return None
    path = Path(text).expanduser()
    if path.exists():
        return str(path.absolute())
    if "/" in text or path.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".tar", ".bin"):
        raise UserError(f"{key}={text}: there is no such file or run; give weights that are here, or timm")
    return text


def quoted(value: str | None) -> str:
    """A value as Hydra's grammar takes it, whatever it holds."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def count(least: int) -> Callable[[str, str], str]:
    """A whole number of at least ``least``."""

    def read(key: str, text: str) -> str:
        if not text.isdecimal() or int(text) < least:
            raise UserError(f"{key}={text} must be a whole number of {least} or more")
        return str(int(text))

    return read


def choice(*names: str) -> Callable[[str, str], str]:
    """One of these names."""

    def read(key: str, text: str) -> str:
        if text not in names:
            near = difflib.get_close_matches(text, names, n=1)
            raise UserError(f"{key}={text}: choose one of {', '.join(names)}" + (f"; {near[0]}?" if near else ""))
        return text

    return read
