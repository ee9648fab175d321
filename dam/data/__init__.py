"""Every dataset is a table of images: read it, resolve its labels, split it by patient, check it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dam.config import DataConfig
    from dam.data.table import ImageTable

__all__ = ["fingerprint", "load_table", "read_dataset"]


def load_table(cfg: DataConfig, labelled: bool = True) -> ImageTable:
    """The checked table of the dataset ``cfg.name``, ready for training; no image is decoded.

    Read what is on disk, keep the wanted views, check rows and files, make training imbalanced (``data.imratio``),
    cut missing splits by patient (or folds, ``data.folds``), let external rows train, upsample, resolve uncertain and
    blank labels, check splits and classes. With ``data.fold=all`` no row is validation: metadata ``fold`` says which
    fold each belongs to. Rows of the split ``extra`` are never cut, moved or thinned. ``labelled=False``, for
    pretraining: rows without any known label stay, and labels, classes and validation may be missing. The table's
    notes tell what each step did. A function of the files and the arguments only. Raises ``UserError``.
    """
    from dam.config import ChexpertConfig
    from dam.data.folds import assign_folds, pool_validation
    from dam.data.labels import apply_policies, hard_targets
    from dam.data.splits import assign_splits, imbalance, join_extra
    from dam.data.steps import drop_unknown, keep_views, upsample
    from dam.data.table import check, check_rows

    table = read_dataset(cfg)
    if isinstance(cfg, ChexpertConfig):
        table = keep_views(table, cfg.views)  # first: the files of other views need not be there
    table = check_rows(table, cfg.on_bad_image, labelled)
    table = assign_splits(table, hard_targets(table, cfg), 0.0, cfg.test_fraction, cfg.split_seed)
    if cfg.folds is not None:
        table = pool_validation(table)
    if cfg.imratio is not None:  # as in the benchmarks: test stays as it is, validation is cut from what is left
        table = imbalance(table, cfg.imratio, cfg.split_seed)
    hard = hard_targets(table, cfg)
    if cfg.folds is not None and cfg.fold is not None:
        table = assign_folds(table, hard, cfg.folds, cfg.fold, cfg.split_seed, cfg.leakage)
    else:
        table = assign_splits(table, hard, cfg.val_fraction, 0.0, cfg.split_seed)
    table = join_extra(table)
    if isinstance(cfg, ChexpertConfig):
        table = upsample(table, cfg.upsample)
    table = apply_policies(table, cfg)
    return check(drop_unknown(table) if labelled else table, cfg.leakage, labelled and cfg.fold != "all", labelled)


def read_dataset(cfg: DataConfig) -> ImageTable:
    """What is on disk, unchanged, with the text files it was read from as ``sources``. Raises ``UserError``."""
    from dataclasses import replace

    from dam.data.datasets import DATASETS
    from dam.data.datasets.text_tables import recorded
    from dam.errors import UserError

    if cfg.name not in DATASETS:
        raise UserError(f"There is no dataset {cfg.name!r}; there are {', '.join(DATASETS)}.")
    with recorded() as files:
        table = DATASETS[cfg.name].read(cfg)
    return replace(table, sources=tuple(files))


def fingerprint(table: ImageTable) -> dict[str, Any]:
    """What identifies a table, for data.json: sha256 of the files it was read from, of its image list (with splits) and
    of its labels, the counts and imratio of every split and label, rows, patients and studies a split, and the notes.
    JSON types only."""
    import hashlib

    from dam.data.table import SPLITS

    frame = table.frame
    images = hashlib.sha256("\n".join(frame["image"] + "\t" + frame["split"]).encode()).hexdigest()
    digest = hashlib.sha256("\t".join(table.labels).encode())
    digest.update(frame[list(table.labels)].to_numpy(dtype="<f4").tobytes())
    counts = table.counts()
    records = [
        {**row, "imratio": None if row["imratio"] != row["imratio"] else row["imratio"]}
        for row in counts.to_dict("records")
    ]
    imratio: dict[str, dict[str, float | None]] = {}
    for row in records:
        imratio.setdefault(str(row["split"]), {})[str(row["label"])] = row["imratio"]
    sizes = {}
    for split in SPLITS:
        part = frame.iloc[table.split(split)]
        sizes[split] = {
            "images": len(part),
            "patients": int(part["patient"].nunique()),
            "studies": int(part["study"].nunique()),
        }
    return {
        "dataset": table.name,
        "root": str(table.root),
        "labels": list(table.labels),
        "tables": [{"file": file, "sha256": digest} for file, digest in table.sources],
        "images_sha256": images,
        "labels_sha256": digest.hexdigest(),
        "sizes": sizes,
        "counts": records,
        "imratio": imratio,
        "notes": list(table.notes),
    }
