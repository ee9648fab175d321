"""The network a stage begins with: its backbone's weights and its head; or the small network on metadata."""

from __future__ import annotations

from dataclasses import replace

from dam.config import Config
from dam.models.backbones import build_model, keep_head, redraw_head
from dam.models.normalization import input_normalization
from dam.training import checkpoint
from dam.training.device import Device
from dam.training.loop import StageTools
from dam.training.metadata import new_metadata_network
from dam.training.module import Network
from dam.training.plan import WARM_START, PlannedStage


def bare_network(cfg: Config, device: Device, channels: int, outputs: int, weights: str | None) -> Network:
    """A network of ``outputs`` logits on ``device``; ``weights`` as ``model.weights``, None if others follow."""
    model = build_model(replace(cfg.model, weights=weights), outputs, channels, cfg.image_size, cfg.seed)
    return Network(model, input_normalization(cfg.model, channels), device, cfg.compile)


def new_network(outputs: int, tools: StageTools, weights: str | None) -> Network:
    """``bare_network`` on the run's device and for its images."""
    return bare_network(tools.cfg, tools.device, tools.inputs.store.channels, outputs, weights)


def untrained_network(planned: PlannedStage, tools: StageTools) -> Network:
    """A network of the stage's kind and outputs, with drawn weights."""
    outputs = len(planned.spec.labels)
    return new_metadata_network(outputs, tools) if planned.reads_metadata else new_network(outputs, tools, None)


def disease_network(planned: PlannedStage, tools: StageTools) -> Network:
    """The network of a stage: fresh for the warm start, else its backbone with a redrawn or kept head.

    ``tools`` are those of ``metadata.tools_of`` for a metadata stage, here and below.
    """
    spec, cfg = planned.spec, tools.cfg
    if planned.reads_metadata:
        return untrained_network(planned, tools)
    if spec.name == WARM_START or cfg.warm_start is None:
        resumed = any((spec.folder / name).exists() for name in (checkpoint.NEWEST, checkpoint.BEFORE))
        return new_network(len(spec.labels), tools, None if resumed else cfg.model.weights)
    every = tools.inputs.table.labels
    state = checkpoint.load_weights(tools.run.stage(WARM_START) / f"{cfg.warm_start.take}.safetensors")
    network = new_network(len(every), tools, None)
    network.model.load_state_dict(state)
    redraw_head(network.model, len(spec.labels), cfg.seed)
    if planned.head == "keep":
        keep_head(network.model, state, [every.index(label) for label in spec.labels])
    network.to(tools.device.device)  # the head is new
    return network


def trained_network(planned: PlannedStage, tools: StageTools) -> Network:
    """The network of a finished stage with its chosen weights."""
    network = untrained_network(planned, tools)
    # The weights that the second part begins with are those of the warm start that it is compared with.
    take = tools.cfg.warm_start.take if planned.spec.name == WARM_START and tools.cfg.warm_start is not None else "best"
    network.model.load_state_dict(checkpoint.load_weights(planned.spec.folder / f"{take}.safetensors"))
    return network
