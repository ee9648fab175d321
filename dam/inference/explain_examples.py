"""Overlays of the example images of a run's report: where the network of the headline looked, beside each thumbnail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dam.errors import UserError
from dam.evaluation.predictions import read_predictions
from dam.files import atomic_path, atomic_write_text
from dam.inference.explain import Networks, overlay
from dam.inference.explain_maps import check_installed
from dam.inference.predict_decode import Decoder, Item
from dam.inference.predict_scores import Wanted
from dam.inference.run import LoadedRun, load_run
from dam.report.examples import FOLDER, OVERLAY, OVERLAY_COLUMNS, OVERLAYS
from dam.report.frames import csv_text
from dam.report.run_files import ANONYMIZED, RunFiles, read_run
from dam.report.tables import main_models

SIDE = 160  # pixels, at most: that of the thumbnails
ANOTHER = "not the picture that the run scored"
_CLOSE = 4.0  # gray levels, on average: what another version of Pillow may change in a thumbnail


@dataclass(frozen=True)
class Drawn:
    """``count`` overlays of ``total`` example images; ``lines``: what is to be said."""

    count: int
    total: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Overlay:
    """One row of explain.csv with its picture, uint8 (H, W, 3). ``empty``: no place raises the score."""

    row: dict[str, str]
    picture: np.ndarray
    empty: bool


def explain_examples(path: Path, device: str = "auto") -> Drawn:
    """Draw the overlay of every row of predictions/examples.csv for its label, by the run's headline model.

    The originals are read at the root that data.json names, with the run's own preprocessing; one that is gone, cannot
    be read or is not the picture of the thumbnail is counted. Overlays and their list are written into
    predictions/examples, each atomically, in place of those from before; where not one original is at hand, nothing is
    changed. Raises ``UserError`` for a run without example images (an ensemble keeps none), one whose network cannot be
    explained, and without the extra.
    """
    check_installed()
    files = read_run(path)
    if not files.examples:
        raise UserError(_no_examples(files))
    root = files.data.get("root")
    if not root:
        raise UserError(f"{path}/data.json does not say where the images lay, so no overlay can be drawn")
    run = load_run(path, device)
    model = main_models(next(iter(files.predictions.values())).models)[0]
    folder = path / "predictions" / FOLDER
    lost: dict[str, str] = {}
    made = list(_overlays(run, model, files.examples, Path(str(root)), folder, lost))
    if made:
        _write(folder, made)
    return Drawn(len(made), len(files.examples), tuple(_lines(made, files, lost, str(root))))


def _no_examples(files: RunFiles) -> str:
    if files.ensemble:
        members = [str(member.get("path")) for member in files.ensemble.get("members", ()) if isinstance(member, dict)]
        return (
            f"{files.path} is an ensemble, which keeps no example images to draw on; draw on its members' instead: "
            f"dam report {' '.join(members)} --explain"
        )
    why = "report.anonymize=true: no pictures" if ANONYMIZED in files.data else "predictions/examples.csv"
    return f"{files.path} keeps no example images ({why}), so --explain has nothing to draw on"


def _overlays(
    run: LoadedRun, model: str, rows: Sequence[dict[str, str]], root: Path, folder: Path, lost: dict[str, str]
) -> Iterator[_Overlay]:
    """Overlays label by label, so that the networks of one label are in memory at a time; fills ``lost``: image ->
    reason."""
    owner = _owners(run, rows)
    numbers: Counter[str] = Counter()
    for label in dict.fromkeys(row["label"] for row in rows):
        networks: dict[Path, Networks] = {}
        for row in (row for row in rows if row["label"] == label):
            drawer, who = owner(row)
            if drawer.path not in networks:
                networks[drawer.path] = Networks(drawer, model, Wanted())
            own = networks[drawer.path]
            numbers[row["file"]] += 1
            ready = Decoder(own.forms).ready(Item(row["image"], str(root / row["image"])))
            if ready.reason:
                lost[row["image"]] = ready.reason
                continue
            picture = _small(ready.forms[own.forms[0]])
            if not _same(picture, folder / row["file"]):
                lost[row["image"]] = ANOTHER
                continue
            heat, method = own.heat(ready.forms, label)
            size = picture.shape[1], picture.shape[0]
            shown = overlay(picture, cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR))
            name = _name(row["file"], numbers[row["file"]])
            known = {"image": row["image"], "label": label, "file": name}
            yield _Overlay({**known, "model": own.model, "networks": who, "method": method}, shown, not heat.any())


def _owners(run: LoadedRun, rows: Sequence[dict[str, str]]) -> Callable[[dict[str, str]], tuple[LoadedRun, str]]:
    """Row -> the run whose networks made its score, and words for them: in a cross-validation the mean of all folds
    scored test, and of a validation image the one fold that did not train on it."""
    if not run.folds:
        return lambda row: (run, "")
    fold_of: dict[str, LoadedRun] = {}
    if any(row["split"] == "val" for row in rows):
        for fold in run.folds:
            table = read_predictions(fold.path / "predictions" / "val.csv")
            fold_of |= dict.fromkeys(map(str, table.images), fold)

    def owner(row: dict[str, str]) -> tuple[LoadedRun, str]:
        if row["split"] == "val" and row["image"] in fold_of:
            return fold_of[row["image"]], "the fold that did not train on it"
        return run, f"mean over {len(run.folds)} folds"

    return owner


# ---------------------------------------------------------------- pictures


def _small(image: np.ndarray) -> np.ndarray:
    """uint8 (S, S, C) -> uint8 (H, W, 3) as the thumbnail was made, of at most SIDE pixels."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture.convert("RGB"))


