"""From the words of ``dam study`` to a checked plan: the folder, every cell with its config, what is left to run."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dam.compose import MAY_MOVE, examine, read_config, with_absolute_paths, with_value
from dam.config import Config
from dam.errors import UserError
from dam.overrides import Setting, read
from dam.schema import ConfigError, Fault, show, to_plain
from dam.studies.study import Cell, Study
from dam.sweep import LAUNCHERS, plugin_faults

NOTES = "study.json"
ALL = "*"
_FOR_CELLS = re.compile(r"([\w*?,\-]+):([^=]+=.*)", re.DOTALL)
_OWN_WORDS = {
    "resume": "a study goes on where it stopped: start the same command again",
    "sweep": "a study is its own sweep",
    "experiment": "a study names its own experiment",
    "name": "cells are named by the study",
    "hydra/sweeper": "a study is its own sweep; only hydra/launcher can be chosen",
}


@dataclass(frozen=True)
class Words:
    """The command line, sorted. ``cells``: (pattern, override) pairs for some of the cells."""

    study: dict[str, str | None]
    common: tuple[str, ...]
    some: tuple[tuple[str, str], ...]
    launcher: tuple[Setting, ...]
    patterns: tuple[str, ...]
    run_dir: str | None
    dry_run: bool


@dataclass(frozen=True)
class Plan:
    """A checked study. ``cells``: the whole matrix; ``chosen``: the configs of the cells asked for, by name."""

    study: Study
    folder: Path
    cells: tuple[Cell, ...]
    chosen: Mapping[str, Config]
    words: Mapping[str, list[str]]  # of the chosen cells, complete
    moving: tuple[str, ...]  # the words that a resumed cell may be given
    launcher: tuple[Setting, ...]
    dry_run: bool


def make_plan(study: Study, words: Sequence[str]) -> Plan:
    """Read and check everything that needs no data. Raises ``UserError`` (``ConfigError`` with all faults at once)."""
    given = sort_words(study, words)
    cells = study.cells(given.study)
    chosen = _chosen(cells, given.patterns)
    for cell in chosen:
        if cell.lacks:
            raise UserError(cell.lacks)
    for pattern, word in given.some:
        if not any(fnmatchcase(cell.name, part) for cell in cells for part in pattern.split(",")):
            raise UserError(f"{pattern}:{word}: no cell is called so; they are {_names(cells)}")
    folder = Path(given.run_dir).expanduser() if given.run_dir else Path("outputs", "studies", study.name)
    folder = folder.absolute()
    complete = {cell.name: _complete(study, cell, given) for cell in chosen}
    configs = _composed(complete, folder)
    _check_folder(study, folder)
    for name, config in configs.items():
        _check_unchanged(folder / name, config)
    moving = tuple(word for word in given.common if word.lstrip("+").startswith(MAY_MOVE))
    return Plan(study, folder, tuple(cells), configs, complete, moving, given.launcher, given.dry_run)


# ---------------------------------------------------------------- words


def sort_words(study: Study, words: Sequence[str]) -> Words:
    """Sort the command line into keys of the study, overrides of all cells and of some, and the launcher's."""
    own, some, common = {key.name: key.default for key in study.keys}, [], []
    patterns: tuple[str, ...] = (ALL,)
    for word in words:
        key, equals, text = word.partition("=")
        if key.startswith("study.") and equals:
            if key == "study.cells":
                patterns = tuple(part.strip() for part in text.split(","))
            else:
                own[key.removeprefix("study.")] = _own_value(study, key, text)
        elif match := _FOR_CELLS.fullmatch(word):
            some.append((match[1], match[2]))
        else:
            common.append(word)
    settings, faults = read([*common, *(word for _, word in some)])
    faults += [fault for setting in settings if (fault := _refused(study, setting))]
    launcher = [setting for setting in settings if setting.kind == "hydra"]
    by_key = {setting.key: setting for setting in settings}
    faults += plugin_faults("hydra/launcher", by_key, LAUNCHERS)
    if "dry_run" in by_key and not isinstance(by_key["dry_run"].value, bool):
        faults.append(Fault("dry_run", f"dry_run must be true or false, got {by_key['dry_run'].text}"))
    if "run_dir" in by_key and by_key["run_dir"].value in (None, ""):
        faults.append(Fault("run_dir", "run_dir must name the folder of the study; leave it out for the usual one"))
    if faults:
        raise ConfigError(faults)
    apart = {"run_dir", "dry_run"} | {setting.key for setting in launcher}
    kept = tuple(word for word in common if _key_of(word) not in apart)
    run_dir = str(by_key["run_dir"].value) if "run_dir" in by_key else None
    dry_run = "dry_run" in by_key and by_key["dry_run"].value is True
    return Words(own, kept, tuple(some), tuple(launcher), patterns, run_dir, dry_run)


