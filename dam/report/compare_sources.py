"""What `dam compare` is given: run directories or prediction files, several seeds of one side joined by commas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dam.errors import UserError
from dam.evaluation.import_columns import TableForm
from dam.evaluation.import_table import read_table
from dam.evaluation.predictions import COLUMNS, Predictions, read_predictions
from dam.report.compare import Contestant
from dam.report.evaluated import read_own_settings
from dam.report.run_files import read_mapping, refuse_pretraining


def sides(words: Sequence[str]) -> list[list[Path]]:
    """Each word is a side: a path, or paths joined by commas. Raises ``UserError`` for what is not there."""
    result = []
    for word in words:
        whole = Path(word).expanduser()
        parts = [whole] if whole.exists() else [Path(p).expanduser() for p in word.split(",") if p]
        for path in parts:
            if not path.exists():
                raise UserError(
                    f"there is no run or file {path}; `dam compare` takes run directories or prediction files"
                )
        result.append(parts)
    return result


def common_split(paths: Sequence[Path], wanted: str | None) -> str:
    """The set that is compared: ``wanted``, else test where every run has it, else validation.

    Files count for whatever is asked. Raises ``UserError`` naming the runs that lack it, and what they have.
    """
    runs = [path for path in paths if path.is_dir()]
    for path in runs:
        refuse_pretraining(path)
        read_own_settings(path)  # is it a run at all
    for split in [wanted] if wanted else ["test", "val"]:
        lacking = [path for path in runs if not (path / "predictions" / f"{split}.csv").is_file()]
        if not lacking:
            return split
    has = sorted(file.stem for file in (lacking[0] / "predictions").glob("*.csv") if _is_split(file.stem))
    what = f"predictions/{wanted}.csv" if wanted else "predictions/test.csv or val.csv"
    more = f"it has {', '.join(has)}" if has else f"finish it with `dam train resume={lacking[0]}`"
    raise UserError(f"{lacking[0]} has no {what}; {more}")


def _is_split(stem: str) -> bool:
    return stem in ("val", "test") or stem.startswith("external_")


def contestants(
    given: Sequence[Sequence[Path]], split: str, models: Sequence[str], form: TableForm, notes: list[str]
) -> list[Contestant]:
    """Read every side. ``models``: none, one for all, or one a side; ``notes`` collects how tables were understood."""
    if len(models) not in (0, 1, len(given)):
        raise UserError(f"--model is given {len(models)} times for {len(given)} sides: give it once, or once a side")
    result = []
    for number, paths in enumerate(given):
        wanted = models[min(number, len(models) - 1)] if models else None
        tables = [_predictions(path, split, form, notes) for path in paths]
        model = _model(tables, paths, wanted)
        result.append((paths, model, tables))
    names = _names([(paths, model) for paths, model, _ in result])
    return [
        Contestant(name, model, tuple(tables), tuple(map(str, paths)))
        for name, (paths, model, tables) in zip(names, result, strict=True)
    ]


def _predictions(path: Path, split: str, form: TableForm, notes: list[str]) -> Predictions:
    if path.is_dir():
        return read_predictions(path / "predictions" / f"{split}.csv")
    if form == TableForm() and _is_own(path):
        return read_predictions(path)
    found = read_table(path, form)
    notes += [f"{path.name}: {note}" for note in found.notes]
    return found.predictions


def _is_own(path: Path) -> bool:
    """Whether a file begins as dam's own predictions do."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().startswith(",".join(COLUMNS) + ",")
    except (OSError, UnicodeError):
        return False


def _model(tables: Sequence[Predictions], paths: Sequence[Path], wanted: str | None) -> str:
    shared = [m for m in tables[0].models if all(m in t.models for t in tables)]
    if wanted is None:
        if not shared:
            raise UserError(f"{', '.join(map(str, paths))} have no model in common: name one with --model")
        return "auc" if "auc" in shared else shared[-1]
    if wanted not in shared:
        lacking = next(i for i, t in enumerate(tables) if wanted not in t.models)
        raise UserError(f"{paths[lacking]} has no model {wanted}; it has {', '.join(tables[lacking].models)}")
    return wanted


def _names(given: Sequence[tuple[Sequence[Path], str]]) -> list[str]:
    """Short names that differ: the folder's or file's own; with its parent, or with the model, where two are equal."""
    resolved = [[path.resolve() for path in paths] for paths, _ in given]
    short = [paths[0].name if paths[0].is_dir() else paths[0].stem for paths in resolved]
    if len(set(short)) == len(short):
        return short
    longer = [f"{paths[0].parent.name}/{name}" for paths, name in zip(resolved, short, strict=True)]
    if len(set(longer)) == len(longer):
        return longer
    models = [f"{name} {model}" for name, (_, model) in zip(short, given, strict=True)]
    if len(set(models)) == len(models):
        return models
    return [f"{name} ({number})" for number, name in enumerate(models, start=1)]


def judging_of(path: Path) -> dict[str, Any]:
    """Unit, merge and evaluation settings of a run; empty for a file."""
    return read_own_settings(path) if path.is_dir() else {}


def seed_notes(given: Sequence[Sequence[Path]]) -> list[str]:
    """What else than the seed differs between the runs that are given as seeds of one side."""
    notes = []
    for paths in given:
        configs = [_flat(_config(path)) for path in paths if (path / "config.yaml").is_file()]
        if len(configs) < 2:
            continue
        ignored = ("seed", "run_dir", "name", "device", "workers", "warm_start.run")
        keys = sorted({k for c in configs for k in c} - set(ignored))
        differ = [
            k for k in keys if any(c.get(k) != configs[0].get(k) for c in configs) and not k.startswith("tracking.")
        ]
        seeds = [c.get("seed") for c in configs]
        if differ:
            notes.append(f"{', '.join(p.name for p in paths)} differ in more than the seed: {', '.join(differ[:8])}")
        if len(set(map(str, seeds))) < len(seeds):
            notes.append(
                f"{', '.join(p.name for p in paths)} do not all have different seeds ({', '.join(map(str, seeds))})"
            )
    return list(dict.fromkeys(notes))


def _config(path: Path) -> dict[str, Any]:
    return read_mapping(path / "config.yaml")


def _flat(tree: dict[str, Any], head: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{head}{key}.")
        else:
            result[f"{head}{key}"] = value
    return result
