"""Where the backbone lies in a checkpoint: container keys, prefixes, old names, and who writes files like that.

``open_layout`` finds the dict of tensors and brings its names to today's; ``choose_prefix`` finds the network in it.
Nothing here needs the network: that is ``weights_fit``. Layouts: MoCo v1/v2/v3, MoCo-CXR, CovidPrognosis, VISSL, DINO,
lightly, solo-learn, SimCLR, MAE, LibAUC, torchxrayvision, torchvision, timm.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dam.errors import UserError, printable
from dam.models.weights import Content
from dam.models.weights_pickles import Inert, module_tensors

# Averages and teachers come before what they average.
CONTAINERS = (
    "state_dict_ema",
    "model_ema",
    "teacher",
    "state_dict",
    "model_state_dict",
    "model_state",
    "classy_state_dict",
    "base_model",
    "model",
    "trunk",
    "student",
    "network",
    "net",
    "encoder",
    "backbone",
)
_DEEPEST = 6
_LONGEST = 200  # characters of a name
_TAKEN = {"encoder_q", "base_encoder", "teacher", "teacher_backbone", "backbone", "encoder", "online_encoder", "trunk"}
_AVOIDED = {
    "encoder_k",
    "momentum_encoder",
    "encoder_momentum",
    "backbone_momentum",
    "momentum_backbone",
    "student",
    "student_backbone",
    "target_encoder",
    "key_encoder",
}
# torch < 0.4 and early torchvision: `denselayer1.norm.1.weight`.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.)(norm|relu|conv)\.([12])\.")
# Sequential(*resnet.children()) numbers what torchvision names; a DenseNet's first child is `features`.
_RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
ANCHORS = ("features.conv0.weight", "layer1.0.conv1.weight", "patch_embed.proj.weight")  # one a whole network


@dataclass(frozen=True)
class Layout:
    """The dict of tensors that a file holds, under today's names; ``where`` are the keys that lead to it."""

    content: Content
    where: tuple[str, ...]
    state: dict[str, Tensor]
    keys: frozenset[str]  # of the top level
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def container(self) -> str:
        """The keys as they would be typed, "top level" where there are none."""
        return " -> ".join(self.where) or "top level"


def open_layout(content: Content) -> Layout:
    """Find the tensors of ``content``. Raises ``UserError`` if there are none."""
    where, state = _find(content.tree, (), set())
    if not state:
        known = ", ".join(CONTAINERS[:6])
        raise UserError(f"{content.path} holds no tensors at its top level or under {known}...: it is {_kind(content)}")
    keys = frozenset(map(str, content.tree)) if isinstance(content.tree, dict) else frozenset()
    state, notes = _todays_names(state)
    return Layout(content, where, state, keys, notes, _facts(content.tree))