def _own_value(study: Study, key: str, text: str) -> str | None:
    known = {f"study.{item.name}": item for item in study.keys}
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join([*known, 'study.cells'])}"
        raise UserError(f"{key} is no key of the study {study.name}: {hint}")
    return known[key].read(key, text)


def _key_of(word: str) -> str:
    settings, _ = read([word])
    return settings[0].key if settings else ""


def _refused(study: Study, setting: Setting) -> Fault | None:
    key = setting.key
    if setting.sweep is not None:
        return Fault(key, f"{key}={setting.text} has several values: every cell takes one; brackets make a list")
    for own, instead in {**_OWN_WORDS, **study.fixed}.items():
        if key == own.removesuffix(".") or (own.endswith(".") and key.startswith(own)):
            return Fault(key, f"{key} cannot be set in the study {study.name}: {instead}")
    return None


# ---------------------------------------------------------------- cells


def _chosen(cells: Sequence[Cell], patterns: Iterable[str]) -> list[Cell]:
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(cell.name, pattern) for cell in cells):
            raise UserError(f"study.cells={pattern}: no cell is called so; they are {_names(cells)}")
    return [cell for cell in cells if any(fnmatchcase(cell.name, pattern) for pattern in patterns)]


def _names(cells: Sequence[Cell]) -> str:
    return ", ".join(cell.name for cell in cells)


def _complete(study: Study, cell: Cell, given: Words) -> list[str]:
    mine = [word for pattern, word in given.some if any(fnmatchcase(cell.name, part) for part in pattern.split(","))]
    return [*cell.words, *given.common, *mine, f"name={study.name}"]


def _composed(complete: Mapping[str, list[str]], folder: Path) -> dict[str, Config]:
    """The config of every cell; all faults of all cells at once."""
    configs, faults = {}, []
    for name, words in complete.items():
        config, found = examine(words)
        faults += [fault for fault in found if fault not in faults]
        if config is not None:
            configs[name] = _as_started(with_value(with_absolute_paths(config), "run_dir", str(folder / name)))
    if faults:
        raise ConfigError(faults)
    return configs


def _as_started(config: Config) -> Config:
    """The config that a run stores: ``debug`` shortens it, and the weights decide how images are normalized."""
    from dam.training.single import with_debug, with_known_input

    return with_known_input(with_debug(config))


# ---------------------------------------------------------------- what lies in the folder already


def _check_folder(study: Study, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run_dir={folder} is a file; name the folder of the study")
    if not folder.is_dir():
        return
    notes = read_notes(folder)
    if notes is None:
        if any(path.name != ".lock" for path in folder.iterdir()):
            raise UserError(f"{folder} holds other things and no study; name a new or empty folder with run_dir=PATH")
    elif notes.get("study") != study.name:
        raise UserError(f"{folder} holds the study {notes.get('study')}; name another folder with run_dir=PATH")


def read_notes(folder: Path) -> dict[str, Any] | None:
    """``study.json`` of a study's folder, None without one. Raises ``UserError`` if it is damaged."""
    file = folder / NOTES
    if not file.is_file():
        return None
    try:
        notes = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged; remove it and start the same command again") from error
    return notes if isinstance(notes, dict) else {}


def _check_unchanged(run_dir: Path, config: Config) -> None:
    """A cell that was begun is gone on with as it is: another setting would mix two studies in one table."""
    file = run_dir / "config.yaml"
    if not file.is_file():
        return
    before, now = _flat(to_plain(read_config(file))), _flat(to_plain(config))
    changed = [
        f"{key} is {show(now.get(key))} here and {show(before.get(key))} there"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key != "run_dir" and not key.startswith(MAY_MOVE)
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{run_dir} was begun with other settings: {'; '.join(changed[:3])}{more}; set them back, or name another "
            "folder for the new study with run_dir=PATH"
        )


def _flat(tree: Any, key: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {k: v for name, inner in tree.items() for k, v in _flat(inner, f"{key}.{name}" if key else name).items()}
    return {key: tree}
