"""What every stage reads: the table's rows by split, their targets, and loaders over the image store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dam.config import AugmentConfig, Config
from dam.data.augment import Augment
from dam.data.loader import Batches, FeatureLoader, Loader
from dam.data.sampling import Draw
from dam.data.store import ImageStore
from dam.data.table import ImageTable
from dam.training.anonymize import Pseudonyms


@dataclass(frozen=True)
class Inputs:
    """Rows are positions in ``table``; ``store_rows[i]`` is where the image of table row i lies in ``store``.

    ``device`` is where batches are wanted, ``augment_on`` where they are augmented ("cpu" or "device"). With
    ``features`` (float32, (rows of the table, F)) these are what the loaders give, instead of images. With
    ``pseudonyms`` these are the names in ``table``.
    """

    table: ImageTable
    store: ImageStore
    store_rows: np.ndarray
    splits: dict[str, np.ndarray]
    augment: AugmentConfig
    image_size: int
    workers: int
    device: torch.device
    augment_on: str
    features: np.ndarray | None = None
    pseudonyms: Pseudonyms | None = None

    def targets(self, rows: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """float32 (len(rows), len(labels)); NaN where unknown."""
        values = self.table.frame[list(labels)].to_numpy(dtype=np.float32)
        chosen: np.ndarray = values[rows]
        return chosen

    def known(self, split: str, labels: Sequence[str]) -> np.ndarray:
        """Rows of ``split`` in which at least one of ``labels`` is known."""
        rows = self.splits[split]
        known: np.ndarray = rows[~np.isnan(self.targets(rows, labels)).all(axis=1)]
        return known

    def loader(self, rows: np.ndarray, labels: Sequence[str], augment_seed: int | None = None) -> Batches:
        """Batches of ``rows``, augmented as a function of ``augment_seed``, or as they are without one."""
        if self.features is not None:
            return FeatureLoader(self.features[rows], self.targets(rows, labels))
        augmented = augment_seed is not None and bool(self.augment.train)
        loader = Loader(
            self.store,
            self.store_rows[rows],
            self.targets(rows, labels),
            augment=Augment(self.augment, self.image_size, augment_seed or 0) if augmented else None,
            table_rows=rows,
            workers=self.workers,
            device=self.device,
            augment_there=self.augment_on == "device",
        )
        if self.pseudonyms is not None:
            loader.names = self.names(rows)
        return loader

    def names(self, rows: np.ndarray) -> list[str]:
        return [str(name) for name in self.table.frame["image"].to_numpy()[rows]]

    def overfit(self, batch_size: int) -> Inputs:
        """``debug=overfit``: one fixed batch, half of it positive, as training and validation, not augmented."""
        rows = self.splits["train"]
        first = self.targets(rows, self.table.labels[:1])[:, 0]
        half = max(1, batch_size // 2)
        chosen = np.sort(np.concatenate([rows[first >= 0.5][:half], rows[first < 0.5][:half]]))
        return replace(
            self, splits={"train": chosen, "val": chosen, "test": chosen[:0]}, augment=AugmentConfig(train=[])
        )


def on_paper(cfg: Config, table: ImageTable) -> Inputs:
    """Inputs of a table whose images nobody has opened yet: enough for the plan, which reads targets only."""
    return Inputs(
        table=table,
        store=None,  # type: ignore[arg-type]
        store_rows=np.arange(len(table)),
        splits={split: table.split(split) for split in ("train", "val", "test")},
        augment=cfg.augment,
        image_size=cfg.image_size,
        workers=cfg.workers,
        device=torch.device("cpu"),
        augment_on=cfg.augment_on,
    )


def in_order(count: int, batch_size: int, number: int = 0) -> list[Draw]:
    """Draws that visit rows 0..count-1 once, in order, for evaluation; all of them the pass ``number``."""
    starts = range(0, count, batch_size)
    rows = [np.arange(start, min(start + batch_size, count), dtype=np.int64) for start in starts]
    return [Draw(part, np.full(len(part), number, dtype=np.int64)) for part in rows]
