"""Scoring new images with a finished run: streamed into a CSV table, or in memory as a DataFrame."""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dam.errors import UserError
from dam.inference.images import Asked, Listing, list_images
from dam.inference.predict_decode import Block, Decoder, Item, default_workers
from dam.inference.predict_files import FORMAT, Partial, Summary, check_out, failed_name, own_files
from dam.inference.predict_scores import Scorer, Wanted
from dam.inference.predict_table import FIRST, LAST, Judge, make_judge
from dam.inference.run import LoadedRun
from dam.training.interrupt import Interrupted, StopRequest

if TYPE_CHECKING:
    import os

    import pandas as pd
    from PIL.Image import Image as PillowImage

    Image = str | os.PathLike[str] | np.ndarray | PillowImage

_LINE_SECONDS = 60.0  # between lines of progress where there is no terminal


@dataclass(frozen=True)
class Wish:
    """What the user asked for. ``wanted.metadata`` is found out from the images."""

    asked: Asked
    out: Path
    model: str | None = None
    wanted: Wanted = field(default_factory=Wanted)
    restart: bool = False


@dataclass(frozen=True)
class Predicted:
    """The tables that were written, with what must be said of them."""

    out: Path
    failed: Path
    summary: Summary
    judge: Judge
    notes: tuple[str, ...]
    seconds: float
    made: int  # images scored by this call; others were there from one before
    listing: Listing


def predict_files(run: LoadedRun, wish: Wish) -> Predicted:
    """Score what is asked for and write ``wish.out`` (image, label, a column a model, probability, decision).

    Work goes on where an earlier, identical call stopped. Memory does not grow with the number of images. Raises
    ``UserError``, and ``Interrupted`` after SIGINT or SIGTERM, with all finished blocks kept.
    """
    began = time.perf_counter()
    check_out(wish.out)
    asked = replace(wish.asked, ours=(*wish.asked.ours, *own_files(wish.out)))
    listing = list_images(asked, run.metadata_columns, wish.out.parent)
    has_metadata = bool(listing.metadata)
    wanted = replace(wish.wanted, metadata=has_metadata)
    scorer = Scorer(run, wanted)
    judge = make_judge(run, scorer.columns, wish.model)
    partial = Partial(wish.out, _facts(run, wish, wanted, judge, listing), wish.restart)
    try:
        before = partial.done
        if partial.resumed:
            print(f"going on after {before} of {listing.count} images", file=sys.stderr)
        _score(scorer, judge, listing, partial, wanted.workers)
        made = partial.done - before
        summary = partial.finish(wish.out, failed_name(wish.out), [*FIRST, *scorer.columns, *LAST])
    finally:
        partial.close()
    notes = [*judge.notes, *_metadata_notes(run, has_metadata, wish.asked), *_listing_notes(listing)]
    notes += remark_notes(summary.remarks or Counter())
    return Predicted(
        wish.out, failed_name(wish.out), summary, judge, tuple(notes), time.perf_counter() - began, made, listing
    )


def _score(scorer: Scorer, judge: Judge, listing: Listing, partial: Partial, workers: int) -> None:
    items = (Item(e.name, e.locator, e.metadata, e.skip) for e in listing.entries(partial.done))
    blocks = Decoder(scorer.forms).blocks(items, scorer.block_size, workers, partial.done)
    with StopRequest() as stop, _Progress(listing.count, partial.done) as progress:
        try:
            for block in blocks:
                scores = _of_block(scorer, block, listing.metadata)
                rows = judge.rows([item.name for item in block.items], scores) if scores else ()
                partial.add(block.start, block.stop, rows, block.failed, block.remarks)
                progress.update(block.stop - block.start)
                if stop.requested and block.stop < listing.count:
                    raise Interrupted
        finally:
            blocks.close()  # type: ignore[attr-defined]


