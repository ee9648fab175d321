"""Overlays of predictions: for an image and a label, where the network that scored it looked, as PNG with an index."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from dam.errors import UserError
from dam.files import atomic_path, atomic_write_text
from dam.inference.explain_maps import Maps, check_installed
from dam.inference.predict import Predicted
from dam.inference.predict_decode import Decoder, Form, Item, form_of
from dam.inference.predict_files import safe_name
from dam.inference.predict_scores import Wanted
from dam.inference.run import BLEND, LoadedRun, Part

__all__ = ["Explain", "check_installed", "check_wish", "explain_table"]

INDEX = "explain.csv"
COLUMNS = ("image", "label", "file", "model", "method", "score", "probability")
SIDE = 320  # pixels of each of the two pictures, at least
OPACITY = 0.6  # of the hottest place
_STRIP = 26  # pixels of the line of words


@dataclass(frozen=True)
class Explain:
    """``label`` None: each image's most probable one. ``most``: of the first so many images."""

    folder: Path
    label: str | None
    most: int


@dataclass(frozen=True)
class Explained:
    """The overlays that were written."""

    folder: Path
    index: Path
    count: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Case:
    """An image and the label to explain, with what the table says of them."""

    image: str
    label: str
    score: float
    probability: float


def check_wish(run: LoadedRun, wish: Explain) -> None:
    """Raise ``UserError``, before anything is scored, for a label that the run does not have and a folder that is
    none."""
    if wish.label is not None and wish.label not in run.trained:
        raise UserError(f"--explain-label {wish.label}: the run was trained on {', '.join(run.trained)}")
    if wish.folder.exists() and not wish.folder.is_dir():
        raise UserError(f"--explain={wish.folder} is a file; name a folder")