def _same(picture: np.ndarray, thumbnail: Path) -> bool:
    """Whether it is the thumbnail's picture; where that is gone it is taken as it is."""
    from PIL import Image

    try:
        with Image.open(thumbnail) as image:
            known = np.asarray(image.convert("RGB"))
    except OSError:
        return True
    return known.shape == picture.shape and float(np.abs(known.astype(float) - picture).mean()) <= _CLOSE


def _name(thumbnail: str, number: int) -> str:
    """``03.png`` -> ``03_explain.png``, for a further label of the same image ``03_explain_2.png``."""
    return f"{Path(thumbnail).stem}_explain{f'_{number}' if number > 1 else ''}.png"


def _write(folder: Path, made: Sequence[_Overlay]) -> None:
    """The overlays, then their list, and away with those that it does not name."""
    from PIL import Image

    for one in made:
        # 256 colours suffice for so small a picture, and the report, which holds them all, stays small.
        picture = Image.fromarray(one.picture).quantize(256, dither=Image.Dither.NONE)
        with atomic_path(folder / one.row["file"]) as temporary:
            picture.save(temporary, format="PNG", optimize=True)
    atomic_write_text(folder / OVERLAYS, csv_text([one.row for one in made], OVERLAY_COLUMNS))
    named = {one.row["file"] for one in made}
    for file in folder.iterdir():
        if OVERLAY.fullmatch(file.name) and file.name not in named:
            file.unlink()


# ---------------------------------------------------------------- words


def _lines(made: Sequence[_Overlay], files: RunFiles, lost: dict[str, str], root: str) -> Iterator[str]:
    makers = dict.fromkeys((one.row["method"], one.row["model"], one.row["networks"]) for one in made)
    by = "; ".join(f"{method} of {model}{f', {who}' if who else ''}" for method, model, who in makers)
    total = len(files.examples)
    told = f"overlays: {len(made)} of {total} example images{f' ({by})' if by else ''}"
    yield f"{told}, in {files.path / 'predictions' / FOLDER}" if made else f"{told}; nothing was changed"
    empty = sum(one.empty for one in made)
    if empty:
        yield f"{empty} of them without colour: no place raises that score"
    if lost:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(lost.values()).most_common())
        yield f"without overlay: {len(lost)} original{'s' * (len(lost) != 1)} under {root} ({reasons})"
