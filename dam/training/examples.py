"""The example images of a run's report, as small PNGs in predictions/examples (format: ``dam.report.examples``)."""

from __future__ import annotations

import numpy as np

from dam.evaluation.predictions import read_predictions
from dam.files import atomic_path, atomic_write_text
from dam.report.examples import COLUMNS, FOLDER, choose_examples, per_kind
from dam.report.frames import csv_text
from dam.training.inputs import Inputs
from dam.training.rundir import RunDirectory

SIDE = 160  # pixels, at most


def write_examples(run: RunDirectory, inputs: Inputs) -> None:
    """Write ``predictions/examples/*.png`` and ``examples.csv`` from the test predictions, or validation's without.

    The pictures are those of the image store, so already resized; they hold patients' images as the store does, so an
    anonymized run keeps none.
    """
    if inputs.pseudonyms is not None:
        return
    split = next((s for s in ("test", "val") if (run.predictions / f"{s}.csv").is_file()), None)
    if split is None:
        return
    table = read_predictions(run.predictions / f"{split}.csv")
    rows = choose_examples(table, table.labels, per_kind(len(table.labels)))
    place = {name: row for row, name in enumerate(inputs.names(np.arange(len(inputs.table))))}
    images = [name for name in dict.fromkeys(row["image"] for row in rows) if name in place]
    if not images:
        return
    folder = run.predictions / FOLDER
    folder.mkdir(exist_ok=True)
    pixels = inputs.store.take(inputs.store_rows[[place[name] for name in images]])
    files = {name: f"{number:02d}.png" for number, name in enumerate(images)}
    for name, picture in zip(images, pixels, strict=True):
        _write(np.asarray(picture), folder / files[name])
    kept = [{**row, "file": files[row["image"]], "split": split} for row in rows if row["image"] in files]
    atomic_write_text(run.predictions / "examples.csv", csv_text(kept, COLUMNS))


def _write(picture: np.ndarray, path: object) -> None:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) as a PNG of at most SIDE pixels a side."""
    from PIL import Image

    image = Image.fromarray(picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    with atomic_path(str(path)) as temporary:
        image.save(temporary, format="PNG", optimize=True)
