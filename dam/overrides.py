"""Reads what the user typed: ``key=value`` words in Hydra's grammar, sorted into choices and values.

Every form that Hydra knows for a thing is accepted and becomes one canonical form: ``experiment=x`` and
``+experiment=x``; ``auc.optimizer=adamw``, ``auc/optimizer=adamw`` and ``optimizer@auc.optimizer=adamw``;
``key=v``, ``+key=v`` and ``++key=v``. Paths and texts may hold what Hydra's grammar stumbles over, such as ``=``,
brackets and regular expressions. Hydra is imported on first use.
"""

from __future__ import annotations

import difflib
import re
import shlex
import typing
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from dam.config_files import CAN_BE_NONE, ELSEWHERE, LAYERS, PARTS, choices, group_of
from dam.schema import Fault, all_keys, describe, nearest, options, show

PATH_KEYS = (
    "data.root",
    "data.csv",
    "data.test_csv",
    "data.train_list",
    "data.test_list",
    "data.store",
    "model.weights",
    "warm_start.run",
    "run_dir",
    "evaluation.readers",
)
SWEEP_KEYS = ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler", "hydra.sweep.dir")
SWEEP_NODES = ("hydra.launcher.", "hydra.sweeper.")
GRID = "hydra.sweeper.params."
SHORT = 12  # a list of so many names is told whole
_WHOLE = re.compile(r"\s*\d+(\s*,\s*\d+)*\s*")
CODE = ("_target_", "custom_search_space")  # Hydra keys that name Python objects


@dataclass(frozen=True)
class Setting:
    """One override: its canonical key, its value as typed (Hydra's grammar) and as read."""

    kind: Literal["choice", "value", "delete", "hydra"]
    key: str  # dotted: data, auc.optimizer, auc.loss.margin; or hydra/launcher
    text: str  # the value in Hydra's grammar
    value: Any  # None where the text sweeps
    sweep: tuple[str, ...] | None = None  # the values of a sweep, each in Hydra's grammar; () for an interval

    @property
    def hydra(self) -> str:
        """The override as Hydra's own machinery takes it, never refused for a key it does not know."""
        if self.kind == "delete":
            return f"~{self.key}"
        if self.kind == "hydra":
            return f"{self.key}={self.text}"
        if self.kind == "choice":
            group = group_of(self.key)
            mark = "+" if self.key in LAYERS else ""
            return f"{mark}{self.key if group == self.key else f'{group}@{self.key}'}={self.text}"
        parent = open_parent(self.key)
        if parent is None:
            return f"++{self.key}={self.text}"
        name = re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", self.key[len(parent) + 1 :])
        return f"++{parent}=" + ",".join(f"{{{name}: {text}}}" for text in self.sweep or (self.text,))

    def at(self, text: str) -> Setting:
        """The same key with one value of the sweep."""
        return replace(self, text=text, sweep=None, value=_parse(text)[0])


def read(arguments: Iterable[str]) -> tuple[list[Setting], list[Fault]]:
    """Sort the words of a command line; later ones win. Choices that do not exist are faults and left out."""
    settings: dict[tuple[str, str], Setting] = {}
    faults: list[Fault] = []
    for word in arguments:
        result = _read_one(word)
        if isinstance(result, Fault):
            faults.append(result)
            continue
        missing = _missing_choices(result) if result.kind == "choice" else []
        faults += missing
        if not missing:
            key = ("delete" if result.kind == "delete" else "", result.key)
            settings.pop(key, None)
            settings[key] = result
    return list(settings.values()), faults


def _read_one(word: str) -> Setting | Fault:
    mark, key, equals, text = _split(word)
    if word.startswith("-"):
        return Fault(word, f"{word} is no option here; see `dam train --help`")
    if mark == "~":
        return _deletion(key, equals, text)
    if not equals or not key:
        return Fault(word, f"'{word}' is no override: write key=value, such as auc.loss.margin=0.5")
    key = _canonical(key).removeprefix(GRID)
    if key == "tta" and _WHOLE.fullmatch(text):  # tta=30 says how many copies
        key = "tta.copies"
    hydra = key.startswith("hydra")
    misplaced = _not_hydras(key) if hydra else _misplaced(key, text)
    if misplaced:
        return Fault(key, misplaced)
    if _raw(key, text):
        text = _quote(text)
    try:
        value, sweep = _parse(text)
    except ValueError:
        return Fault(key, _unreadable(key, text))
    wrong = _wrong_value(key, value, sweep)
    if wrong:
        return Fault(key, wrong)
    return Setting("hydra", key, text, value, None) if hydra else _sorted(key, text, value, sweep)