def explain_table(run: LoadedRun, done: Predicted, wish: Explain, wanted: Wanted) -> Explained:
    """Write ``<folder>/NNN_<image>_<label>.png`` for the first images of a table that was just made, and explain.csv.

    Each PNG shows what the network saw and the same under the map. Overlays that an earlier call listed are replaced.
    """
    cases = _cases(done, wish)
    networks = Networks(run, done.judge.model, wanted)
    wish.folder.mkdir(parents=True, exist_ok=True)
    _clear(wish.folder)
    items = _items(done, cases)
    decoder = Decoder(networks.forms)
    rows, silent = [], 0
    for number, case in enumerate(cases):
        ready = decoder.ready(items[case.image])
        if ready.reason:  # it could be read a moment ago
            continue
        heat, method = networks.heat(ready.forms, case.label)
        silent += not heat.any()
        name = f"{number:03d}_{_slug(Path(case.image).stem)}_{_slug(case.label)}.png"
        _write(wish.folder / name, ready.forms[networks.forms[0]], heat, _words(case, networks.model, method))
        rows.append(
            [case.image, case.label, name, networks.model, method, _number(case.score), _number(case.probability)]
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    atomic_write_text(wish.folder / INDEX, text.getvalue())
    return Explained(wish.folder, wish.folder / INDEX, len(rows), tuple(_notes(networks, done, rows, silent)))


def _notes(networks: Networks, done: Predicted, rows: Sequence[Sequence[str]], silent: int) -> Iterator[str]:
    methods = ", ".join(dict.fromkeys(row[4] for row in rows))
    grids = ", ".join(dict.fromkeys(f"{r} x {c}" for r, c in networks.grids()))
    if networks.model != done.judge.model:
        yield f"overlays show the networks of {networks.model}, since {done.judge.model} has none of its own"
    yield f"overlays: {methods}, maps of {grids} places enlarged"
    if "rollout" in methods:
        yield "attention rollout shows where a network looks, not what speaks for a label"
    if silent:
        yield f"{silent} overlays are empty: no place raises that score"


# ---------------------------------------------------------------- networks


class Networks:
    """The networks behind one model column, by label; loaded when they are first asked for."""

    def __init__(self, run: LoadedRun, model: str, wanted: Wanted) -> None:
        found = list(_sources(run, model))
        self._sources = [(leaf, part) for leaf, column in found for part in leaf.parts if part.column == column]
        if not self._sources:
            raise UserError(f"{model} has no network that looks at images; choose another --model")
        columns = list(dict.fromkeys(part.column for _, part in self._sources))
        self.model = " and ".join(columns)
        self._forms = {id(leaf): form_of(leaf, wanted.window) for leaf, _ in self._sources}
        self._maps: dict[Path, Maps] = {}

    @cached_property
    def forms(self) -> tuple[Form, ...]:
        """The forms of images that are needed, the largest first."""
        return tuple(sorted(dict.fromkeys(self._forms.values()), key=lambda form: -form.size))

    def heat(self, images: Mapping[Form, np.ndarray], label: str) -> tuple[np.ndarray, str]:
        """float32 (S, S) in [0, 1] and the method: the mean over the networks of this label."""
        size = self.forms[0].size
        heats: list[np.ndarray] = []
        methods: dict[str, None] = {}
        for leaf, part in self._sources:
            if label not in part.labels:
                continue
            maps = self._of(leaf, part)
            heat = maps(images[self._forms[id(leaf)]][None], part.labels.index(label))[0]
            heats.append(cv2.resize(heat, (size, size), interpolation=cv2.INTER_LINEAR))
            methods[maps.method] = None
        if not heats:
            raise UserError(f"{self.model} has no network for {label}; choose another --explain-label or --model")
        return np.asarray(np.mean(heats, axis=0, dtype=np.float32)), ", ".join(methods)

    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of the maps before they were enlarged."""
        return [maps.grid for maps in self._maps.values()]

    def _of(self, leaf: LoadedRun, part: Part) -> Maps:
        if part.weights not in self._maps:
            self._maps[part.weights] = Maps(leaf.network(part), leaf.config.image_size, leaf.channels)
        return self._maps[part.weights]


def _sources(run: LoadedRun, model: str) -> Iterator[tuple[LoadedRun, str]]:
    """Single runs and the column of each that a model column is made of; of a blend its AUC model alone."""
    if run.members:
        for name, member in zip(run.own_columns[1:], run.members, strict=True):
            if model in (run.own_columns[0], name):
                yield from _sources(member, member.only[0])
        return
    if run.folds:
        for fold in run.folds:
            yield from _sources(fold, model)
        return
    base = model.removesuffix("_meta").removesuffix("_tta")
    columns = [part.column for part in run.parts if not part.reads_metadata]
    if base == BLEND:
        base = "auc" if "auc" in columns else columns[-1]
    if base in columns:
        yield run, base


# ---------------------------------------------------------------- cases


def _cases(done: Predicted, wish: Explain) -> list[_Case]:
    """The first images of the table, each with its label."""
    found: dict[str, list[_Case]] = {}
    with open(done.out, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["image"] not in found and len(found) == wish.most:
                break
            score, probability = (float(row[name] or "nan") for name in (done.judge.model, "probability"))
            if not math.isnan(score) and wish.label in (None, row["label"]):
                found.setdefault(row["image"], []).append(_Case(row["image"], row["label"], score, probability))
    return [max(cases, key=_confidence) for cases in found.values()]


def _confidence(case: _Case) -> tuple[float, float]:
    return (-1.0 if math.isnan(case.probability) else case.probability, case.score)


def _items(done: Predicted, cases: Sequence[_Case]) -> dict[str, Item]:
    wanted = {case.image for case in cases}
    found: dict[str, Item] = {}
    for entry in done.listing.entries():
        name = safe_name(entry.name)
        if name in wanted:
            found[name] = Item(entry.name, entry.locator)
            if len(found) == len(wanted):
                break
    return found


def _clear(folder: Path) -> None:
    """Remove the overlays that an earlier index lists, and nothing else."""
    index = folder / INDEX
    if not index.is_file():
        return
    with open(index, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row.get("file") or ""
            if re.fullmatch(r"\d{3,}_[A-Za-z0-9_-]*\.png", name):
                (folder / name).unlink(missing_ok=True)


# ---------------------------------------------------------------- pictures


def _write(path: Path, image: np.ndarray, heat: np.ndarray, words: str) -> None:
    """The image (uint8 (S, S, C)) and, beside it, the same under ``heat`` (S, S), with a line of words above."""
    from PIL import Image, ImageDraw, ImageFont

    side = max(SIDE, image.shape[0])
    rgb = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    large = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_LINEAR)
    warm = cv2.resize(heat, (side, side), interpolation=cv2.INTER_LINEAR)
    both = np.concatenate([large, overlay(large, warm)], axis=1)
    picture = Image.new("RGB", (2 * side, side + _STRIP), "white")
    picture.paste(Image.fromarray(both), (0, _STRIP))
    ImageDraw.Draw(picture).text((6, 5), words, fill="black", font=ImageFont.load_default(14))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) under ``heat`` (H, W) in [0, 1]: clear where there is none, so that the image stays readable."""
    import matplotlib

    colours = matplotlib.colormaps["YlOrRd"](heat)[..., :3] * 255
    opacity = OPACITY * np.clip(heat, 0, 1)[..., None]
    return np.asarray(np.rint(image * (1 - opacity) + colours * opacity).astype(np.uint8))


def _words(case: _Case, model: str, method: str) -> str:
    told = f"p = {case.probability:.3f}" if not math.isnan(case.probability) else f"score {case.score:.3f}"
    return f"{case.label}: {told}  ({model}, {method})"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60].strip("_") or "image"


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