def _of_block(scorer: Scorer, block: Block, columns: Sequence[str]) -> dict[str, np.ndarray]:
    if not block.items:
        return {}
    metadata = {name: [item.metadata[i] for item in block.items] for i, name in enumerate(columns)}
    return scorer.score(block.pixels, metadata or None)


def _facts(run: LoadedRun, wish: Wish, wanted: Wanted, judge: Judge, listing: Listing) -> dict[str, Any]:
    """What makes two commands the same: run, images, options that change a number. Not the size of a batch."""
    return {
        "run": identity(run),
        "images": listing.digest,
        "model": judge.model,
        "columns": list(judge.columns),
        "tta": wanted.copies,
        "data.window": wanted.window,
        "device": f"{run.device.device.type} {run.device.autocast_dtype or 'float32'}",
        "table": FORMAT,
    }


def identity(run: LoadedRun) -> str:
    """A digest of what the scores and decisions of a run depend on: its config, fits, and weights by size and time."""
    digest = hashlib.sha256()
    for name in ("config.yaml", "data.json", "ensemble.json", "predictions/calibration.json", "predictions/blend.json"):
        file = run.path / name
        digest.update(file.read_bytes() if file.is_file() else b"")
    for part in run.parts:
        status = part.weights.stat()
        digest.update(f"{part.stage} {part.column} {status.st_size} {status.st_mtime_ns}".encode())
    for inner in run.inner:
        digest.update(identity(inner).encode())
    return digest.hexdigest()


# ---------------------------------------------------------------- what must be said


def _metadata_notes(run: LoadedRun, given: bool, asked: Asked) -> Iterator[str]:
    if not run.metadata_columns or given:
        return
    names = ", ".join(run.metadata_columns)
    where = f"{asked.csv} does not have all of" if asked.csv is not None else "give a --csv with"
    yield f"scored without metadata: {where} the columns {names}, which the run's metadata network reads"


def _listing_notes(listing: Listing) -> Iterator[str]:
    if listing.repeated:
        yield f"{_images(listing.repeated)} named more than once: scored once"
    if listing.hidden:
        what = "file or folder" if listing.hidden == 1 else "files and folders"
        yield f"{listing.hidden} hidden {what} (names that begin with a dot) left out"


def remark_notes(remarks: Counter[str]) -> Iterator[str]:
    """A line a kind of image that is not what the network was trained on, or was read in a way worth saying."""
    for remark, count in sorted(remarks.items()):
        yield f"{_images(count)}: {remark}"


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


class _Progress:
    """A bar with images a second and the time left on a terminal, a line a minute elsewhere."""

    def __init__(self, total: int, initial: int) -> None:
        from tqdm import tqdm

        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=initial, desc="predict", unit="image", disable=not self._terminal)
        self._total, self._initial, self._done = total, initial, initial
        self._began = self._said = time.perf_counter()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, images: int) -> None:
        self._done += images
        self._bar.update(images)
        now = time.perf_counter()
        if not self._terminal and now - self._said >= _LINE_SECONDS:
            self._said = now
            rate = (self._done - self._initial) / (now - self._began)
            left = (self._total - self._done) / rate
            print(
                f"{self._done} of {self._total} images, {rate:.1f} images/s, {left / 60:.0f} min left", file=sys.stderr
            )


# ---------------------------------------------------------------- in memory


def predict_images(
    run: LoadedRun,
    images: Iterable[Image],
    tta: int | None,
    batch_size: int | None,
    metadata: Mapping[str, Sequence[Any]] | None,
    model: str | None,
) -> pd.DataFrame:
    """``LoadedRun.predict``: a row an image and label, images that cannot be read with NaN and their problem."""
    import pandas as pd

    columns = _checked_metadata(run, metadata)
    _check_numbers(tta, batch_size)
    wanted = Wanted(tta, None, batch_size, bool(columns), None, default_workers())
    scorer = Scorer(run, wanted)
    judge = make_judge(run, scorer.columns, model)
    items = _items(images, columns)
    frames, remarks = [], Counter[str]()
    for block in Decoder(scorer.forms).blocks(items, scorer.block_size, wanted.workers):
        frames.append(_frame(judge, block, _of_block(scorer, block, tuple(columns))))
        remarks.update(block.remarks)
    if not frames:
        raise UserError("predict was given no images")
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs["notes"] = [*judge.notes, *remark_notes(remarks)]
    frame.attrs["model"] = judge.model
    return frame


