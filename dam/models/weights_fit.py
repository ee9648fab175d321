"""A checkpoint's tensors on a timm network: what is loaded, what is drawn anew, what is left out, or why not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dam.errors import UserError
from dam.models.weights import read_content, split_member
from dam.models.weights_known import Expected, expected_input, run_model
from dam.models.weights_layouts import Layout, anchored_prefix, choose_prefix, layout_words, open_layout
from dam.models.weights_shapes import Look, look_of

_LEAST_SHARE = 0.9
_MOST_DEEPER = 0.01  # of the network's tensors: more of the same modules in the file is another, deeper network
_FEW = 2  # tensors of a module are named one by one
_COUNTER = "num_batches_tracked"
# Tensors of other versions of a network that are no weights of it.
_NO_WEIGHTS = ("relative_position_index", "attn_mask", "relative_coords_table", "op_threshs", "mask_token", _COUNTER)


@dataclass(frozen=True)
class Report:
    """What came of a file: counts of the backbone's tensors, names, and what the file is."""

    path: Path
    sha256: str
    layout: str
    container: str
    prefix: str
    loaded: int
    total: int
    drawn: tuple[str, ...]
    left_out: tuple[str, ...]  # under the prefix first, then the rest of the file
    notes: tuple[str, ...]
    expected: Expected | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For the log and for ``dam weights inspect``."""
        under = f"under '{self.prefix}'" if self.prefix else "without a prefix"
        place = f"{self.layout}; {self.container}, {under}"
        return [
            f"{self.loaded} of {self.total} backbone tensors from {self.path} ({place})",
            f"newly drawn: the head{''.join(f', {name}' for name in self.drawn[:6])}{_more(self.drawn, 6)}",
            f"left out: {grouped(self.left_out)}",
            *self.notes,
        ]

    def as_facts(self) -> dict[str, Any]:
        """For environment.json."""
        return {
            "file_sha256": self.sha256,
            "layout": self.layout,
            "container": self.container,
            "prefix": self.prefix,
            "loaded": self.loaded,
            "of": self.total,
            "newly_drawn": list(self.drawn),
            "left_out": grouped(self.left_out),
            "notes": list(self.notes),
            "expects": self.expected.words if self.expected else None,
            **{key: self.facts[key] for key in ("arch", "epoch") if key in self.facts},
        }


@dataclass(frozen=True)
class Opened:
    """A file without a network beside it. ``prefix`` and ``look`` are None where it holds no known kind of network."""

    layout: Layout
    prefix: str | None
    look: Look | None

    @property
    def expected(self) -> Expected | None:
        """The input that the weights were trained on, None where the file does not say."""
        return expected_input(self.layout, self.prefix or "", self.look)

    @property
    def name(self) -> str | None:
        """timm's name of the network: by its shapes, else as the run or the file says, which may be anything."""
        return _name_of(self.layout, self.look)


def _name_of(layout: Layout, look: Look | None) -> str | None:
    if look is not None and look.name is not None:
        return look.name
    run = layout.content.run
    said = run_model(run).get("name") if run is not None else layout.facts.get("arch")
    return str(said) if said else None


def open_weights(text: str) -> Opened:
    """Open ``model.weights=TEXT`` and see which network it looks like. Raises ``UserError``."""
    path, wanted = split_member(text)
    layout = open_layout(read_content(path))
    prefix = anchored_prefix(layout, wanted)
    return Opened(layout, prefix, None if prefix is None else look_of(_shapes(_under(layout, prefix))))


