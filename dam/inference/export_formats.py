"""The three files an export can be: ONNX, torch.export's archive, and bare weights with a JSON description."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dam.errors import UserError
from dam.files import atomic_write_text
from dam.inference.export_check import Score
from dam.inference.export_graph import ExportGraph, Recipe

FORMATS = ("onnx", "pt2", "safetensors")
METADATA = "dam"  # key of the JSON text in the file's metadata
_ONE_FILE = 1_900_000_000  # bytes of weights; protobuf, and so one ONNX file, ends at 2 GiB
_NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": (), "safetensors": ()}


def check_installed(form: str) -> None:
    """Raise ``UserError`` if a package that writing or checking ``form`` needs is missing."""
    absent = [name for name in _NEEDED[form] if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(f'--format {form} needs {" and ".join(absent)}: pip install "dam[export]"')


def write(form: str, file: Path, graph: ExportGraph, recipe: Recipe, facts: dict[str, Any]) -> list[Path]:
    """Write ``graph`` with ``facts`` as metadata; returns the files made, ``file`` first."""
    if form == "onnx":
        return _write_onnx(file, graph, recipe, facts)
    description = file.with_suffix(".json")
    if form == "pt2":
        text = {METADATA + ".json": json.dumps(facts)}
        with _quiet():
            torch.export.save(_exported(graph, recipe), file, extra_files=text)
    else:
        from safetensors.torch import save_file

        save_file(weights_of(graph, recipe), file, metadata={METADATA: json.dumps(facts)})
    atomic_write_text(description, json.dumps(facts, indent=2) + "\n")
    return [file, description]


def weights_of(graph: ExportGraph, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Tensors by name: ``[fold_k/]<stage>/<name in timm's state_dict>``."""
    state: dict[str, torch.Tensor] = {}
    for prefix, model in zip(prefixes(recipe), graph.models, strict=True):
        state |= {f"{prefix}/{name}": t.detach().contiguous().clone() for name, t in model.state_dict().items()}
    return state


def prefixes(recipe: Recipe) -> list[str]:
    """A name a network of the recipe: its stage, within its fold."""
    several = len({run.path for run, _ in recipe.parts}) > 1
    names = [f"{run.path.name}/{part.stage}" if several else part.stage for run, part in recipe.parts]
    if len(set(names)) == len(names):
        return names
    runs = list(dict.fromkeys(run.path for run, _ in recipe.parts))  # of an ensemble: their folders share a name
    return [f"{runs.index(run.path)}/{name}" for name, (run, _) in zip(names, recipe.parts, strict=True)]


def open_score(form: str, file: Path, graph: ExportGraph, recipe: Recipe) -> Score:
    """What the written file says of images, computed from the file alone (bare weights: laid into ``graph``)."""
    if form == "onnx":
        return _onnx_score(file)
    module: nn.Module = graph
    if form == "pt2":
        with _quiet():
            module = torch.export.load(file).module()
    else:
        from safetensors.torch import load_file

        state = load_file(file)
        for prefix, model in zip(prefixes(recipe), graph.models, strict=True):
            own = {name.removeprefix(f"{prefix}/"): t for name, t in state.items() if name.startswith(f"{prefix}/")}
            model.load_state_dict(own)

    def score(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            logits, chances = module(torch.from_numpy(images))
        return logits.numpy().astype(np.float64), chances.numpy().astype(np.float64)

    return score


def _onnx_score(file: Path) -> Score:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as many as PyTorch has, for the times beside one another
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def score(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, chances = session.run(["logits", "probabilities"], {"images": images})
        return logits.astype(np.float64), chances.astype(np.float64)

    return score


def _exported(graph: ExportGraph, recipe: Recipe) -> torch.export.ExportedProgram:
    run = recipe.parts[0][0]
    size = run.config.image_size
    example = torch.zeros(2, size, size, run.channels, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(graph, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


def _write_onnx(file: Path, graph: ExportGraph, recipe: Recipe, facts: dict[str, Any]) -> list[Path]:
    size = sum(t.numel() * t.element_size() for t in graph.state_dict().values())
    apart = size > _ONE_FILE
    with _quiet():
        program = torch.onnx.export(
            _exported(graph, recipe),
            dynamo=True,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch made no ONNX program")
    program.model.metadata_props[METADATA] = json.dumps(facts)
    program.save(str(file), external_data=apart)
    data = file.with_name(f"{file.name}.data")
    return [file, data] if data.exists() else [file]


def quantize(file: Path, images: np.ndarray) -> None:
    """Rewrite an ONNX file with convolutions and matrix products of 8-bit integers, ranges taken from ``images``.

    Heads stay in float32. Raises ``UserError`` for a file with its weights apart (over 2 GB).
    """
    if file.with_name(f"{file.name}.data").exists():
        raise UserError("--int8 takes exports of up to 1.9 GB of weights; export fewer labels, or use --half fp16")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    class Images:  # what onnxruntime calls a CalibrationDataReader
        def __init__(self) -> None:
            self.batches = iter([{"images": images[i : i + 8]} for i in range(0, len(images), 8)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    target = file.with_name(f"quantized_{file.name}")
    with _quiet():
        quantize_static(
            str(file),
            str(target),
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    target.replace(file)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root", "")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
