"""Puts a tree of plain values on the dataclasses of ``dam.config`` and collects every fault on the way.

Used for composed configs, for a run's own ``config.yaml`` and, for its table of keys, by shell completion.
Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union

from dam import config as nodes
from dam.errors import UserError

REGISTRIES: dict[type, dict[str, Any]] = {
    nodes.DataConfig: nodes.DATA,
    nodes.LossConfig: nodes.LOSSES,
    nodes.OptimizerConfig: nodes.OPTIMIZERS,
    nodes.ScheduleConfig: nodes.SCHEDULES,
    nodes.SamplerConfig: nodes.SAMPLERS,
}
# YAML 1.1 reads 1e-4 (no point in it) as text.
_NUMBER = re.compile(r"[+-]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][+-]?\d+)?")
_BAD = object()


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a config: the dotted key and a sentence that starts with it."""

    key: str
    text: str


class ConfigError(UserError):
    """All faults of a config at once; ``faults`` holds them, the text lists them."""

    def __init__(self, faults: list[Fault]):
        self.faults = tuple(dict.fromkeys(faults))
        lines = [fault.text for fault in self.faults]
        head = f"{len(lines)} faults in the config; nothing was started\n  - "
        super().__init__(lines[0] if len(lines) == 1 else head + "\n  - ".join(lines))


def check(tree: Any, base: Any = None) -> tuple[nodes.Config | None, list[Fault]]:
    """Build a ``Config`` from plain values; return it with the list of faults.

    A faulty value is replaced by the one in ``base`` (the same tree before the user's overrides), so that the checks
    that cross fields can still run on the rest; without a usable replacement the config is None.
    """
    checker = _Checker()
    config = checker.node(nodes.Config, tree, _BAD if base is None else base, "")
    checker.name_foreign(tree)
    return (None if config is _BAD else config), checker.faults


class _Checker:
    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.foreign: list[str] = []
        self.valid: dict[str, Any] = {}  # dotted key -> present value

    def fault(self, key: str, text: str) -> None:
        self.faults.append(Fault(key, f"{key} {text}"))

    def node(self, cls: type, tree: Any, base: Any, path: str) -> Any:
        if not isinstance(tree, dict):
            self.fault(path, f"holds keys of its own and cannot be {show(tree)}")
            return self._fallback(cls, base, path)
        if cls in REGISTRIES:
            registry = REGISTRIES[cls]
            if tree.get("name") not in registry:
                name = tree.get("name")
                self.fault(f"{path}.name", f"must be one of {', '.join(registry)}, got {show(name)}")
                return self._fallback(cls, base, path)
            cls = registry[tree["name"]]
        prefix = f"{path}." if path else ""
        self.foreign += [f"{prefix}{key}" for key in tree if key not in hints(cls)]
        values = {}
        for key, hint in hints(cls).items():
            default = base.get(key, _BAD) if isinstance(base, dict) else _BAD
            if key not in tree:
                self.fault(prefix + key, "is missing")
                values[key] = self._fallback(hint, default, prefix + key)
                continue
            self.valid[prefix + key] = tree[key]
            values[key] = self.value(hint, tree[key], default, prefix + key)
        return _BAD if _BAD in values.values() else cls(**values)

    def value(self, hint: Any, value: Any, base: Any, path: str) -> Any:
        inner = _nodes(hint)
        if inner and not (value is None and type(None) in options(hint)):
            return self.node(inner[0], value, base, path)
        converted = _convert(hint, value)
        if converted is not _BAD:
            return converted
        self._explain(hint, value, path)
        return self._fallback(hint, base, path)

    def _explain(self, hint: Any, value: Any, path: str) -> None:
        """Report the entry of a list or dict that is wrong, or the value itself."""
        for option in options(hint):
            origin = typing.get_origin(option)
            entries: Iterator[tuple[str, Any]] | None = None
            if origin is list and isinstance(value, list):
                entries = ((f"{path}[{i}]", entry) for i, entry in enumerate(value))
            if origin is dict and isinstance(value, dict):
                entries = ((f"{path}.{key}", entry) for key, entry in value.items())
            if entries is not None:
                item = typing.get_args(option)[-1]
                for where, entry in entries:
                    if _convert(item, entry) is _BAD:
                        self._explain(item, entry, where)
                return
        text = f"must be {describe(hint)}, got {show(value)}"
        near = difflib.get_close_matches(str(value), literals(hint), n=1)
        if near:
            text += f"; did you mean {near[0]}?"
        elif value in ("None", "none", "~") and type(None) in options(hint):
            text += "; write null for nothing"
        self.fault(path, text)

    def _fallback(self, hint: Any, base: Any, path: str) -> Any:
        """The value of ``base``, without reporting anything: its faults are told where they are made."""
        if base is _BAD:
            return _BAD
        silent = _Checker()
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return silent.node(hint, base, _BAD, path)
        return silent.value(hint, base, _BAD, path)

    def name_foreign(self, tree: Any) -> None:
        for key in self.foreign:
            self.faults.append(Fault(key, f"{key} is not a key{_advice(key, self.valid, tree)}"))


def _advice(key: str, valid: dict[str, Any], tree: Any) -> str:
    owners = [owner for owner in owners_of(key) if owner]
    if owners:
        mount = owners[0].partition("=")[0]
        present = tree
        for name in (*mount.split("."), "name"):
            present = present.get(name) if isinstance(present, dict) else None
        return f" with {mount}={present}: it belongs to {' and '.join(owners)}"
    near = nearest(key, valid)
    if not near:
        return f"; `dam train --cfg job` prints those of {key.rpartition('.')[0] or 'the whole config'}"
    return "; did you mean " + " or ".join(f"{name} (now {show(valid[name])})" for name in near) + "?"


