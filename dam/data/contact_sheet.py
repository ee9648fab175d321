"""A picture to look at before training: some images of each class of each label, as a run will see them.

What no count shows is seen here: inverted or black images, wrong labels, burnt-in text, two kinds of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dam.data.readers import ImageError, ImageReader
from dam.data.store_build import fit_image
from dam.data.table import ImageTable
from dam.files import atomic_path

LABELS, COLUMNS, TILE = 6, 8, 144  # labels shown, images a class, pixels a side
_MARGIN, _HEAD, _CAPTION = 10, 26, 34
_TRIES = 3  # images drawn a place, for those that cannot be read
_INK, _FAINT, _PAPER = (25, 25, 25), (110, 110, 110), (255, 255, 255)


def write_contact_sheet(path: Path, table: ImageTable, reader: ImageReader, fit: str, seed: int) -> int:
    """Write a PNG with a row of up to ``COLUMNS`` images for the positives and one for the negatives of each of the
    first ``LABELS`` labels, captioned with label, split and patient, and return how many images are on it.

    Images are drawn by ``seed``, from each split in turn; ``fit`` is ``data.fit``. Unreadable ones are passed over.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows = [(label, value) for label in table.labels[:LABELS] for value in (1, 0)]
    height = _HEAD + TILE + _CAPTION + _MARGIN
    sheet = Image.new("RGB", (_MARGIN + COLUMNS * (TILE + _MARGIN), 2 * _HEAD + len(rows) * height), _PAPER)
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(11)
    more = f", the first {LABELS} of {len(table.labels)} labels" if len(table.labels) > LABELS else ""
    title = f"{table.name}: {len(table):,} images{more}; drawn at random from each split, fit={fit}"
    draw.text((_MARGIN, 8), _plain(title, 150), _INK, font)
    shown = 0
    for number, (label, value) in enumerate(rows):
        top = 2 * _HEAD + number * height
        candidates = _class_rows(table, label, value)
        head = f"{label}: {'positive' if value else 'negative'} ({len(candidates):,} images)"
        draw.text((_MARGIN, top), _plain(head, 120), _INK, font)
        for place, (row, tile) in enumerate(_tiles(table, candidates, reader, fit, seed)):
            left = _MARGIN + place * (TILE + _MARGIN)
            sheet.paste(Image.fromarray(tile), (left, top + _HEAD))
            split, patient = (str(table.frame[column].iloc[row]) for column in ("split", "patient"))
            below = top + _HEAD + TILE + 2
            draw.text((left, below), _plain(f"{label} = {value}, {split}", 25), _INK, small)
            draw.text((left, below + 14), _plain(patient, 25, end=True), _FAINT, small)
            shown += 1
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")
    return shown


def _class_rows(table: ImageTable, label: str, value: int) -> np.ndarray:
    values = table.frame[label].to_numpy(dtype=np.float64)
    known = ~np.isnan(values) & (values >= 0)
    return np.flatnonzero(known & ((values >= 0.5) == bool(value)))


def _tiles(
    table: ImageTable, candidates: np.ndarray, reader: ImageReader, fit: str, seed: int
) -> list[tuple[int, np.ndarray]]:
    found: list[tuple[int, np.ndarray]] = []
    for row in _drawn(table.frame["split"].to_numpy(), candidates, COLUMNS * _TRIES, seed):
        if len(found) == COLUMNS:
            break
        try:
            image = reader.read(table.frame["image"].iloc[row])
        except ImageError:
            continue
        found.append((row, fit_image(image, TILE, fit)))
    return found


def _drawn(splits: np.ndarray, candidates: np.ndarray, count: int, seed: int) -> list[int]:
    """Up to ``count`` rows in random order, from each split in turn."""
    order = np.random.default_rng(seed).permutation(candidates)
    places: dict[str, int] = {}
    ranks = []
    for row in order.tolist():
        rank = places.get(splits[row], 0)
        places[splits[row]] = rank + 1
        ranks.append(rank)
    chosen: Sequence[int] = order[np.argsort(ranks, kind="stable")[:count]].tolist()
    return list(chosen)


def _plain(text: str, most: int, end: bool = False) -> str:
    """One line of at most ``most`` characters: of a path its end tells more."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return f"…{line[-(most - 1) :]}" if end else f"{line[: most - 1]}…"
