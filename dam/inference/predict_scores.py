"""From pixels to the score columns of a run: its networks, kept in memory, on one block of images after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dam.data.augment import Augment
from dam.data.window import Window
from dam.errors import UserError
from dam.inference.predict_decode import Form, form_of
from dam.inference.run import BLEND, LoadedRun, Part, Scores
from dam.training import tta
from dam.training.module import Network

ROOM = 0.7  # of the free memory that networks may take
FACTOR = 1.3  # memory of a network to the size of its file
MANY = 2048  # images a block, where networks must be loaded anew for each


@dataclass(frozen=True)
class Wanted:
    """``copies``: augmented copies an image, None as the run has it. ``columns``: of the scores, None for all.
    ``batch_size``: images at a time, None for twice that of training. ``metadata``: whether its columns are given."""

    copies: int | None = None
    columns: tuple[str, ...] | None = None
    batch_size: int | None = None
    metadata: bool = False
    window: Window | None = None
    workers: int = 1


class Scorer:
    """Scores blocks of images by all networks that the wanted columns need.

    They stay in memory together, since decoding costs more than keeping them; where they do not fit, each is loaded
    anew for every block, and blocks are larger (``block_size``). Answers to an image do not depend on the others
    (up to float32 rounding); its augmented copies are drawn from a digest of its pixels.
    """

    def __init__(self, run: LoadedRun, wanted: Wanted) -> None:
        self.run = run
        self.wanted = wanted
        every = run.columns_with(wanted.copies, wanted.metadata)
        self.columns = every if wanted.columns is None else _chosen(wanted.columns, every)
        self._leaves = [_Leaf(leaf, wanted, columns) for leaf, columns in _leaves(run, set(self.columns))]
        self.forms = tuple(dict.fromkeys(leaf.form for leaf in self._leaves))
        batch = max(leaf.batch for leaf in self._leaves)
        self.resident = _fits(self._leaves, run)
        self.block_size = batch if self.resident else max(batch, MANY)

    def score(self, pixels: Mapping[Form, np.ndarray], metadata: Mapping[str, Sequence[Any]] | None = None) -> Scores:
        """Column -> float64 (n, K) logits in the order of ``run.labels``; NaN for a label that a column lacks."""
        try:
            leaf = iter(self._leaves)
            scores = self._of(self.run, leaf, pixels, metadata)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"the GPU has no memory for {self.block_size} images at once; set --batch-size") from error
        return {column: scores[column] for column in self.columns}

    def _of(
        self,
        run: LoadedRun,
        leaf: Iterator[_Leaf],
        pixels: Mapping[Form, np.ndarray],
        metadata: Mapping[str, Sequence[Any]] | None,
    ) -> Scores:
        if run.inner:
            return run.combined([self._of(inner, leaf, pixels, metadata) for inner in run.inner])
        own = next(leaf)
        return own.score(pixels[own.form], metadata, self.resident)


class _Leaf:
    """One single run: its networks of the columns that are needed."""

    def __init__(self, run: LoadedRun, wanted: Wanted, columns: set[str] | None) -> None:
        self.run = run
        self.form = form_of(run, wanted.window)
        self.batch = wanted.batch_size or 2 * run.config.batch_size
        self.copies = run.config.tta.copies if wanted.copies is None else wanted.copies
        self.parts = [part for part in run.parts if _needed(run, part, columns)]
        if not wanted.metadata:
            self.parts = [part for part in self.parts if not part.reads_metadata]
        self._workers = wanted.workers
        if columns is not None and not any(name.endswith(("_tta", "_tta_meta")) for name in columns):
            self.copies = 0

    @cached_property
    def resident(self) -> list[tuple[Part, Network]]:
        return [(part, self.run.network(part)) for part in self.parts]

    @cached_property
    def _augment(self) -> Augment:
        config = self.run.config
        return Augment(tta.pipeline(config), config.image_size, tta.copies_seed(config))

    def score(self, pixels: np.ndarray, metadata: Mapping[str, Sequence[Any]] | None, resident: bool) -> Scores:
        networks = self.resident if resident else [(part, None) for part in self.parts]
        plain: Scores = {}
        others: Scores = {}
        means: dict[str, tta.CopyMean] = {}
        for part, kept in networks:
            network = kept or self.run.network(part)
            if part.reads_metadata:
                if metadata is not None:
                    features = self.run.features({name: metadata[name] for name in self.run.metadata_columns})
                    self.run.put(others, part, part.column, self._answers(network, features))
                continue
            self.run.put(plain, part, part.column, self._answers(network, pixels))
        if self.copies:
            images = [(part, network) for part, network in networks if not part.reads_metadata]
            keys = [_key(image) for image in pixels]
            for copy in range(self.copies):
                augmented = self._augmented(pixels, keys, copy)
                for part, kept in images:
                    mean = means.setdefault(part.stage, tta.CopyMean(self.run.config.tta.average))
                    mean.add(self._answers(kept or self.run.network(part), augmented))
            for part, _ in images:
                self.run.put(others, part, f"{part.column}_tta", means[part.stage].logits())
        return self.run.assembled(plain, _ordered(others, self.parts), len(pixels))

    def _answers(self, network: Network, inputs: np.ndarray) -> np.ndarray:
        device, answers = network.device.device, []
        with torch.inference_mode():
            for start in range(0, len(inputs), self.batch):
                batch = torch.from_numpy(np.ascontiguousarray(inputs[start : start + self.batch]))
                answers.append(network(batch.to(device)).float().cpu())
        return torch.cat(answers).numpy().astype(np.float64)

    def _augmented(self, pixels: np.ndarray, keys: Sequence[int], copy: int) -> np.ndarray:
        result = np.empty_like(pixels)

        def one(i: int) -> None:
            result[i] = self._augment(pixels[i], keys[i], copy)

        if self._workers <= 1:
            for i in range(len(pixels)):
                one(i)
            return result
        with ThreadPoolExecutor(self._workers, thread_name_prefix="dam-tta") as pool:
            list(pool.map(one, range(len(pixels))))
        return result


def _leaves(run: LoadedRun, columns: set[str] | None) -> Iterator[tuple[LoadedRun, set[str] | None]]:
    """The single runs within ``run`` with the columns that are needed of each; None for all."""
    if not run.inner:
        yield run, columns
    for inner in run.inner:
        yield from _leaves(inner, columns if run.folds else set(inner.only) or None)


def _needed(run: LoadedRun, part: Part, columns: set[str] | None) -> bool:
    if columns is None:
        return True
    blended = {model for blend in run.blends.values() for model in blend.fits}
    for column in columns:
        if column == BLEND and part.column in blended:
            return True
        if column == part.column or column.removesuffix("_meta").removesuffix("_tta") == part.column:
            return True
        if column.endswith("_meta") and part.reads_metadata:
            return True
    return False


def _ordered(others: Scores, parts: Sequence[Part]) -> Scores:
    """Columns beside the plain ones in the order of the run's own predictions, network by network."""
    order = [part.column if part.reads_metadata else f"{part.column}_tta" for part in parts]
    return {column: others[column] for column in dict.fromkeys(order) if column in others}


def _chosen(wanted: Sequence[str], every: Sequence[str]) -> tuple[str, ...]:
    unknown = [column for column in wanted if column not in every]
    if unknown:
        raise UserError(f"there is no column {', '.join(unknown)} here; there are {', '.join(every)}")
    return tuple(column for column in every if column in wanted)


def _key(image: np.ndarray) -> int:
    """What the copies of an image are drawn from: its own pixels, so that no other image plays a part."""
    return int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little")


def _fits(every: Sequence[_Leaf], run: LoadedRun) -> bool:
    """Whether all networks together leave room in the memory of the device."""
    files = {part.weights for leaf in every for part in leaf.parts}
    needed = FACTOR * sum(file.stat().st_size for file in files if file.is_file())
    free = torch.cuda.mem_get_info(run.device.device)[0] if run.device.is_cuda else _free_memory()
    return needed < ROOM * free


def _free_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 8 << 30
