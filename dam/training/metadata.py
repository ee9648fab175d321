"""Metadata stages: the run's encoding of its columns, and tools whose inputs are features instead of images.

The loop, its loaders' interface, losses and selection are those of every stage (``stage.py``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from dam.files import atomic_write_text
from dam.models.metadata import MetadataEncoding, MetadataNetwork
from dam.training.distributed import is_main, main_first
from dam.training.loop import StageTools
from dam.training.module import Network
from dam.training.plan import METADATA, PlannedStage, learned_encoding
from dam.training.rundir import RunDirectory

ENCODING = "encoding.json"  # in <run>/metadata, beside the stages


def load_encoding(run: RunDirectory) -> MetadataEncoding:
    """The encoding of a run with metadata stages. Raises ``UserError`` if it is damaged."""
    return MetadataEncoding.from_json((run.path / METADATA / ENCODING).read_text(encoding="utf-8", errors="replace"))


def tools_of(planned: PlannedStage, tools: StageTools) -> StageTools:
    """The tools a stage works with: for a metadata stage its inputs are features, in float32 and not compiled.

    The encoding is learned from the training rows when it is first needed, and kept.
    """
    if not planned.reads_metadata or tools.cfg.metadata is None:
        return tools
    file, frame = tools.run.path / METADATA / ENCODING, tools.inputs.table.frame
    columns = tools.cfg.metadata.columns
    with main_first():
        if is_main() and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(file, learned_encoding(columns, tools.inputs).to_json())
    features = load_encoding(tools.run).encode({name: frame[name].tolist() for name in columns})
    model = replace(tools.cfg.model, freeze=[], lr_scale={})  # those name parameters of the image network
    return replace(
        tools,
        cfg=replace(tools.cfg, model=model, compile=False),
        inputs=replace(tools.inputs, features=np.ascontiguousarray(features)),
        device=replace(tools.device, autocast_dtype=None),
    )


def new_metadata_network(outputs: int, tools: StageTools) -> Network:
    """A drawn network on the features of ``tools`` (from ``tools_of``); auc and control begin alike."""
    cfg, features = tools.cfg, tools.inputs.features
    if cfg.metadata is None or features is None:
        raise ValueError("a metadata network needs the tools of a metadata stage")
    model = MetadataNetwork(cfg.metadata, features.shape[1], outputs, cfg.seed)
    return Network(model, nn.Identity(), tools.device, compiled=False)