def _wrong_value(key: str, value: Any, sweep: tuple[str, ...] | None) -> str | None:
    """What is wrong with a value whatever the schema says."""
    if key in PATH_KEYS and value == "":
        return f"{key}= is empty: give a path, or {key}=null for none"
    if names_code(key, value):
        return f"{key} is refused: a config names no Python objects"
    if key.startswith("hydra") and sweep is not None:
        return f"{key} takes one value: it rules the sweep and cannot be swept over"
    return None


def _sorted(key: str, text: str, value: Any, sweep: tuple[str, ...] | None) -> Setting:
    """A choice of a group, or a value."""
    if group_of(key) is None or isinstance(value, dict) or (key in ELSEWHERE and value is None and sweep is None):
        return Setting("value", key, text, value, sweep)
    if sweep is not None:
        return Setting("choice", key, text, None, sweep)
    name = "none" if value is None and key in CAN_BE_NONE else show(value)
    return Setting("choice", key, "none" if name == "none" else text, name)


def _misplaced(key: str, text: str) -> str | None:
    """What is wrong with naming this key at all."""
    if key.startswith("sweep.") and key != "sweep.resume":
        return f"{key} is not a key; did you mean sweep.resume? A grid is chosen by +sweep=NAME"
    if key in PARTS:
        return f"{key}={text}: say of which stage: auc.{key}={text}, warm_start.{key}={text}"
    parent, _, last = key.rpartition(".")
    if last == "name" and group_of(parent) and parent != "model":
        return f"{key} comes with its group: choose it by {parent}={text}"
    return None


def _not_hydras(key: str) -> str | None:
    if key in SWEEP_KEYS or key.startswith(SWEEP_NODES):
        return None
    allowed = f"{', '.join(SWEEP_KEYS)} and those under {' and '.join(SWEEP_NODES)}"
    return f"{key} cannot be set here; of Hydra's own keys only {allowed} are accepted, with -m"


def _split(word: str) -> tuple[str, str, str, str]:
    match = re.fullmatch(r"(\+\+|\+|~)?([^=]*)(=?)(.*)", word, flags=re.DOTALL)
    mark, key, equals, text = typing.cast(re.Match[str], match).groups()
    return mark or "", key.strip(), equals, text


def _canonical(key: str) -> str:
    if key.startswith("hydra"):
        return key
    key = key.lstrip("/")
    part, at, mount = key.partition("@")
    if at and mount.rpartition(".")[2] == part:
        return mount
    return key.replace("/", ".")


def _raw(key: str, text: str) -> bool:
    """Whether the value is a path, or another text, that Hydra's grammar would stumble over."""
    if not is_text(key) or text[:1] in ("'", '"') or text.startswith("${"):
        return False
    if key in PATH_KEYS and text[:1] in ("[", "{"):
        return False
    try:
        value, sweep = _parse(text)
    except ValueError:
        return True
    return sweep is None and isinstance(value, dict | list | int | float) and not isinstance(value, bool)


def is_text(key: str) -> bool:
    """Whether the schema takes nothing but text (or null) for this key."""
    return set(options(_hint(key))) <= {str, type(None)} and key in all_keys()


def _hint(key: str) -> Any:
    return all_keys().get(key, (None, ()))[0]


def _takes_list(key: str) -> bool:
    return any(typing.get_origin(option) is list for option in options(_hint(key)))


