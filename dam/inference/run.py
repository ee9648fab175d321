"""A finished run as something that scores images: its networks, opened from the files of its directory alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from dam.compose import read_config
from dam.config import Config
from dam.errors import UserError, in_a_line
from dam.evaluation.calibration import Blend
from dam.models.backbones import build_model
from dam.models.metadata import MetadataEncoding, MetadataNetwork, mix_scores
from dam.report.run_files import refuse_pretraining
from dam.training import checkpoint, tta
from dam.training.device import Device, resolve
from dam.training.inputs import Inputs
from dam.training.metadata import ENCODING
from dam.training.module import Network, infer
from dam.training.networks import bare_network
from dam.training.plan import METADATA, WARM_START
from dam.training.rundir import DONE, resume_command

if TYPE_CHECKING:
    import pandas as pd

    from dam.inference.predict import Image

BLEND = "blend"

Scores = dict[str, np.ndarray]  # model column -> (rows, K) logits


@dataclass(frozen=True)
class Part:
    """One trained network of a run: its stage's folder, the model column and the labels it fills, and its weights."""

    stage: str  # warm_start, auc/edema, control/edema, metadata/auc/edema
    column: str
    labels: tuple[str, ...]
    weights: Path

    @property
    def reads_metadata(self) -> bool:
        """True for a network on metadata columns instead of images."""
        return self.stage.startswith(f"{METADATA}/")


