"""An external test set: the networks of a finished run on images of another dataset, and what may stand against it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dam.config import AugmentConfig, ChexpertConfig, DataConfig
from dam.data import fingerprint, read_dataset
from dam.data.labels import apply_policies
from dam.data.steps import drop_unknown, keep_views
from dam.data.store import ImageStore, default_store_dir, known_digests, open_store
from dam.data.table import ImageTable, Naming, check_rows, counted, named, without_names
from dam.errors import UserError
from dam.evaluation.predictions import Predictions, make_predictions, write_predictions as write_table
from dam.files import atomic_path, atomic_write_text
from dam.inference.run import LoadedRun
from dam.training import anonymize
from dam.training.inputs import Inputs

PREFIX = "external_"
NAMED = ("images", "patients", "studies")  # fields of Predictions


@dataclass(frozen=True)
class ExternalResult:
    """``predictions/external_<name>.csv`` of a run, with what must be said of the set."""

    split: str
    predictions: Predictions
    notes: tuple[str, ...]
    replaced: bool  # an external set of this name was there before


def score_external(run: LoadedRun, cfg: DataConfig, name: str, workers: int) -> ExternalResult:
    """Score the dataset ``cfg`` with the networks of ``run`` and add it to the run as the external set ``name``.

    No split is cut: the dataset's own test rows are used where it has some, otherwise all rows. Labels that the run
    does not know are left out and named. Writes ``predictions/external_<name>.csv``, ``.json`` (facts and notes) and
    ``images_external_<name>.csv`` (metadata). Raises ``UserError`` if no label is shared, and, unless
    ``cfg.leakage=allow``, if an image or patient of the set was in the run's training or validation.
    """
    table = external_table(cfg, run.labels)
    notes = check_overlap(run.path, table, cfg)
    stores: dict[tuple[int, int, str], ImageStore] = {}
    for one in run.members or (run,):
        if _form(one) not in stores:
            own = _store_config(one, cfg)
            stores[_form(one)], table = open_store(table, own, one.config.image_size, max(1, workers), progress=True)
    notes += check_pixels(run, table, next(iter(stores.values())), cfg)
    lacking = [name for name in run.metadata_columns if name not in table.metadata]
    if lacking:
        notes.append(f"no {named(lacking)} here, which the run's metadata network reads: its scores are left out")
    predictions = _score(run, table, stores, workers)
    theirs = anonymize.of_run(run.path)
    if theirs is not None:
        table = theirs.table(table, anonymize.kept_metadata(run.config))
        called = {name: np.array(theirs.names(getattr(predictions, name)), object) for name in NAMED}
        predictions = replace(predictions, **called)  # type: ignore[arg-type]
        notes = [without_names(note, ()) for note in notes]
    split = PREFIX + name
    folder = run.path / "predictions"
    replaced = (folder / f"{split}.csv").exists()
    notes = [*table.notes, *notes]
    # The predictions come last: a report that finds them finds the rest too.
    columns = ["image", "patient", "study", *table.metadata]
    with atomic_path(folder / f"images_{split}.csv") as temporary:
        table.frame[columns].to_csv(temporary, index=False)
    facts = {**fingerprint(table), "name": name, "notes": notes, "config": asdict(_store_config(run, cfg))}
    atomic_write_text(folder / f"{split}.json", json.dumps(facts, indent=2) + "\n")
    write_table(folder / f"{split}.csv", predictions)
    return ExternalResult(split, predictions, tuple(notes), replaced)


def _form(run: LoadedRun) -> tuple[int, int, str]:
    """What tells apart the image stores that the members of an ensemble need."""
    return run.config.image_size, run.channels, run.config.data.fit


def _store_config(run: LoadedRun, cfg: DataConfig) -> DataConfig:
    return replace(cfg, colour="gray" if run.channels == 1 else "rgb", fit=run.config.data.fit)


def external_table(cfg: DataConfig, labels: Sequence[str]) -> ImageTable:
    """The dataset's rows to be judged, all as split ``test``, with those of its labels that are among ``labels``.

    Label policies are those of judged rows: uncertain labels get a class or become unknown, fractions are cut.
    """
    table = read_dataset(cfg)
    if isinstance(cfg, ChexpertConfig):
        table = keep_views(table, cfg.views)
    official = (table.frame["split"] == "test").to_numpy()
    if official.any():
        note = f"rows used: the {counted(int(official.sum()), 'row')} of the dataset's own test split, of {len(table)}"
        table = table.with_frame(table.frame[official], note)
    else:
        note = f"rows used: all {len(table)}, since the dataset has no test split of its own"
        table = table.with_frame(table.frame.assign(split="test"), note)
    table = check_rows(table, on_missing=cfg.on_bad_image)
    table = drop_unknown(apply_policies(_shared_labels(table, labels), cfg))
    values = table.targets()
    if not ((values >= 0.5).any(axis=0) & (values < 0.5).any(axis=0)).any():
        raise UserError(f"no label of {cfg.name} has both positives and negatives among the {len(table)} rows used: "
                        "there is no AUC to show")  # fmt: skip
    return table


def _shared_labels(table: ImageTable, labels: Sequence[str]) -> ImageTable:
    shared = tuple(label for label in labels if label in table.labels)
    if not shared:
        raise UserError(
            f"data={table.name} has the labels {named(table.labels)}, and none of them is a label of the run, which "
            f"has {named(labels)}; name the columns alike"
        )
    notes = []
    foreign = [label for label in table.labels if label not in labels]
    missing = [label for label in labels if label not in table.labels]
    if foreign:
        notes.append(f"left out {named(foreign)}: no label of the run")
    if missing:
        notes.append(f"not judged here: {named(missing)}, which {table.name} does not have")
    return replace(table.with_frame(table.frame.drop(columns=foreign), *notes), labels=shared)


# ---------------------------------------------------------------- what the run has seen


def check_overlap(path: Path, table: ImageTable, cfg: DataConfig) -> list[str]:
    """Refuse images and patients, by name, that the run trained or chose on; notes where ``leakage=allow``.

    A patient that has its image's own name is no known patient and is not compared.
    """
    seen = _seen(path)
    used = seen[seen["split"] != "test"]
    frame = table.frame
    pseudonyms = anonymize.of_run(path)
    notes: list[str] = []
    for what in ("image", "patient"):
        known = frame[frame["patient"] != frame["image"]] if what == "patient" else frame
        theirs = used[used["patient"] != used["image"]] if what == "patient" else used
        names = known[what].drop_duplicates()
        called = names if pseudonyms is None else pd.Series(pseudonyms.names(names), names.index)
        shared = sorted(set(names[called.isin(theirs[what])]) - {""})
        if not shared:
            continue
        have = "has" if len(shared) == 1 else "have"
        told = (
            f"{counted(len(shared), what)} of the external set {have} the name of one that the run trained or chose on"
        )
        if cfg.leakage == "refuse":
            raise UserError(
                f"{told} ({named(shared, 3)}): a test on those means nothing. Leave them out; if only the names "
                "coincide, as numbers of two hospitals may, say data.leakage=allow"
            )
        notes.append(Naming(f"{told}, allowed by data.leakage=allow", f" ({named(shared, 3)})"))
    if (frame["patient"] == frame["image"]).all():
        notes.append("the external set names no patients: that none of them was in training could not be checked")
    return notes


def check_pixels(run: LoadedRun, table: ImageTable, store: ImageStore, cfg: DataConfig) -> list[str]:
    """Refuse files that are byte for byte those the run trained or chose on, where its image store is still known."""
    digests = _training_digests(run)
    if digests is None:
        return ["the run's image store is gone: that no file equals one of its training could not be checked"]
    rows = store.rows_for(table)
    equal = np.array([store.digests[row] in digests for row in rows.tolist()])
    if not equal.any():
        return []
    images = table.frame["image"].to_numpy()[equal].tolist()
    were = "was" if len(images) == 1 else "were"
    where = "in the run's training or validation, byte for byte"
    told = f"{counted(len(images), 'image')} of the external set {were} {where}"
    if cfg.leakage == "refuse":
        raise UserError(f"{told} ({named(images, 3)}): remove them, or set data.leakage=allow if you know better")
    return [Naming(f"{told}, allowed by data.leakage=allow", f" ({named(images, 3)})")]


def _seen(path: Path) -> pd.DataFrame:
    file = path / "predictions" / "images.csv"
    if not file.is_file():
        raise UserError(f"{file} is not there: what the run was trained on is unknown; finish the run first")
    return pd.read_csv(file, dtype="str", keep_default_na=False, usecols=["image", "patient", "split"])


def _training_digests(run: LoadedRun) -> set[str] | None:
    """Digests of the files that the run trained or chose on; None where no store holds exactly its images."""
    facts = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    stores = [Path(run.config.data.store).expanduser()] if run.config.data.store else []
    seen = _seen(run.path)
    used = set(seen["image"][seen["split"] != "test"])
    theirs = anonymize.of_run(run.path)
    for base in dict.fromkeys([*stores, default_store_dir()]):
        for folder in sorted(base.glob(f"images-{run.config.image_size}-*")):
            kept = known_digests(folder)
            if hashlib.sha256("\n".join(kept.values()).encode()).hexdigest() == facts.get("pixels_sha256"):
                return {digest for name, digest in kept.items() if (theirs.name(name) if theirs else name) in used}
    return None


# ---------------------------------------------------------------- scoring


def _score(
    run: LoadedRun, table: ImageTable, stores: dict[tuple[int, int, str], ImageStore], workers: int
) -> Predictions:
    rows = np.arange(len(table))
    each = []
    for one in run.members or (run,):
        store = stores[_form(one)]
        inputs = Inputs(
            table=table,
            store=store,
            store_rows=store.rows_for(table),
            splits={"train": rows[:0], "val": rows[:0], "test": rows},
            augment=AugmentConfig(train=[]),
            image_size=one.config.image_size,
            workers=workers,
            device=one.device.device,
            augment_on="cpu",
        )
        each.append(one.logits(inputs, rows))
    every = run.combined(each) if run.members else each[0]
    columns = [run.labels.index(label) for label in table.labels]
    scores = {model: values[:, columns] for model, values in every.items()}
    scores = {model: values for model, values in scores.items() if not np.isnan(values).all()}
    frame = table.frame
    return make_predictions(frame["image"], table.labels, table.targets(rows), scores, frame["patient"], frame["study"])
