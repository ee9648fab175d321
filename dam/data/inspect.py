"""What a run would find in its data: everything that ``dam data check`` tells, as plain values for JSON.

The whole table is looked at, and every file's existence; of the images a seeded sample is decoded, or all of them
where the image store is built too. What would make ``dam train`` refuse the data is collected, not raised.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dam.config import ChexpertConfig, DataConfig
from dam.data.containers import SEPARATOR
from dam.data.duplicates import Equal, across, by_digest, equal_images
from dam.data.readers import ImageError, ImageReader
from dam.data.table import SPLITS, UNCERTAIN, ImageTable, counted, named
from dam.errors import UserError

SAMPLE = 300  # images decoded
EXAMPLES = 5
OpenStore = Callable[[ImageTable, DataConfig], tuple[Any, ImageTable]]


@dataclass(frozen=True)
class Inspection:
    """The table as a run would train on it (or as it was read, where a run would refuse it), the findings as plain
    values, and the sentences with which ``dam train`` would refuse."""

    table: ImageTable
    findings: dict[str, Any]
    refused: tuple[str, ...]


def inspect(cfg: DataConfig, workers: int, open_store: OpenStore | None = None) -> Inspection:
    """Look at the dataset of ``cfg``. With ``open_store`` every image is decoded by building the image store.

    Raises ``UserError`` where there is no table to look at.
    """
    raw, unreadable = _read(cfg)
    missing = _missing(raw)
    table, refused = _as_trained(raw, cfg)
    refused = [*unreadable, *refused]
    if missing and cfg.on_bad_image == "refuse":
        refused.append(f"{counted(len(missing), 'image')} of {len(raw)} {_has(missing)} no file: {named(missing, 3)}")
    present = table.with_frame(table.frame[~table.frame["image"].isin(missing)])
    reader = ImageReader(table.root, cfg.window)
    if open_store is None:
        sample = look_at_sample(reader, present, workers, cfg.split_seed)
        equal = equal_images(reader, present.frame["image"], workers, cfg.split_seed)
    else:
        store, present = open_store(present, replace(cfg, on_bad_image="skip", leakage="allow"))
        sample = look_at_sample(reader, present, workers, cfg.split_seed)
        sample |= {"unreadable": store.skipped, "decoded": len(store)}
        equal = by_digest(store.locators, store.digests)
    shared, pairs = _shared_patients(table), _equal_pairs(equal, table)
    findings = {
        "dataset": table.name, "root": str(table.root), "labels": list(table.labels),
        "splits": _splits(table), "counts": _counts(table), "before_policy": _before_policy(raw),
        "files": {"rows": len(raw), "missing": len(missing), "examples": missing[:EXAMPLES]},
        "sample": sample, "patients_across_splits": shared,
        "equal_images": {"checked": equal.checked, "total": equal.total, "exact": equal.exact, "found": pairs},
        "notes": list(present.notes),
    }  # fmt: skip
    refused += _refusals(findings, cfg)
    return Inspection(table, findings | {"refused": refused}, tuple(refused))


def look_at_sample(reader: ImageReader, table: ImageTable, workers: int, seed: int) -> dict[str, Any]:
    """Sizes, colours, remarks and unreadable ones of up to ``SAMPLE`` images, drawn by ``seed``; the images are kept
    nowhere. Sizes are height x width in pixels."""
    images = sorted(set(table.frame["image"]))
    if len(images) > SAMPLE:
        chosen = np.random.default_rng(seed).choice(len(images), SAMPLE, replace=False)
        images = [images[i] for i in np.sort(chosen).tolist()]
    sizes: list[tuple[int, int]] = []
    unreadable: dict[str, str] = {}
    remarks: Counter[str] = Counter()
    colour = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for locator, seen in zip(images, pool.map(lambda name: _look(reader, name), images), strict=True):
            if isinstance(seen, str):
                unreadable[locator] = seen
                continue
            shape, said = seen
            sizes.append((shape[0], shape[1]))
            colour += len(shape) == 3
            remarks.update(said)
    heights, widths = [h for h, _ in sizes], [w for _, w in sizes]
    common = [[f"{h}x{w}", count] for (h, w), count in Counter(sizes).most_common(3)]
    return {
        "images": len(images), "of": table.frame["image"].nunique(), "seed": seed,
        "height": _range(heights), "width": _range(widths), "common": common,
        "gray": len(sizes) - colour, "colour": colour, "remarks": dict(remarks), "unreadable": unreadable,
    }  # fmt: skip


def _look(reader: ImageReader, locator: str) -> tuple[tuple[int, ...], tuple[str, ...]] | str:
    try:
        decoded = reader.decode(locator)
    except ImageError as error:
        return error.reason
    return decoded.pixels.shape, decoded.remarks


def _range(values: list[int]) -> list[int]:
    """Least, median and largest."""
    return [min(values), int(np.median(values)), max(values)] if values else []


# ---------------------------------------------------------------- the table


def _read(cfg: DataConfig) -> tuple[ImageTable, list[str]]:
    """The table as it is on disk, with blank and uncertain labels, and what its reader refuses but can leave out."""
    from dam.data.datasets import DATASETS
    from dam.data.steps import keep_views

    refused: list[str] = []
    try:
        table = DATASETS[cfg.name].read(cfg)
    except UserError as error:  # a cut file, say: the rest of the data is worth looking at
        if cfg.on_bad_image == "skip":
            raise
        table = DATASETS[cfg.name].read(replace(cfg, on_bad_image="skip"))
        refused.append(str(error))
    return keep_views(table, cfg.views) if isinstance(cfg, ChexpertConfig) else table, refused


def _as_trained(raw: ImageTable, cfg: DataConfig) -> tuple[ImageTable, list[str]]:
    """The table that a run would get if missing files and shared patients were let pass, and why it gets none."""
    from dam.data import load_table

    try:
        return load_table(replace(cfg, on_bad_image="skip", leakage="allow")), []
    except UserError as error:
        if len(raw) == 0:
            raise
        frame = raw.frame.assign(split=raw.frame["split"].replace("extra", "train"))
        return raw.with_frame(frame), [str(error)]


def _missing(table: ImageTable) -> list[str]:
    images = table.frame["image"].tolist()
    root = str(table.root)
    files = {image: image.partition(SEPARATOR)[0] for image in images}
    there = {name: os.path.exists(os.path.join(root, name)) for name in set(files.values())}  # noqa: PTH110, PTH118
    return [image for image in images if not there[files[image]]]


def _splits(table: ImageTable) -> list[dict[str, Any]]:
    rows = []
    for split in [*SPLITS, ""]:
        part = table.frame.iloc[table.split(split)]
        if len(part) or split in SPLITS:
            counts = {f"{unit}s": int(part[unit].nunique()) for unit in ("image", "patient")}
            rows.append({"split": split, "rows": len(part), **counts, "studies": int(part["study"].nunique())})
    return rows


def _counts(table: ImageTable) -> list[dict[str, Any]]:
    return [
        {str(key): None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in table.counts().to_dict("records")
    ]


def _before_policy(table: ImageTable) -> list[dict[str, Any]]:
    """Label values as they are on disk, over all rows: positive, negative, between, uncertain, blank."""
    rows = []
    for label in table.labels:
        values = table.frame[label].to_numpy(dtype=np.float64)
        kinds = {
            "positives": values == 1, "negatives": values == 0, "soft": (values > 0) & (values < 1),
            "uncertain": values == UNCERTAIN, "blank": np.isnan(values),
        }  # fmt: skip
        rows.append({"label": label, **{kind: int(hits.sum()) for kind, hits in kinds.items()}})
    return rows


# ---------------------------------------------------------------- what two splits share


def _shared_patients(table: ImageTable) -> dict[str, Any]:
    pairs = table.frame[["patient", "split"]].drop_duplicates()
    shared = sorted(pairs["patient"][pairs["patient"].duplicated()].unique().tolist())
    return {"patients": len(shared), "examples": shared[:EXAMPLES]}


def _equal_pairs(equal: Equal, table: ImageTable) -> list[dict[str, Any]]:
    split_of = dict(zip(table.frame["image"], table.frame["split"], strict=True))
    return [
        {"splits": list(splits), "images": len(found), "examples": [list(pair) for pair in found[:EXAMPLES]]}
        for splits, found in sorted(across(equal, split_of).items())
    ]


def _refusals(findings: dict[str, Any], cfg: DataConfig) -> list[str]:
    told = []
    unreadable = findings["sample"]["unreadable"]
    if unreadable and cfg.on_bad_image == "refuse":
        first, reason = next(iter(unreadable.items()))
        told.append(f"{counted(len(unreadable), 'image')} cannot be read, such as {first} ({reason})")
    if cfg.leakage == "refuse":
        shared = findings["patients_across_splits"]
        if shared["patients"]:
            who = named(shared["examples"], 3)
            told.append(f"{counted(shared['patients'], 'patient')} in more than one split, such as {who}")
        for pair in findings["equal_images"]["found"]:
            if pair["splits"] == ["train", "test"]:
                one, other = pair["examples"][0]
                told.append(f"{counted(pair['images'], 'image')} in train and test byte for byte, such as "
                            f"{one} = {other}")  # fmt: skip
    return told


def _has(items: list[str]) -> str:
    return "has" if len(items) == 1 else "have"
