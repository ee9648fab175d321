"""All networks that make one model column of a run, in one module: uint8 images in, logits and probabilities out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dam.errors import UserError
from dam.evaluation.fitted import Fitted
from dam.inference.run import BLEND, LoadedRun, Part
from dam.models.normalization import normalization_facts


@dataclass(frozen=True)
class Term:
    """A summand of the logits: ``weight[k]`` times the output number ``index[k]``, plus ``bias[k]``, for label k."""

    index: tuple[int, ...]
    weight: tuple[float, ...]
    bias: tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """What makes ``model``: the parts of the run (and of its folds) in the order of their outputs, and the terms."""

    model: str
    labels: tuple[str, ...]
    parts: tuple[tuple[LoadedRun, Part], ...]
    terms: tuple[Term, ...]


def models_of(run: LoadedRun) -> tuple[str, ...]:
    """The model columns that can be exported, the one to take first: auc, its control, the warm start; then blend."""
    if run.members:
        return run.own_columns[:1]
    first = run.folds[0] if run.folds else run
    columns = list(dict.fromkeys(part.column for part in first.parts if not part.reads_metadata))
    columns.sort(key=lambda column: {"auc": 0, "warm_start": 2}.get(column, 1))
    return (*columns, *([BLEND] if first.blends else []))


def recipe_of(run: LoadedRun, model: str) -> Recipe:
    """How ``model`` is made of the run's networks. Raises ``UserError`` for a column that cannot be exported."""
    known = models_of(run)
    if model not in known:
        raise UserError(f"--model {model}: {why_not(model)}; choose one of {', '.join(known)}")
    if run.members:
        from dam.inference.ensemble_export import ensemble_recipe

        return ensemble_recipe(run)
    runs = run.folds or (run,)
    labels = tuple(label for label in run.labels if all(label in _labels_of(one, model) for one in runs))
    if not labels:
        raise UserError(f"--model {model}: no label of {run.path} has it")
    parts: list[tuple[LoadedRun, Part]] = []
    terms: list[Term] = []
    for one in runs:
        terms += terms_of(one, model, labels, parts, 1 / len(runs))
    return Recipe(model, labels, tuple(parts), tuple(terms))


def why_not(model: str) -> str:
    """Why a column cannot be exported."""
    if model.startswith("metadata") or model.endswith("_meta"):
        return "it reads metadata columns, and an exported file takes images alone"
    if model.endswith("_tta"):
        return "it averages random copies of an image, and an exported file makes no copies"
    return "the run has no such model"


def _labels_of(run: LoadedRun, model: str) -> set[str]:
    if model == BLEND:
        return set(run.blends)
    return {label for part in run.parts if part.column == model for label in part.labels}


def terms_of(
    run: LoadedRun, model: str, labels: Sequence[str], parts: list[tuple[LoadedRun, Part]], share: float
) -> list[Term]:
    """The terms of one run, which get ``share`` of the sum; adds the parts they need to ``parts``."""
    columns = [model]
    if model == BLEND:
        columns = list(dict.fromkeys(name for label in labels for name in run.blends[label].fits))
    terms = []
    for column in columns:
        output = sum(len(part.labels) for _, part in parts)
        place = {}
        for part in run.parts:
            if part.column == column and set(part.labels) & set(labels):
                place.update({label: output + i for i, label in enumerate(part.labels)})
                output += len(part.labels)
                parts.append((run, part))
        scales = [_scale(run, model, column, label) for label in labels]
        index = tuple(place.get(label, 0) for label in labels)
        terms.append(Term(index, tuple(a * share for a, _ in scales), tuple(b * share for _, b in scales)))
    return terms


def _scale(run: LoadedRun, model: str, column: str, label: str) -> tuple[float, float]:
    """Factor and summand of a column's logit in one run's model."""
    if model != BLEND:
        return 1.0, 0.0
    fits = run.blends[label].fits
    if column not in fits:
        return 0.0, 0.0
    return fits[column].slope / len(fits), fits[column].intercept / len(fits)


class ExportGraph(nn.Module):
    """uint8 images (N, S, S, C) -> float32 logits (N, K) and calibrated probabilities (N, K).

    Normalization is inside. A label without a calibration has NaN probabilities. With ``half`` the features are
    computed in float16; heads, sums and calibration stay in float32, for logits rounded to float16 would tie.
    """

    slope: Tensor
    intercept: Tensor

    def __init__(self, recipe: Recipe, calibration: Fitted, half: bool = False) -> None:
        super().__init__()
        networks = [run.network(part) for run, part in recipe.parts]
        kinds = [str(normalization_facts(run.config.model, run.channels)) for run, _ in recipe.parts]
        self.kinds = [list(dict.fromkeys(kinds)).index(kind) for kind in kinds]  # of normalization, a network
        self.normalizations = nn.ModuleList(networks[kinds.index(kind)].normalization for kind in dict.fromkeys(kinds))
        self.models = nn.ModuleList(network.model for network in networks)
        self.half_features = half
        self.terms = len(recipe.terms)
        for i, term in enumerate(recipe.terms):
            self.register_buffer(f"index_{i}", torch.tensor(term.index))
            self.register_buffer(f"weight_{i}", torch.tensor(term.weight))
            self.register_buffer(f"bias_{i}", torch.tensor(term.bias))
        fits = [calibration.get(recipe.model, label) for label in recipe.labels]
        usable = [fit if fit is not None and fit.usable else None for fit in fits]
        slopes = [math.nan if fit is None else fit.slope for fit in usable]
        intercepts = [math.nan if fit is None else fit.intercept + fit.shift for fit in usable]
        self.register_buffer("slope", torch.tensor(slopes))
        self.register_buffer("intercept", torch.tensor(intercepts))
        self.to(memory_format=torch.contiguous_format)
        self.eval().requires_grad_(False)
        if half:
            for network in networks:
                _halve(network.model, network.normalization, recipe)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        inputs = [normalization(images) for normalization in self.normalizations]
        pairs = zip(self.models, self.kinds, strict=True)
        outputs = torch.cat([self._outputs(model, inputs[kind]) for model, kind in pairs], dim=1)
        logits = torch.zeros_like(self.slope).unsqueeze(0)
        for i in range(self.terms):
            chosen = outputs.index_select(1, self.get_buffer(f"index_{i}"))
            logits = logits + chosen * self.get_buffer(f"weight_{i}") + self.get_buffer(f"bias_{i}")
        return logits, torch.sigmoid(logits * self.slope + self.intercept)

    def _outputs(self, model: nn.Module, x: Tensor) -> Tensor:
        features = model.forward_features(x.half() if self.half_features else x)  # type: ignore[operator]
        logits: Tensor = model.forward_head(features.float())  # type: ignore[operator]
        return logits


def _halve(model: nn.Module, normalization: nn.Module, recipe: Recipe) -> None:
    """float16 weights for all that ``forward_features`` uses; what only the head uses stays in float32."""
    run = recipe.parts[0][0]
    touched: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: touched.add(module)) for module in model.modules()]
    size = run.config.image_size
    with torch.inference_mode():
        model.forward_features(normalization(torch.zeros(1, size, size, run.channels, dtype=torch.uint8)))  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    model.half()
    for module in model.modules():
        if not list(module.children()) and module not in touched:
            module.float()
