"""The network a stage begins with: its backbone's weights and its head."""

from __future__ import annotations

from dam.config import Config
from dam.models.backbones import InputNormalization, build_model, input_statistics, keep_head, redraw_head
from dam.training import checkpoint
from dam.training.module import Network
from dam.training.plan import WARM_START, PlannedStage
from dam.training.rundir import RunDirectory
from dam.training.stage import StageTools


def new_network(cfg: Config, outputs: int, tools: StageTools) -> Network:
    """A network with the config's initial weights and ``outputs`` logits, on the run's device."""
    channels = tools.inputs.store.channels
    model = build_model(cfg.model, outputs, channels, cfg.image_size, cfg.seed)
    normalization = InputNormalization(*input_statistics(cfg.model, channels))
    network = Network(model, normalization, tools.device, cfg.compile)
    tools.device.place(network, model, cfg.image_size)
    return network


def disease_network(cfg: Config, run: RunDirectory, planned: PlannedStage, tools: StageTools) -> Network:
    """The network of a stage: fresh for the warm start, else its backbone with a redrawn or kept head."""
    spec = planned.spec
    if spec.name == WARM_START or cfg.warm_start is None:
        return new_network(cfg, len(spec.labels), tools)
    every = tools.inputs.table.labels
    state = checkpoint.load_weights(run.stage(WARM_START) / f"{cfg.warm_start.take}.safetensors")
    network = new_network(cfg, len(every), tools)
    network.model.load_state_dict(state)
    redraw_head(network.model, len(spec.labels), cfg.seed)
    if planned.head == "keep":
        keep_head(network.model, state, [every.index(label) for label in spec.labels])
    network.to(tools.device.device)
    return network


def trained_network(cfg: Config, planned: PlannedStage, tools: StageTools) -> Network:
    """The network of a finished stage with its chosen weights."""
    network = new_network(cfg, len(planned.spec.labels), tools)
    network.model.load_state_dict(checkpoint.load_weights(planned.spec.folder / "best.safetensors"))
    return network