def load_file(model: nn.Module, text: str, in_chans: int) -> Report:
    """Load the backbone's tensors from ``text`` (file, run directory, ``FILE::PREFIX``) into ``model``.

    ``model`` was created by timm without a head, for ``in_chans`` input channels. The first convolution is adapted by
    timm's rule (three to one: summed, so that a gray image gives what its three equal copies gave; one to three: a
    third each), a ViT's position embedding by timm's interpolation. Raises ``UserError`` if the file cannot be read, if
    under 90 % of the backbone's tensors are found with their shape, if it holds a deeper network of the same kind, or
    numbers that no network can use.
    """
    path, wanted = split_member(text)
    layout = open_layout(read_content(path))
    own = model.state_dict()
    prefix = choose_prefix(layout, own, wanted)
    state = _under(layout, prefix)
    notes = [*layout.notes, *_stem(model, state, own, in_chans), *_positions(model, state, own)]
    notes += _counters(state, own)
    fitting = {name: tensor for name, tensor in state.items() if name in own and _fits(tensor, own[name])}
    _check_fit(layout, model, state, fitting)
    others = {str(t.dtype).removeprefix("torch.") for t in fitting.values() if t.is_floating_point()} - {"float32"}
    if others:
        notes.append(f"{', '.join(sorted(others))} was turned into float32")
    fitting = {name: t.detach().float() if t.is_floating_point() else t for name, t in fitting.items()}
    notes += _check_numbers(layout.content.path, fitting)
    model.load_state_dict(fitting, strict=False)
    outside = [name for name in layout.state if not name.startswith(prefix)]
    return Report(
        layout.content.path,
        layout.content.sha256,
        layout_words(layout, prefix),
        layout.container,
        prefix,
        len(fitting),
        len(own),
        tuple(name for name in own if name not in fitting),
        tuple([name for name in state if name not in fitting] + outside),
        tuple(notes),
        expected_input(layout, prefix, look_of(_shapes(state))),
        layout.facts,
    )


# ---------------------------------------------------------------- adapting


def _stem(model: nn.Module, state: dict[str, Tensor], own: Mapping[str, Tensor], in_chans: int) -> list[str]:
    """The first convolution for another number of channels, in place."""
    from timm.models import adapt_input_conv

    first = getattr(model, "pretrained_cfg", {}).get("first_conv")
    stem = f"{first}.weight" if isinstance(first, str) else ""
    if stem not in state or stem not in own:
        return []
    theirs, ours = state[stem], own[stem]
    alike = theirs.ndim == ours.ndim == 4 and theirs.shape[0] == ours.shape[0] and theirs.shape[2:] == ours.shape[2:]
    if not alike or theirs.shape == ours.shape or hollow(theirs) or theirs.shape[1] > 4:
        return []
    channels = theirs.shape[1]
    state[stem] = adapt_input_conv(in_chans, theirs, base_chans=channels)
    rule = "summed over its channels" if in_chans == 1 else f"repeated and scaled by {channels}/{in_chans}"
    return [f"the first convolution ({stem}) was adapted from {channels} to {in_chans} channel(s): {rule}"]