def nearest(key: str, valid: dict[str, Any] | tuple[str, ...]) -> list[str]:
    """At most two valid dotted keys that look like ``key``, by the whole path and by the last name."""
    parent, _, last = key.rpartition(".")
    found = difflib.get_close_matches(key, valid, n=2, cutoff=0.8)
    siblings = [name for name in valid if name.rpartition(".")[0] == parent]
    by_last = {name: name.rpartition(".")[2] for name in valid}
    for pool in (siblings, list(valid)):
        if found:
            break
        close = difflib.get_close_matches(last, [by_last[name] for name in pool], n=2, cutoff=0.7)
        found = [name for name in pool if by_last[name] in close][:2]
    return found


# ---------------------------------------------------------------- types


@cache
def hints(cls: type) -> dict[str, Any]:
    """Key -> type of a node, ``Annotated`` kept."""
    return typing.get_type_hints(cls, include_extras=True)


def options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type alone."""
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return tuple(inner for option in typing.get_args(hint) for inner in options(option)) if union else (hint,)


def _nodes(hint: Any) -> list[type]:
    return [option for option in options(hint) if isinstance(option, type) and dataclasses.is_dataclass(option)]


def literals(hint: Any) -> list[str]:
    """The words a value may be chosen from, empty where it is free."""
    found = [
        word for option in options(hint) if typing.get_origin(option) is Literal for word in typing.get_args(option)
    ]
    return [str(word) for word in found] or (["true", "false"] if bool in options(hint) else [])


def _convert(hint: Any, value: Any) -> Any:  # noqa: PLR0911 - one line a type
    alternatives = options(hint)
    if len(alternatives) > 1:
        results = [_convert(option, value) for option in alternatives]
        return next((result for result in results if result is not _BAD), _BAD)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        converted = _convert(args[0], value)
        return converted if converted is not _BAD and _inside(converted, args[1]) else _BAD
    if hint is type(None):
        return None if value is None else _BAD
    if origin is Literal:
        return value if value in args and not isinstance(value, bool) else _BAD
    if origin is list:
        items = [_convert(args[0], item) for item in value] if isinstance(value, list) else [_BAD]
        return _BAD if _BAD in items else items
    if origin is dict:
        pairs = {str(k): _convert(args[1], v) for k, v in value.items()} if isinstance(value, dict) else {"": _BAD}
        return _BAD if _BAD in pairs.values() else pairs
    if hint is Any:
        return value
    if hint is bool:
        return value if isinstance(value, bool) else _BAD
    return _number_or_text(hint, value)


def _number_or_text(hint: Any, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _BAD
    if hint is str:
        return str(value)
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return _BAD
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return _BAD
    if hint is int:
        return int(value) if value == int(value) else _BAD
    if abs(value) > sys.float_info.max:  # a whole number of hundreds of digits
        return _BAD
    return float(value) if hint is float else _BAD


def _inside(value: float, bounds: nodes.Range) -> bool:
    return (
        (bounds.ge is None or value >= bounds.ge)
        and (bounds.gt is None or value > bounds.gt)
        and (bounds.le is None or value <= bounds.le)
        and (bounds.lt is None or value < bounds.lt)
    )


def describe(hint: Any) -> str:
    """A type in words: ``a number > 0``, ``one of train, batch``, ``a list of words``."""
    parts = []
    for option in options(hint):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if origin is Annotated:
            parts.append(f"{describe(args[0])} {_bounds(args[1])}")
        elif origin is Literal:
            parts.append(args[0] if len(args) == 1 else f"one of {', '.join(map(str, args))}")
        elif origin is list:
            parts.append("a list like [a, b]" if args[0] is str else f"a list, each {describe(args[0])}")
        elif origin is dict:
            parts.append(f"keys and values like {{a: b}}, each value {describe(args[1])}")
        else:
            words = {
                int: "a whole number",
                float: "a number",
                bool: "true or false",
                str: "text",
                dict: "keys and values",
            }
            parts.append(words.get(option, "null"))
    return " or ".join(parts)


def _bounds(bounds: nodes.Range) -> str:
    signs = ((">=", bounds.ge), (">", bounds.gt), ("<=", bounds.le), ("<", bounds.lt))
    return " and ".join(
        f"{sign} {value if isinstance(value, int) else format(value, 'g')}"
        for sign, value in signs
        if value is not None
    )


def show(value: Any) -> str:
    """A value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f"'{value}'" if value == "" else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---------------------------------------------------------------- the table of all keys


@cache
def all_keys() -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Every dotted key of the schema -> (its type, the choices that have it: ``data=chexpert``; empty if always)."""
    table: dict[str, tuple[Any, tuple[str, ...]]] = {}
    _collect(nodes.Config, "", "", table)
    return table


def _collect(cls: type, path: str, owner: str, table: dict[str, tuple[Any, tuple[str, ...]]]) -> None:
    for key, hint in hints(cls).items():
        where = f"{path}.{key}" if path else key
        inner = _nodes(hint)
        if not inner:
            known = table.get(where, (hint, ()))[1]
            table[where] = (hint, known + ((owner,) if owner and owner not in known else ()))
            continue
        for name, variant in REGISTRIES.get(inner[0], {"": inner[0]}).items():
            _collect(variant, where, f"{where}={name}" if name else "", table)


def owners_of(key: str) -> tuple[str, ...]:
    """The choices that have this key (``data=csv``), empty for a key of no choice."""
    return all_keys().get(key, (None, ()))[1]


def to_plain(config: nodes.Config) -> dict[str, Any]:
    """The config as nested dicts, lists and scalars."""
    return dataclasses.asdict(config)
