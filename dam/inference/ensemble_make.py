"""Making an ensemble from finished runs: what may be mixed, the columns' names, and the files of its directory."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dam.compose import from_yaml
from dam.config import Config
from dam.errors import UserError
from dam.evaluation.auc import roc_auc, why_undefined
from dam.evaluation.ensemble import Mixture, fit_mixture
from dam.evaluation.predictions import Predictions, merge_units, read_predictions, write_predictions
from dam.files import atomic_path, atomic_write_text
from dam.inference.ensemble import FORMAT, Member, digest
from dam.inference.ensemble_checks import check_leaks, check_same_images, named
from dam.report.run_files import ENSEMBLE, RunFiles, refuse_pretraining
from dam.report.settings import rebalanced
from dam.training.environment import describe
from dam.training.rundir import resume_command

FIRST = ("auc", "ce", "focal", "warm_start")  # the column of a run that is taken where none is named
_PRIVATE = ("run_dir", "tracking", "device", "workers", "checkpoint")  # say nothing of an ensemble


@dataclass(frozen=True)
class Wish:
    """What the user asked for. ``models``: none, one for all runs, or one a run; ``labels``: none, or those to keep."""

    mean: str = "logits"
    weighting: str = "equal"
    models: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A run that becomes a member: its chosen column, config, facts and tables (split -> predictions)."""

    path: Path
    model: str
    config: Config
    plain: dict[str, Any]  # config.yaml as it is
    facts: dict[str, Any]  # data.json
    images: pd.DataFrame  # predictions/images.csv
    tables: dict[str, Predictions]
    digest: str


@dataclass(frozen=True)
class Made:
    """The directory, its mixture and members (best on validation first), and sentences on what was left out."""

    path: Path
    members: tuple[Member, ...]
    mixture: Mixture
    notes: tuple[str, ...]


def make_ensemble(paths: Sequence[Path], out: Path, wish: Wish, command: Sequence[str]) -> Made:
    """Make ``out`` an ensemble of finished runs; ``command`` goes into its environment.json.

    Everything is made of the runs' predictions; no network is opened. Raises ``UserError`` if ``out`` holds anything,
    for fewer than two runs, and for runs that cannot be mixed: unfinished, the same twice, of other labels (unless
    ``wish.labels``), validated or tested on other images or targets, or trained on those.
    """
    check_out(out)
    if len(paths) < 2:
        raise UserError(f"an ensemble takes two or more runs, not {len(paths)}")
    if len(wish.models) not in (0, 1, len(paths)):
        raise UserError(f"--model is given {len(wish.models)} times for {len(paths)} runs: give it once, or once a run")
    wanted = wish.models * len(paths) if len(wish.models) == 1 else wish.models or (None,) * len(paths)
    _check_twice(paths)
    sources = [read_source(path, model) for path, model in zip(paths, wanted, strict=True)]
    _check_copies(sources)
    labels = _labels(sources, wish.labels)
    sources = [_narrowed(source, labels) for source in sources]
    sources = check_same_images(sources)
    notes = check_leaks(sources) + _differences(sources)
    unit, merge = sources[0].config.data.unit, sources[0].config.data.merge
    aucs = [_mean_auc(source, unit, merge) for source in sources]
    order = sorted(range(len(sources)), key=lambda i: -aucs[i] if not math.isnan(aucs[i]) else math.inf)
    sources, aucs = [sources[i] for i in order], [aucs[i] for i in order]
    columns = column_names(sources)
    tables = {split: _joined(sources, columns, split) for split in sources[0].tables}
    mixture, more = fit_mixture(tables["val"], wish.mean, wish.weighting, unit, merge)
    if not mixture.labels:
        raise UserError(f"nothing can be mixed by --mean {wish.mean}: {'; '.join(more[:3])}")
    tables = {split: replace(t, scores=mixture.combine(t.labels, t.scores)) for split, t in tables.items()}
    members = tuple(
        _member(source, column, auc, out) for source, column, auc in zip(sources, columns, aucs, strict=True)
    )
    made = Made(out, members, mixture, tuple(notes + more))
    _write(made, sources, tables, wish, command)
    return made


