"""Flags of `dam evaluate`, `dam compare` and `dam report`: --name value, --name=value and switches, in any order."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from dam.errors import UserError

# Flags that are other names of config keys: one check for both, and all faults at once.
KEYS = {
    "--interval": "evaluation.interval",
    "--replicates": "evaluation.replicates",
    "--seed": "evaluation.seed",
    "--calibration": "evaluation.calibration",
    "--threshold": "evaluation.threshold",
    "--sensitivity": "evaluation.sensitivity",
    "--specificity": "evaluation.specificity",
    "--cost": "evaluation.cost",
    "--prevalence": "evaluation.prevalence",
    "--readers": "evaluation.readers",
    "--subgroups": "evaluation.subgroups",
    "--min-group": "evaluation.min_group",
    "--unit": "data.unit",
    "--merge": "data.merge",
}


@dataclass
class Parsed:
    """A command line, taken apart: plain words, ``key=value`` words, flags with values, and switches."""

    items: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)
    switches: set[str] = field(default_factory=set)

    def one(self, flag: str) -> str | None:
        """The value of a flag that is given at most once."""
        found = self.values.get(flag, [])
        if len(found) > 1:
            raise UserError(f"{flag} is given {len(found)} times ({', '.join(found)}); give it once")
        return found[0] if found else None

    def many(self, flag: str) -> tuple[str, ...]:
        """Every value of a flag that may be repeated."""
        return tuple(self.values.get(flag, ()))


def parse(arguments: Sequence[str], flags: Sequence[str], switches: Sequence[str], command: str) -> Parsed:
    """Take a command line apart. ``flags`` take a value; those of ``KEYS`` become ``key=value`` words.

    A word with ``=`` is a config word if it begins like a key (``evaluation.``, ``data.``). Raises ``UserError`` for an
    unknown flag, naming the nearest, and for a flag without its value.
    """
    result = Parsed()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            config = word.partition("=")[1] and word.lstrip("+").startswith(("evaluation.", "data."))
            (result.words if config else result.items).append(word)
            continue
        name, equals, value = word.partition("=")
        if name in switches:
            if equals:
                raise UserError(f"{name} takes no value: write {name} alone")
            result.switches.add(name)
            continue
        if name not in flags:
            near = difflib.get_close_matches(name, [*flags, *switches], n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; see `dam {command} --help`"
            raise UserError(f"{name} is no option of `dam {command}`{hint}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{name} needs a value after it; see `dam {command} --help`")
            value = rest.pop(0)
        if name in KEYS:
            written = _listed(value) if name == "--subgroups" else _quoted(value) if name == "--readers" else value
            result.words.append(f"{KEYS[name]}={written}")
        else:
            result.values.setdefault(name, []).append(value)
    return result


def choice(value: str | None, allowed: Sequence[str], flag: str) -> str:
    """The value of a flag that is one of ``allowed``; the first one where it is not given."""
    if value is None:
        return allowed[0]
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        raise UserError(f"{flag} {value}: choose one of {', '.join(allowed)}" + (f"; {near[0]}?" if near else ""))
    return value


def _listed(text: str) -> str:
    """ "sex, age" as a list in the config's grammar."""
    if text.startswith("["):
        return text
    names = [part.strip() for part in text.split(",") if part.strip()]
    return "[" + ",".join(map(_quoted, names)) + "]"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