def _find(node: Any, where: tuple[str, ...], seen: set[int]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The keys that lead to tensors, and these by name. ``seen`` are the mappings that held none."""
    if isinstance(node, Inert):
        return (*where, "module"), {_name(name): tensor for name, tensor in module_tensors(node)}
    if not isinstance(node, dict) or len(where) > _DEEPEST or id(node) in seen:
        return where, {}
    seen.add(id(node))
    for key in CONTAINERS:
        found = _find(dict.get(node, key), (*where, key), seen)
        if found[1]:
            return found
    return where, {_name(name): tensor for name, tensor in dict.items(node) if isinstance(tensor, Tensor)}


def _name(key: Any) -> str:
    """A tensor's name as it may be shown; of networks they are short and plain."""
    return printable(str(key)[:_LONGEST])


def _todays_names(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    notes = []
    renamed = {_OLD_DENSENET.sub(r"\1\2\3.", name): tensor for name, tensor in state.items()}
    if renamed.keys() != state.keys():
        notes.append("names of an early torchvision DenseNet (denselayer1.norm.1) were brought to today's")
    stems = [name.removesuffix("4.0.conv1.weight") for name in renamed if name.endswith("4.0.conv1.weight")]
    for stem in stems:
        if f"{stem}0.weight" in renamed and f"{stem}7.0.conv1.weight" in renamed:
            renamed = {_numbered(name, stem, _RESNET_CHILDREN): tensor for name, tensor in renamed.items()}
            notes.append("a ResNet cut into numbered parts got its names back (0 = conv1, 4 = layer1, ...)")
    for name in [name for name in renamed if name.endswith(".conv0.weight") and "features" not in name.split(".")]:
        stem, number = name.removesuffix(".conv0.weight").rpartition(".")[::2]
        head = f"{stem}." if stem else ""
        if number == "0" and f"{head}0.denseblock1.denselayer1.conv1.weight" in renamed:
            renamed = {_numbered(name, head, {"0": "features"}): tensor for name, tensor in renamed.items()}
            notes.append("a DenseNet cut into numbered parts got its names back (0 = features)")
    return renamed, tuple(notes)


def _numbered(name: str, stem: str, names: Mapping[str, str]) -> str:
    if not name.startswith(stem):
        return name
    number, dot, rest = name[len(stem) :].partition(".")
    return f"{stem}{names.get(number, number)}{dot}{rest}"


def _facts(tree: Any) -> dict[str, Any]:
    """Epoch and architecture where the file says them."""
    if not isinstance(tree, dict):
        return {}
    facts: dict[str, Any] = {}
    for key in ("epoch", "arch", "model_name", "global_step"):
        if isinstance(dict.get(tree, key), int | str):
            facts["arch" if key == "model_name" else key] = dict.get(tree, key)
    arguments = dict.get(tree, "args")
    settings = arguments.state if isinstance(arguments, Inert) else arguments
    if "arch" not in facts and isinstance(settings, dict):
        said = (dict.get(settings, key) for key in ("arch", "model"))
        named = next((value for value in said if isinstance(value, str)), None)
        facts |= {"arch": named} if named else {}
    return {key: value if isinstance(value, int) else printable(value[:80]) for key, value in facts.items()}


def _kind(content: Content) -> str:
    tree = content.tree
    if isinstance(tree, Inert):
        return f"an object of {tree.stands_for}"
    if not isinstance(tree, dict):
        return f"a {type(tree).__name__}"
    return f"a mapping of {', '.join(map(_name, list(tree)[:6])) or 'nothing'}"[:200]


# ---------------------------------------------------------------- prefix


def prefixes(state: Collection[str], names: Collection[str]) -> Counter[str]:
    """Every prefix under which names of the network occur, with how many of them do."""
    wanted, counts = frozenset(names), Counter[str]()
    for key in state:
        for prefix in _heads(key):
            if key[len(prefix) :] in wanted:
                counts[prefix] += 1
    return counts


def choose_prefix(layout: Layout, names: Collection[str], wanted: str | None) -> str:
    """The prefix of the network whose tensors are called ``names``; ``wanted`` is the user's (with or without its dot).

    encoder_q, teacher and backbone come before encoder_k, student and momentum copies, by whole dotted parts. Raises
    ``UserError`` where ``wanted`` does not occur, or where several remain.
    """
    counts = prefixes(layout.state, names)
    if wanted is not None:
        prefix = f"{wanted.rstrip('.')}." if wanted.strip(".") else ""
        if not any(name.startswith(prefix) for name in layout.state):
            some = (
                ", ".join(f"'{known}'" if known else "names without a prefix" for known, _ in counts.most_common(3))
                or "none"
            )
            raise UserError(f"{layout.content.path} has no tensor whose name begins with '{prefix}'; it has {some}")
        return prefix
    if not counts:
        return ""
    most = max(counts.values())
    found = [prefix for prefix, count in counts.items() if count >= 0.9 * most]
    return preferred(found, layout)


def anchored_prefix(layout: Layout, wanted: str | None) -> str | None:
    """The prefix of a ResNet, DenseNet or ViT without knowing which; None where the file holds none of them."""
    if wanted is not None:
        return choose_prefix(layout, ANCHORS, wanted)
    found = [name.removesuffix(anchor) for anchor in ANCHORS for name in layout.state if name.endswith(anchor)]
    found = [prefix for prefix in dict.fromkeys(found) if not prefix or prefix.endswith(".")]
    return preferred(found, layout) if found else None


def preferred(found: list[str], layout: Layout) -> str:
    """The one of several prefixes to take. Raises ``UserError`` where the names do not say."""
    remaining = [prefix for prefix in found if not _AVOIDED & set(prefix.split("."))] or found
    if len(remaining) > 1:
        remaining = [prefix for prefix in remaining if _TAKEN & set(prefix.split("."))] or remaining
    if len(remaining) > 1:
        some = " or ".join(f"model.weights={layout.content.path}::{p.rstrip('.') or '.'}" for p in remaining[:3])
        raise UserError(f"{layout.content.path} holds {len(remaining)} networks of this kind; choose one: {some}")
    return remaining[0]


def _heads(key: str) -> Iterator[str]:
    yield ""
    for match in re.finditer(r"\.", key):
        yield key[: match.end()]


# ---------------------------------------------------------------- who writes such files


def layout_words(layout: Layout, prefix: str) -> str:
    """The family of the layout, for reading."""
    keys, where, parts = layout.keys, layout.where, set(prefix.split("."))
    under = [name[len(prefix) :] for name in layout.state if name.startswith(prefix)]
    stems = {name.split(".", 1)[0] for name in layout.state}
    rules = (
        (layout.content.run is not None, "dam run"),
        ("classy_state_dict" in where or "_feature_blocks" in parts, "VISSL"),
        ("base_encoder" in parts, "MoCo v3"),
        ("encoder_q" in parts and "pytorch-lightning_version" in keys, "MoCo v1/v2 in Lightning"),
        ("encoder_q" in parts, "MoCo v1/v2"),
        ("model_state" in where and "ckpt_info" in keys, "MoCo-CXR, fine-tuned"),
        ({"teacher", "student"} & set(where), "DINO"),
        ("model_state_dict" in where and {"loss_fn", "loss_fn_state_dict"} & keys, "LibAUC Trainer"),
        (any(name.startswith(("decoder_", "mask_token")) for name in under), "MAE"),
        ("projection_head" in stems, "lightly"),
        ("projector" in stems, "solo-learn or SimCLR"),
        ("op_threshs" in under, "torchxrayvision"),
        ("module" in where, "a whole module"),
        ({"state_dict", "state_dict_ema"} & set(where) and "args" in keys, "timm training"),
        ({"backbone", "encoder"} & parts, "a backbone beside its projection head"),
    )
    return next((words for holds, words in rules if holds), "plain (torchvision, timm)")