def check_out(out: Path) -> None:
    """Raise ``UserError`` unless ``out`` is absent or an empty directory."""
    if (out / ENSEMBLE).is_file() and not (out / "report" / "report.html").is_file():
        raise UserError(f"--out {out} is an ensemble already that lacks its report: dam report {quote(str(out))}")
    if out.is_dir() and any(out.iterdir()):
        what = "already holds a run or an ensemble" if (out / "config.yaml").is_file() else "is not empty"
        raise UserError(f"--out {out} {what}: it is not written over; give a new or empty directory")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a new or empty directory")


# ---------------------------------------------------------------- reading runs


def read_source(path: Path, model: str | None) -> Source:
    """A finished run with its chosen column. Raises ``UserError`` for what is none."""
    if not path.is_dir():
        raise UserError(f"there is no run directory {path}; `dam runs` lists those under outputs/")
    if (path / ENSEMBLE).is_file():
        inner = [quote(str(m.get("path"))) for m in _json(path / ENSEMBLE).get("members", ()) if isinstance(m, dict)]
        raise UserError(f"{path} is an ensemble itself: give its members instead, {' '.join(inner)}")
    file = path / "config.yaml"
    if not file.is_file():
        raise UserError(f"{path} is no run directory: it has no config.yaml; give the folder that `dam train` printed")
    refuse_pretraining(path)
    text = file.read_text(encoding="utf-8")
    config, plain = from_yaml(text, str(file)), yaml.safe_load(text)
    folder = path / "predictions"
    if _json(path / "progress.json").get("state") != "done":
        raise UserError(f"{path} is not finished; go on with `{resume_command(path)}`")
    if next(path.rglob("*.safetensors"), None) is None:
        raise UserError(f"{path} holds no trained networks (a copy of a run, made by `dam evaluate`?): give the run")
    if not (folder / "val.csv").is_file() or not (folder / "images.csv").is_file():
        raise UserError(f"{path} has no predictions/val.csv and images.csv: without validation nothing can be mixed")
    tables = {
        split: read_predictions(folder / f"{split}.csv")
        for split in ("val", "test")
        if (folder / f"{split}.csv").is_file()
    }
    known = [m for m in tables["val"].models if all(m in table.models for table in tables.values())]
    chosen = model or next((m for m in FIRST if m in known), None)
    if chosen not in known:
        raise UserError(f"{path} has no model {chosen}; it has {', '.join(known)}")
    images = pd.read_csv(folder / "images.csv", dtype="str", keep_default_na=False)
    tables = {split: replace(table, scores={chosen: table.scores[chosen]}) for split, table in tables.items()}
    return Source(path, chosen, config, plain, _json(path / "data.json"), images, tables, digest(path))


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged and cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _check_twice(paths: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        first = seen.setdefault(path.resolve(), path)
        if first is not path:
            raise UserError(
                f"{path} is given twice: an ensemble takes every run once; greedy weights may count it more"
            )


def _check_copies(sources: Sequence[Source]) -> None:
    seen: dict[str, Source] = {}
    for source in sources:
        first = seen.setdefault(source.digest, source)
        if first is not source:
            raise UserError(f"{source.path} and {first.path} hold the same predictions: they are copies of one run")


def _labels(sources: Sequence[Source], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The labels of the ensemble, in the order of the first run. Raises ``UserError`` where the runs' differ."""
    own = [source.tables["val"].labels for source in sources]
    shared = tuple(label for label in own[0] if all(label in labels for labels in own))
    unknown = [label for label in wanted if label not in shared]
    if unknown:
        raise UserError(
            f"--labels {unknown[0]}: not every run has it; all have {', '.join(shared) or 'none in common'}"
        )
    if wanted:
        return tuple(label for label in shared if label in wanted)
    for source, labels in zip(sources[1:], own[1:], strict=True):
        if set(labels) == set(own[0]):
            continue
        way = f"; keep those of all with --labels {quote(','.join(shared))}" if shared else ""
        only = [label for label in (*own[0], *labels) if (label in own[0]) != (label in labels)]
        raise UserError(f"{sources[0].path} and {source.path} have different labels ({named(only)} in one only){way}")
    return own[0]


def _narrowed(source: Source, labels: tuple[str, ...]) -> Source:
    """Its tables with these labels in this order."""
    tables = {}
    for split, table in source.tables.items():
        lacking = [label for label in labels if label not in table.labels]
        if lacking:
            raise UserError(f"{source.path}/predictions/{split}.csv has no rows of {named(lacking)}")
        place = [table.labels.index(label) for label in labels]
        scores = {model: values[:, place] for model, values in table.scores.items()}
        tables[split] = replace(table, labels=labels, targets=table.targets[:, place], scores=scores)
    return replace(source, tables=tables)


def _differences(sources: Sequence[Source]) -> list[str]:
    """What the runs judge differently: the first one's way is taken."""
    first, notes = sources[0], []
    ways = [(s.config.data.unit, s.config.data.merge, s.config.evaluation) for s in sources]
    for key, found in zip(("data.unit", "data.merge", "evaluation"), zip(*ways, strict=True), strict=True):
        if any(way != found[0] for way in found):
            notes.append(f"the runs differ in {key}: judged as {first.path} is")
    models = list(dict.fromkeys(source.model for source in sources))
    if len(models) > 1:
        notes.append(f"the runs give different columns: {', '.join(models)}")
    return notes


# ---------------------------------------------------------------- names and numbers


def column_names(sources: Sequence[Source]) -> list[str]:
    """A name a member, ``auc@densenet121``: by what tells the runs apart, the network first; safe in any file."""
    networks = [source.config.model.name for source in sources]
    sizes = [f"{source.config.image_size}px" for source in sources]
    seeds = [f"seed{source.config.seed}" for source in sources]
    folders = [source.path.resolve().name for source in sources]
    numbers = [str(number) for number in range(1, len(sources) + 1)]
    for parts in ((networks,), (networks, sizes), (networks, seeds), (networks, sizes, seeds), (networks, folders),
                  (networks, numbers)):  # fmt: skip
        whole = ["-".join(words) for words in zip(*parts, strict=True)]
        names = [f"{s.model}@{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}" for s, name in zip(sources, whole, strict=True)]
        if len({name.partition("@")[2] for name in names}) == len(names):
            return names
    raise AssertionError("numbers differ")


def _mean_auc(source: Source, unit: str, merge: str) -> float:
    """The mean over labels of the validation AUC of the chosen column; NaN without a label that has one."""
    units = merge_units(source.tables["val"], unit, merge)
    found = []
    for k in range(len(units.labels)):
        known = ~np.isnan(units.targets[:, k])
        targets, scores = units.targets[known, k], units.scores[source.model][known, k]
        if not why_undefined(targets) and not np.isnan(scores).any():
            found.append(roc_auc(targets, scores))
    return float(np.mean(found)) if found else math.nan


def _joined(sources: Sequence[Source], columns: Sequence[str], split: str) -> Predictions:
    first = sources[0].tables[split]
    patients, studies = (np.array(first.patients), np.array(first.studies))
    scores = {c: s.tables[split].scores[s.model] for c, s in zip(columns, sources, strict=True)}
    return replace(first, patients=patients, studies=studies, scores=scores)


def _member(source: Source, column: str, auc: float, out: Path) -> Member:
    path = source.path.resolve()
    facts = {
        "network": source.config.model.name,
        "image_size": source.config.image_size,
        "seed": source.config.seed,
        "val_auc": None if math.isnan(auc) else auc,
    }
    return Member(column, source.model, str(path), os.path.relpath(path, out.resolve()), source.digest, facts)


# ---------------------------------------------------------------- writing


def _write(
    made: Made, sources: Sequence[Source], tables: dict[str, Predictions], wish: Wish, command: Sequence[str]
) -> None:
    """All files but the report, into a folder beside it that becomes ``out`` when it is whole."""
    out = made.path
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".{out.name}.{os.getpid()}.partial"
    try:
        (work / "predictions").mkdir(parents=True)
        for split, table in tables.items():
            write_predictions(work / "predictions" / f"{split}.csv", table)
        with atomic_path(work / "predictions" / "images.csv") as temporary:
            _images(sources).to_csv(temporary, index=False)
        config = yaml.safe_dump(_config(made, sources, wish), sort_keys=False, allow_unicode=True)
        atomic_write_text(work / "config.yaml", config)
        _write_json(work / ENSEMBLE, _stored(made, sources, wish, tables["val"].labels))
        facts = {**common([source.facts for source in sources]), "labels": list(tables["val"].labels)}
        _write_json(work / "data.json", facts | {"counts": _counts(sources, tables["val"].labels)})
        environment = describe(list(command), sources[0].config.seed, "none: scores were mixed, nothing was trained")
        _write_json(work / "environment.json", {k: v for k, v in environment.items() if k != "seed"})
        _write_json(work / "progress.json", {"state": "done"})
        if out.is_dir():
            out.rmdir()  # empty, as was checked
        work.rename(out)
    except OSError as error:
        raise UserError(f"the ensemble cannot be written to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_json(file: Path, content: object) -> None:
    atomic_write_text(file, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def _config(made: Made, sources: Sequence[Source], wish: Wish) -> dict[str, Any]:
    """config.yaml: that it is an ensemble, and what the configs of all members have in common."""
    first = sources[0]
    shared = {k: v for k, v in common([source.plain for source in sources]).items() if k not in _PRIVATE}
    networks = list(dict.fromkeys(source.config.model.name for source in sources))
    judging = {"unit": first.config.data.unit, "merge": first.config.data.merge}
    datasets = dict.fromkeys(source.config.data.name for source in sources)
    flat = [RunFiles(source.path, source.plain, {}, {}, {}, ()) for source in sources]
    return {
        "name": made.path.name,
        "ensemble": ENSEMBLE,
        **{key: value for key, value in shared.items() if key != "name"},
        "model": {**(shared.get("model") or {}), "name": " + ".join(networks)},
        "data": {**(shared.get("data") or {}), "name": ", ".join(datasets), **judging},
        "evaluation": dict(first.plain.get("evaluation") or {}),
        "rebalanced": any(rebalanced(run) for run in flat),
    }


def _stored(made: Made, sources: Sequence[Source], wish: Wish, labels: Sequence[str]) -> dict[str, Any]:
    """ensemble.json: the members, and the mixture."""
    data = sources[0].config.data
    return {
        "format": FORMAT,
        "name": made.path.name,
        "mean": wish.mean,
        "weights": wish.weighting,
        "unit": data.unit,
        "merge": data.merge,
        "labels": list(labels),
        "members": [_plain_member(member) for member in made.members],
        "mixture": made.mixture.as_dict(),
        "notes": list(made.notes),
    }


def _plain_member(member: Member) -> dict[str, Any]:
    plain = asdict(member)
    facts = plain.pop("facts")
    return {**plain, **facts}


def common(trees: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all mappings say alike, node by node."""
    result: dict[str, Any] = {}
    for key, value in trees[0].items():
        values = [tree.get(key) for tree in trees]
        if all(isinstance(v, dict) for v in values):
            result[key] = common([v for v in values if isinstance(v, dict)])
        elif all(key in tree and tree[key] == value for tree in trees):
            result[key] = value
    return result


def _counts(sources: Sequence[Source], labels: Sequence[str]) -> list[Any]:
    """Rows of data.json's counts that all runs share, of these labels."""
    rows = sources[0].facts.get("counts")
    kept: Callable[[Any], bool] = lambda row: isinstance(row, dict) and row.get("label") in labels  # noqa: E731
    others = [source.facts.get("counts") or [] for source in sources]
    return [row for row in rows if kept(row) and all(row in found for found in others)] if rows else []


def _images(sources: Sequence[Source]) -> pd.DataFrame:
    """images.csv of the ensemble: the first run's rows, then what only others were trained on."""
    frames = [sources[0].images]
    seen = set(frames[0]["image"])
    for source in sources[1:]:
        new = source.images[~source.images["image"].isin(seen)]
        frames.append(new)
        seen |= set(new["image"])
    whole = pd.concat(frames, ignore_index=True)
    return whole[list(sources[0].images.columns)].fillna("")