def _check_numbers(tta: int | None, batch_size: int | None) -> None:
    for name, value, least in (("tta", tta, 0), ("batch_size", batch_size, 1)):
        if value is not None and (not isinstance(value, int | np.integer) or value < least):
            raise UserError(f"{name}={value!r}: a whole number >= {least}, or None")


def _checked_metadata(run: LoadedRun, metadata: Mapping[str, Sequence[Any]] | None) -> dict[str, Sequence[Any]]:
    if metadata is None:
        return {}
    lacking = [name for name in run.metadata_columns if name not in metadata]
    if not run.metadata_columns or lacking:
        reads = ", ".join(run.metadata_columns) or "none: it has no metadata network"
        raise UserError(f"metadata has the columns {', '.join(metadata) or 'none'}; the run reads {reads}")
    return {name: list(metadata[name]) for name in run.metadata_columns}


def _items(images: Iterable[Image], metadata: Mapping[str, Sequence[Any]]) -> Iterator[Item]:
    import os

    if isinstance(images, str | os.PathLike):
        raise UserError("predict takes a list of images: write [path], or use `dam predict` for folders")
    for number, image in enumerate(images):
        short = [name for name, values in metadata.items() if len(values) <= number]
        if short:
            raise UserError(f"metadata column {short[0]} has {len(metadata[short[0]])} values, fewer than images")
        values = tuple(column[number] for column in metadata.values())
        if isinstance(image, str | os.PathLike):
            path = os.fspath(image)
            yield Item(path, str(Path(path).expanduser()), values)
            continue
        if isinstance(image, np.ndarray):
            _check_array(number, image)
        elif not hasattr(image, "getexif"):
            raise UserError(f"image {number} is a {type(image).__name__}: give a path, a uint8 array or a Pillow image")
        yield Item(f"#{number}", image, values)


def _check_array(number: int, image: np.ndarray) -> None:
    colours = image.shape[2:] in ((), (1,), (3,))
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not colours or 0 in image.shape:
        raise UserError(
            f"image {number} is an array of {image.dtype} {image.shape}: give uint8, (H, W) or (H, W, 1) for gray or "
            "(H, W, 3) for RGB"
        )


def _frame(judge: Judge, block: Block, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """One block in the order it was given; the rows of what could not be read hold NaN."""
    import pandas as pd

    count, width = block.stop - block.start, len(judge.labels)
    good = [i for i in range(count) if i not in block.problems]
    named = dict(zip(good, (item.name for item in block.items), strict=True))
    named |= dict(zip(block.problems, (name for name, _, _ in block.failed), strict=True))

    def spread(values: np.ndarray) -> np.ndarray:
        wide = np.full((count, width), np.nan)
        wide[good] = values
        return wide.ravel()

    content: dict[str, Any] = {
        "image": [named[i] for i in range(count) for _ in range(width)],
        "label": list(judge.labels) * count,
    }
    kept = judge.kept(scores) if scores else {}
    none = np.zeros((0, width))
    content |= {column: spread(kept.get(column, none)) for column in judge.columns}
    content["probability"] = spread(judge.probabilities(scores) if scores else none)
    decision = spread(judge.decisions(scores) if scores else none)
    content["decision"] = pd.array(decision, dtype="Float64").astype("Int8")
    content["problem"] = [block.problems.get(i, "") for i in range(count) for _ in range(width)]
    return pd.DataFrame(content)