def _positions(model: nn.Module, state: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """A ViT's absolute position embedding for another image size, in place."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    name, grid = "pos_embed", getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if name not in state or name not in own or grid is None:
        return []
    theirs, ours = state[name], own[name]
    extra = ours.shape[1] - grid[0] * grid[1]
    side = int(max(0, theirs.shape[1] - extra) ** 0.5) if theirs.ndim == 3 else 0
    square = side > 0 and side * side + extra == theirs.shape[1]
    if theirs.shape == ours.shape or not square or theirs.shape[2] != ours.shape[2] or hollow(theirs):
        return []
    state[name] = resample_abs_pos_embed(theirs, list(grid), [side, side], num_prefix_tokens=extra)
    return [f"the position embedding was interpolated from {side} x {side} to {grid[0]} x {grid[1]} patches (bicubic)"]


def _counters(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Files from before torch 0.4.1 count no batches: zeros, in place."""
    absent = [name for name in own if name.endswith(_COUNTER) and name not in state
              and f"{name.removesuffix(_COUNTER)}running_mean" in state]  # fmt: skip
    state |= {name: torch.zeros_like(own[name]) for name in absent}
    return [f"{len(absent)} {_COUNTER}, which the file lacks, were set to 0"] if absent else []


def hollow(tensor: Tensor) -> bool:
    """Whether a tensor claims more numbers than it has memory (a pickle may give any shape and stride)."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return True
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _fits(tensor: Tensor, own: Tensor) -> bool:
    same_kind = tensor.is_floating_point() == own.is_floating_point() and not tensor.is_complex()
    return tensor.shape == own.shape and same_kind and not tensor.is_quantized and not hollow(tensor)


# ---------------------------------------------------------------- checks


def _check_fit(layout: Layout, model: nn.Module, state: Mapping[str, Tensor], fitting: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    name = str(getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__)
    share = len(fitting) / max(1, len(own))
    look = look_of(_shapes(state))
    likeness = f"the file looks like {look.words}" if look else "the file looks like another kind of network"
    theirs = _name_of(layout, look)
    way = f"; take it with model.name={theirs}" if theirs and theirs.partition(".")[0] != name else ""
    if share < _LEAST_SHARE:
        missing = [key for key in own if key not in fitting]
        foreign = [key for key in layout.state if key not in fitting]
        raise UserError(
            f"model.weights={layout.content.path} fits only {share:.0%} of the {len(own)} backbone tensors of {name}: "
            f"{likeness}{way} (missing or of another shape e.g. {', '.join(missing[:3])}; in the file e.g. "
            f"{', '.join(foreign[:3]) or 'nothing else'})"
        )
    heads = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    modules = {key.split(".", 1)[0] for key in own}
    deeper = [
        key
        for key in state
        if key not in own
        and key.split(".", 1)[0] in modules
        and not key.startswith(tuple(f"{head}." for head in heads))
        and not key.endswith(_NO_WEIGHTS)
    ]
    if len(deeper) > _MOST_DEEPER * len(own):
        raise UserError(
            f"model.weights={layout.content.path} holds {len(deeper)} more tensors of the same modules than {name} has "
            f"(e.g. {', '.join(deeper[:3])}): {likeness}{way}"
        )


def _check_numbers(path: Path, fitting: Mapping[str, Tensor]) -> list[str]:
    """Numbers no network can use are refused; single channels that never spoke are told."""
    bad = [name for name, tensor in fitting.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise UserError(
            f"{path} holds NaN or infinite numbers in {len(bad)} tensors (e.g. {bad[0]}): its training diverged, or "
            "the file is damaged; take an earlier checkpoint"
        )
    variances = {name: tensor for name, tensor in fitting.items() if name.endswith("running_var")}
    broken = [name for name, tensor in variances.items() if bool((tensor < 0).any()) or not bool((tensor > 0).any())]
    if broken:
        raise UserError(
            f"{path} holds running variances that are not above 0 in {len(broken)} layers (e.g. {broken[0]}): it is no "
            "trained network, or damaged; take another checkpoint"
        )
    still = sum(int((tensor == 0).sum()) for tensor in variances.values())
    return [f"{still} channels have a running variance of 0: they never answered to an image"] if still else []


# ---------------------------------------------------------------- names


def grouped(names: Sequence[str]) -> str:
    """Names as counts of their modules, the first few: ``fc.weight, fc.bias, module.encoder_k.* (124)``."""
    if not names:
        return "nothing"
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(_module(name), []).append(name)
    words = [
        word
        for module, some in modules.items()
        for word in (some if len(some) <= _FEW else [f"{module}.* ({len(some)})"])
    ]
    return f"{len(names)}: {', '.join(words[:8])}{_more(words, 8)}"


def _module(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[: max(1, min(2, len(parts) - 1))])


def _more(names: Sequence[str], shown: int) -> str:
    return f" and {len(names) - shown} more" if len(names) > shown else ""


def _under(layout: Layout, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in layout.state.items() if name.startswith(prefix)}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