def _unreadable(key: str, text: str) -> str:
    """What to type instead of a value that Hydra's grammar does not take; a form is offered if it can be read."""
    told = f"{key}={text} cannot be read"
    if key in all_keys() and not is_text(key) and not _takes_list(key):
        return f"{told}: it must be {describe(_hint(key))}"
    form = _quote(text)
    if _takes_list(key):
        parts = [part.strip() for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
        form = "[" + ", ".join(part if _readable(part) else _quote(part) for part in parts if part) + "]"
    if not _readable(form):
        return f"{told}: put quotes around every word that holds brackets, quotes or other signs"
    return f"{told}: put quotes around what holds brackets, quotes or other signs, {shell_word(key, form)}"


def several(setting: Setting) -> str:
    """What to do about a comma in the value of a key outside a sweep."""
    told = f"{setting.key}={setting.text} has several values: add -m for a run with each"
    if _takes_list(setting.key):
        return f"{told}, or brackets for a list: '{setting.key}=[{setting.text}]'"
    if is_text(setting.key):
        return f"{told}, or quotes if the comma is part of it: {shell_word(setting.key, _quote(setting.text))}"
    return told


def shell_word(key: str, form: str) -> str:
    """``key=form`` as it is typed in a shell, with the shell's own quotes around it."""
    word = f"{key}={form}"
    return f'"{word}"' if not set(word) & set('"$`\\!') else shlex.quote(word)


def _deletion(key: str, equals: str, text: str) -> Setting | Fault:
    key = _canonical(key)
    if not equals and open_parent(key) is not None:
        return Setting("delete", key, "", None)
    told = f"~{key}: only entries of a free table such as model.lr_scale can be deleted"
    if key in CAN_BE_NONE:
        told += f"; try {key}=none"
    elif type(None) in options(_hint(key)) and key in all_keys():
        told += f"; try {key}=null"
    elif key in all_keys():
        told += f"; {key} always has a value: {describe(_hint(key))}"
    else:
        near = nearest(key, tuple(all_keys()))
        told += f", and there is no key {key}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    return Fault(key, told)


def names_code(key: str, value: Any) -> bool:
    """Whether a key or a value within names a Python object for Hydra to load."""
    if any(word in CODE for word in key.split(".")):
        return True
    if isinstance(value, dict):
        return any(names_code(str(name), inner) for name, inner in value.items())
    return isinstance(value, list) and any(names_code("", inner) for inner in value)


def open_parent(key: str) -> str | None:
    """The free table that holds this key: ``model.lr_scale.head`` -> ``model.lr_scale``, whose entry is ``head``."""
    for table in _tables():
        if key.startswith(table + "."):
            return table
    return None


@cache
def _tables() -> tuple[str, ...]:
    return tuple(
        key
        for key, (hint, _) in all_keys().items()
        if any(option is dict or typing.get_origin(option) is dict for option in options(hint))
    )


def _missing_choices(setting: Setting) -> list[Fault]:
    group = typing.cast(str, group_of(setting.key))
    names = [str(setting.value)] if setting.sweep is None else [_unquote(text) for text in setting.sweep]
    known = choices(group)
    faults = []
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
        text = f"{setting.key}={name}: there is no {'dataset' if group == 'data' else group} of this name"
        if near:
            text += f"; did you mean {' or '.join(near)}?"
            text += f" There are {', '.join(known)}." if len(known) <= SHORT else ""
        else:
            text += f"; there are {', '.join(known)}"
        if group == "tta":
            text += "; a number of copies works as tta=30"
        if group == "model":
            text += f" Any timm name works as model=timm model.name={name}"
        faults.append(Fault(setting.key, text))
    return faults


def _parse(text: str) -> tuple[Any, tuple[str, ...] | None]:
    """The value of a text in Hydra's grammar and, where it sweeps, its values as texts. ValueError if unreadable."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"key={text}")
        if not override.is_sweep_override():
            return override.value(), None
        if not override.is_discrete_sweep():
            return None, ()
        return None, tuple(str(item) for item in override.sweep_string_iterator())
    except HydraException as error:
        raise ValueError(str(error).splitlines()[0]) from error


def _readable(text: str) -> bool:
    try:
        _parse(text)
    except ValueError:
        return False
    return True


def _quote(text: str) -> str:
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