@dataclass(frozen=True)
class LoadedRun:
    """A finished run. Nothing is read from its images or its table: the directory may have moved to another machine.

    ``labels``: those of the table it was trained on, in its order. ``channels``: of the images it takes (1 or 3), of
    ``config.image_size`` pixels. ``encoding``: of its metadata columns, None without a metadata network. ``parts`` is
    empty where the run is a cross-validation; then ``folds`` holds its runs, and its logits are their mean. An ensemble
    has ``members``, which may take other images than one another, and ``combine``: from the members' scores, each in
    its own labels' order, to those of ``own_columns``.
    """

    path: Path
    config: Config
    labels: tuple[str, ...]
    channels: int
    device: Device
    parts: tuple[Part, ...]
    blends: dict[str, Blend]  # label -> blend
    encoding: MetadataEncoding | None = None
    folds: tuple[LoadedRun, ...] = ()
    members: tuple[LoadedRun, ...] = ()
    combine: Callable[[Sequence[Scores]], Scores] | None = None
    own_columns: tuple[str, ...] = ()
    only: tuple[str, ...] = ()  # of a member: the columns that the ensemble needs of it; empty for all

    @property
    def inner(self) -> tuple[LoadedRun, ...]:
        """The runs whose scores make this one's: folds or members; empty for a single run."""
        return self.folds or self.members

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """Columns of the table that its metadata networks read; empty without one."""
        if self.inner:
            return tuple(dict.fromkeys(name for run in self.inner for name in run.metadata_columns))
        return tuple(column.name for column in self.encoding.columns) if self.encoding is not None else ()

    @property
    def trained(self) -> tuple[str, ...]:
        """Those of ``labels`` that one of its networks was trained on."""
        known = {label for run in self.inner for label in run.trained}
        known |= {label for part in self.parts for label in part.labels}
        return tuple(label for label in self.labels if label in known)

    @property
    def columns(self) -> tuple[str, ...]:
        """The model columns of its own predictions, in their order."""
        return self.columns_with(None, metadata=True)

    def columns_with(self, copies: int | None, metadata: bool) -> tuple[str, ...]:
        """The model columns of predictions with ``copies`` augmented copies (None: as its config says), and with or
        without its metadata columns at hand."""
        if self.members:
            return self.own_columns
        if self.folds:
            several = [fold.columns_with(copies, metadata) for fold in self.folds]
            return tuple(column for column in several[0] if all(column in other for other in several))
        parts = self.parts if metadata else [part for part in self.parts if not part.reads_metadata]
        plain: Scores = {part.column: np.zeros((0, len(self.labels))) for part in parts if not part.reads_metadata}
        others: Scores = {}
        for part in parts:
            if part.reads_metadata:
                others[part.column] = np.zeros((0, len(self.labels)))
            elif self.config.tta.copies if copies is None else copies:
                others[f"{part.column}_tta"] = plain[part.column]
        return tuple(self.assembled(plain, others, 0))

    def predict(
        self,
        images: Sequence[Image],
        tta: int | None = None,
        batch_size: int | None = None,
        metadata: Mapping[str, Sequence[Any]] | None = None,
        model: str | None = None,
    ) -> pd.DataFrame:
        """Score images: the same engine as `dam predict`.

        ``images``: paths (also ``archive.zip::member``), uint8 arrays (H, W), (H, W, 1) or (H, W, 3) RGB, Pillow
        images, or a mix. ``tta``: augmented copies an image; None as the run's config, 0 off. ``batch_size``: images at
        a time; None: twice that of training. ``metadata``: columns of one value an image (``metadata_columns``).
        ``model``: whose probability and decision are given; None: ``ensemble`` or ``auc`` where there is one, else the
        report's first.

        Returns one row an image and trained label: image (the path, or ``#0``, ``#1``...), label, one column a model
        (logits), probability (calibrated on validation; NaN where the run has no calibration), decision (1 or 0 at the
        threshold chosen on validation, <NA> without one) and problem: why an image could not be read (its scores are
        then NaN), else "". ``attrs["notes"]`` says what else was noticed. Raises ``UserError``.
        """
        from dam.inference.predict import predict_images

        return predict_images(self, images, tta, batch_size, metadata, model)

    def network(self, part: Part) -> Network:
        """The network of a part with its weights, on the device, in evaluation mode."""
        if part.reads_metadata and self.config.metadata is not None and self.encoding is not None:
            model = MetadataNetwork(self.config.metadata, self.encoding.width, len(part.labels), self.config.seed)
            network = Network(model, nn.Identity(), replace(self.device, autocast_dtype=None), compiled=False)
        else:
            network = bare_network(self.config, self.device, self.channels, len(part.labels), None)
        try:
            network.model.load_state_dict(checkpoint.load_weights(part.weights))
        except RuntimeError as error:
            raise UserError(
                f"{part.weights} does not fit the network of config.yaml ({self.config.model.name}): it was made by "
                "another version, or changed by hand"
            ) from error
        return network.eval()

    def networks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[Part, Network]]:
        """Every part with its network, one after the other, so that only one is in memory; of these columns only."""
        for part in self.parts:
            if columns is None or part.column in columns:
                yield part, self.network(part)

    def combined(self, several: Sequence[Scores]) -> Scores:
        """The scores of a cross-validation or ensemble from those of its runs, in their order."""
        if self.combine is not None:
            return self.combine(several)
        shared = [column for column in several[0] if all(column in one for one in several)]
        return {column: np.mean([one[column] for one in several], axis=0) for column in shared}

    def logits(self, inputs: Inputs, rows: np.ndarray, augmented: bool = True) -> Scores:
        """Scores of ``rows`` of ``inputs``: model column -> float64 (rows, K) in the order of ``labels``.

        The columns are those of the run's own predictions, made in the same way: warm_start, auc, ce, blend, then with
        test-time augmentation (if the run has it, unless ``augmented=False``) and mixed with metadata (where the table
        of ``inputs`` has the run's metadata columns). All are logits; a label that a column does not have is NaN. In a
        cross-validation every column is the mean over the folds of their logits. ``inputs`` needs images of
        ``config.image_size`` and ``channels``; it may have other labels, or none.
        """
        if self.inner:
            taken = {(run.config.image_size, run.channels) for run in self.inner}
            if len(taken) > 1:
                raise UserError(
                    f"{self.path}: its members take images of several sizes or colours, which one image store does not "
                    "hold; score the images with `dam predict` and judge that table"
                )
            return self.combined([run.logits(inputs, rows, augmented) for run in self.inner])
        plain: Scores = {}
        others: Scores = {}
        copies = augmented and self.config.tta.copies > 0
        size = 2 * self.config.batch_size
        for part, network in self.networks():
            if part.reads_metadata:
                frame = inputs.table.frame
                if set(self.metadata_columns) <= set(frame.columns):
                    features = self.features({name: frame[name].tolist() for name in self.metadata_columns})
                    loader = replace(inputs, features=features).loader(rows, ())
                    self.put(others, part, part.column, infer(network, loader, len(rows), size))
                continue
            self.put(plain, part, part.column, infer(network, inputs.loader(rows, ()), len(rows), size))
            if copies:
                settings = self.config.tta
                loader = tta.copies_of(self.config, inputs, rows)
                mean = tta.averaged(network, loader, len(rows), size, settings.copies, settings.average, part.stage)
                self.put(others, part, f"{part.column}_tta", mean)
        return self.assembled(plain, others, len(rows))

    def assembled(self, plain: Scores, others: Scores, count: int) -> Scores:
        """All columns of ``count`` rows, in the order of the run's predictions, from those that its networks give:
        ``plain`` ones and, in ``others``, augmented and metadata columns. A blend or mix needs all it is made of."""
        needed = {model for blend in self.blends.values() for model in blend.fits}
        blend = {BLEND: self._blended(plain, count)} if self.blends and needed <= set(plain) else {}
        return {**plain, **blend, **others, **self._mixes(plain | others)}

    def put(self, scores: Scores, part: Part, column: str, logits: np.ndarray) -> None:
        """Fill the labels of one network in its model's (rows, K) array; the others' stay NaN until theirs come."""
        into = scores.setdefault(column, np.full((len(logits), len(self.labels)), np.nan))
        into[:, [self.labels.index(label) for label in part.labels]] = logits

    def features(self, metadata: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """float32 (rows, F): metadata columns as the run encodes them."""
        if self.encoding is None:
            raise ValueError("the run has no metadata network")
        return np.ascontiguousarray(self.encoding.encode(metadata))

    def _blended(self, scores: Scores, count: int) -> np.ndarray:
        values = np.full((count, len(self.labels)), np.nan)
        for k, label in enumerate(self.labels):
            if label in self.blends:
                values[:, k] = self.blends[label].apply({model: s[:, k] for model, s in scores.items()})
        return values

    def _mixes(self, scores: Scores) -> Scores:
        """Each second-part model with the metadata network of its objective."""
        by_stage = {part.stage: part.column for part in self.parts}
        pairs = {by_stage[part.stage.removeprefix(f"{METADATA}/")]: part.column
                 for part in self.parts if part.reads_metadata and part.column in scores}  # fmt: skip
        weight = self.config.metadata.weight if self.config.metadata is not None else 0.0
        return {
            f"{image}{copies}_meta": mix_scores(scores[f"{image}{copies}"], scores[metadata], weight)
            for copies in ("", "_tta")
            for image, metadata in pairs.items()
            if f"{image}{copies}" in scores
        }


def load_run(path: Path | str, device: str = "auto", precision: str | None = None) -> LoadedRun:
    """Open a finished run from its directory.

    ``device`` as the config's key (the run may have been trained elsewhere); ``precision`` None takes the run's where
    this device has it. Raises ``UserError`` if ``path`` is no run, is not finished, or a file of it is damaged.
    """
    path = Path(os.path.expanduser(path))  # noqa: PTH111  Path's own raises for ~ and no user's name
    if not path.is_dir():
        what = "is a file" if path.is_file() else "does not exist"
        raise UserError(f"{path} {what}; give a run directory such as outputs/NAME/DATE_TIME (`dam runs` lists them)")
    from dam.inference.ensemble import open_ensemble, read_ensemble

    ensemble = read_ensemble(path)
    if ensemble is not None:
        return open_ensemble(ensemble, device, precision)
    config = _config(path)
    chosen = precision or config.precision
    resolved = resolve(_placed(config, device, chosen))
    config = replace(config, compile=False)
    return _open(path, config, resolved)


def _open(path: Path, config: Config, device: Device) -> LoadedRun:
    facts = _json(path / "data.json")
    labels = tuple(str(label) for label in facts.get("labels", ()))
    if not labels:
        raise UserError(f"{path}/data.json is damaged: it names no labels; put back a copy of it")
    fold_paths = sorted(path.glob("fold_*"), key=lambda p: int(p.name[5:]) if p.name[5:].isdigit() else 0)
    if fold_paths:
        folds = tuple(_open(p, replace(_config(p), compile=False), device) for p in fold_paths)
        return LoadedRun(path, config, labels, folds[0].channels, device, (), {}, folds=folds)
    parts = tuple(_parts(path, config))
    for part in parts:
        unknown = [label for label in part.labels if label not in labels]
        if unknown:
            raise UserError(f"{path / part.stage / DONE} names {unknown[0]}, which is no label of {path}/data.json: "
                            "the run was changed by hand")  # fmt: skip
        if not part.weights.is_file():
            raise UserError(
                f"the weights {part.weights} cannot be read (no such file); put back a copy of the file, or train anew"
            )
    file = path / METADATA / ENCODING
    encoding = MetadataEncoding.from_json(file.read_text("utf-8", "replace")) if file.is_file() else None
    return LoadedRun(path, config, labels, _channels(parts, config), device, parts, _blends(path), encoding)


def _config(path: Path) -> Config:
    file = path / "config.yaml"
    if not file.is_file():
        raise UserError(f"{path} is no run directory: it has no config.yaml; give the folder that `dam train` printed")
    refuse_pretraining(path)
    config = read_config(file)
    if not any((path / "predictions" / f"{split}.csv").is_file() for split in ("val", "test")):
        raise UserError(f"{path} is not finished: it has no predictions yet; go on with `{resume_command(path)}`")
    return config


def _placed(config: Config, device: str, precision: str) -> Config:
    placed = replace(config, device=device, precision=precision)  # type: ignore[arg-type]
    if precision != "fp16":
        return placed
    import torch

    return placed if torch.cuda.is_available() and device != "cpu" else replace(placed, precision="auto")


def _parts(path: Path, config: Config) -> Iterator[Part]:
    """Every stage of the run, in the order they were trained."""
    take = config.warm_start.take if config.warm_start is not None else "best"
    folders = [path / WARM_START] if (path / WARM_START).is_dir() else []
    for part in ("auc", "control", f"{METADATA}/auc", f"{METADATA}/control"):
        folders += sorted(f for f in (path / part).iterdir() if f.is_dir()) if (path / part).is_dir() else []
    for folder in folders:
        if not (folder / DONE).is_file():
            raise UserError(f"{folder} is not finished; go on with `{resume_command(path)}`")
        facts = _json(folder / DONE)
        if "column" not in facts or "labels" not in facts:
            raise UserError(f"{folder / DONE} names no column and labels: it is of another version of dam, or damaged")
        name = take if folder.name == WARM_START else "best"
        stage = folder.relative_to(path).as_posix()
        yield Part(stage, str(facts["column"]), tuple(facts["labels"]), folder / f"{name}.safetensors")


def _channels(parts: Sequence[Part], config: Config) -> int:
    """Colour channels of the run's images: the count with which its first network takes its weights."""
    if not parts:
        raise UserError("the run holds no trained network")
    shapes = {name: tensor.shape for name, tensor in checkpoint.load_weights(parts[0].weights).items()}
    for channels in (3, 1):
        model = build_model(replace(config.model, weights=None), len(parts[0].labels), channels, config.image_size, 0)
        if {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes:
            return channels
    raise UserError(f"{parts[0].weights} does not fit model.name={config.model.name}: the run was changed by hand")


def _blends(path: Path) -> dict[str, Blend]:
    file = path / "predictions" / "blend.json"
    if not file.is_file():
        return {}
    try:
        return {label: Blend.from_dict(content) for label, content in _json(file).items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({in_a_line(error)}); put back a copy of it") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({in_a_line(error)}); put back a copy of it") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it should hold a mapping; put back a copy of it")
    return content
