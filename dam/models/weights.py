"""Weights from a local file into a backbone, without executing anything the file holds, and never in silence."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dam.errors import UserError, in_a_line

log = logging.getLogger("dam")

_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model")
_WRAPPERS = ("module.", "_orig_mod.")
_LEAST_SHARE = 0.9


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a torch checkpoint (``weights_only=True``), wrappers' prefixes removed.

    Raises ``UserError`` if the file is missing, damaged, holds more than tensors and plain values, or no tensors.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "warm_start" / "best.safetensors"
    if not path.is_file():
        raise UserError(f"model.weights: there is no file {path}; give a local file, `timm`, or null")
    content: Any
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_safetensors

        try:
            content = load_safetensors(path)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} cannot be read as safetensors ({error}); it may be damaged: copy it again"
            ) from error
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for damaged or unsafe pickles
            raise UserError(
                f"{path} cannot be loaded safely ({why_not_loaded(error)}). It is damaged or holds more than tensors "
                "and plain values; load it where you trust it, keep its tensors, and save them with "
                "safetensors.torch.save_file"
            ) from error
    state = _tensors(content)
    if not state:
        raise UserError(f"{path} holds no tensors under any of: top level, {', '.join(_CONTAINERS)}")
    return {_unwrapped(name): tensor for name, tensor in state.items()}


def why_not_loaded(error: Exception) -> str:
    """Why ``torch.load(weights_only=True)`` refused a file, without torch's advice to load it all the same."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"it asks for {named[1]}, which no tensor needs"
    if "weights only load failed" in str(error).lower():
        return "it holds more than tensors and plain values, or is damaged"
    if isinstance(error, EOFError):
        return "it is empty or cut off"
    return "it is no file of torch.save" if isinstance(error, LookupError) else in_a_line(error)


def load_file(model: nn.Module, path: str, in_chans: int) -> None:
    """Load the backbone tensors of ``path`` into ``model`` (created without a head), and log what came of each.

    The first convolution is adapted to ``in_chans`` by timm's rule (three to one: sum over the channels, so that a
    gray image gives what its three equal copies gave). Raises ``UserError`` if under 90 % of the backbone's tensors
    are found with their shape.
    """
    from timm.models import adapt_input_conv

    state = read_state(path)
    own = model.state_dict()
    first = getattr(model, "pretrained_cfg", {}).get("first_conv")
    stem = f"{first}.weight" if isinstance(first, str) else ""
    if stem in state and stem in own and state[stem].ndim == 4 and state[stem].shape != own[stem].shape:
        state[stem] = adapt_input_conv(in_chans, state[stem])
        log.info("weights: the first convolution was adapted to %d channel(s)", in_chans)
    fitting = {name: tensor for name, tensor in state.items() if name in own and tensor.shape == own[name].shape}
    share = len(fitting) / max(1, len(own))
    missing = [name for name in own if name not in fitting]
    foreign = [name for name in state if name not in fitting]
    if share < _LEAST_SHARE:
        raise UserError(
            f"model.weights={path} fits only {share:.0%} of the backbone's {len(own)} tensors (missing e.g. "
            f"{', '.join(missing[:3])}; in the file e.g. {', '.join(foreign[:3]) or 'nothing else'}): "
            "is model.name right?"
        )
    model.load_state_dict(fitting, strict=False)
    log.info(
        "weights: %d of %d backbone tensors from %s; left out of the file: %s; newly drawn: %s",
        *(len(fitting), len(own), path, ", ".join(foreign[:6]) or "nothing", ", ".join(missing[:6]) or "nothing"),
    )


def _tensors(content: Any, depth: int = 0) -> dict[str, Tensor]:
    if not isinstance(content, dict) or depth > 2:
        return {}
    for key in _CONTAINERS:
        inner = _tensors(content.get(key), depth + 1)
        if inner:
            return inner
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name
