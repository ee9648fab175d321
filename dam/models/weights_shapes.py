"""Which network a set of tensors looks like: block counts and widths of ResNets, DenseNets and ViTs, as timm names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]

_DENSENETS: dict[tuple[tuple[int, ...], int], str] = {
    ((6, 12, 24, 16), 32): "densenet121",
    ((6, 12, 32, 32), 32): "densenet169",
    ((6, 12, 48, 32), 32): "densenet201",
    ((6, 12, 36, 24), 48): "densenet161",
}
_RESNETS: dict[tuple[bool, tuple[int, ...], int, int], str] = {
    (False, (2, 2, 2, 2), 64, 64): "resnet18",
    (False, (3, 4, 6, 3), 64, 64): "resnet34",
    (True, (3, 4, 6, 3), 64, 64): "resnet50",
    (True, (3, 4, 23, 3), 64, 64): "resnet101",
    (True, (3, 8, 36, 3), 64, 64): "resnet152",
    (True, (3, 4, 6, 3), 128, 128): "wide_resnet50_2",
    (True, (3, 4, 23, 3), 128, 128): "wide_resnet101_2",
    (True, (3, 4, 6, 3), 128, 4): "resnext50_32x4d",
    (True, (3, 4, 23, 3), 256, 8): "resnext101_32x8d",
    (False, (1, 1, 1), 16, 16): "resnet8_cifar",
    (False, (3, 3, 3), 16, 16): "resnet20_cifar",
}
_VITS = {(192, 12): "vit_tiny", (384, 12): "vit_small", (768, 12): "vit_base", (1024, 24): "vit_large"}


@dataclass(frozen=True)
class Look:
    """What the tensors look like: words for a sentence, and timm's name where there is one."""

    words: str
    name: str | None = None


def look_of(shapes: Shapes) -> Look | None:
    """Judge by names and shapes (prefix removed); None for no ResNet, DenseNet or ViT."""
    for judge in (_densenet, _resnet, _vit):
        look = judge(shapes)
        if look is not None:
            return look
    return None


def _densenet(shapes: Shapes) -> Look | None:
    growth = shapes.get("features.denseblock1.denselayer1.conv2.weight")
    if growth is None:
        return None
    blocks = _counts(shapes, r"features\.denseblock(\d+)\.denselayer(\d+)\.conv1\.weight")
    final = shapes.get("features.norm5.weight", (0,))[0]
    name = _DENSENETS.get((blocks, growth[0]))
    return Look(f"{name or 'a DenseNet'} (blocks {_dashed(blocks)}, growth {growth[0]}, {final} features)", name)


def _resnet(shapes: Shapes) -> Look | None:
    second = shapes.get("layer1.0.conv2.weight")
    if second is None or len(second) < 2:
        return None
    blocks = _counts(shapes, r"layer(\d+)\.(\d+)\.conv1\.weight")
    deep = "layer1.0.conv3.weight" in shapes
    name = _RESNETS.get((deep, blocks, second[0], second[1]))
    if len(shapes.get("conv1.weight", (0,) * 4)) != 4 or "conv1.weight" not in shapes:
        name = None  # another stem, such as timm's deep one
    kind = "bottlenecks" if deep else "basic blocks"
    return Look(f"{name or 'a ResNet'} ({kind} {_dashed(blocks)}, first width {second[0]})", name)


def _vit(shapes: Shapes) -> Look | None:
    patch = shapes.get("patch_embed.proj.weight")
    if patch is None or len(patch) != 4 or "blocks.0.attn.qkv.weight" not in shapes:
        return None
    depth = len({name.split(".")[1] for name in shapes if re.match(r"blocks\.\d+\.attn\.qkv\.weight", name)})
    width, size = patch[0], patch[2]
    known = _VITS.get((width, depth)) if "cls_token" in shapes else None
    name = f"{known}_patch{size}_224" if known else None
    return Look(f"{name or 'a ViT'} (depth {depth}, width {width}, patches of {size})", name)


def _counts(shapes: Shapes, pattern: str) -> tuple[int, ...]:
    found: dict[int, set[str]] = {}
    for name in shapes:
        match = re.fullmatch(pattern, name)
        if match:
            found.setdefault(int(match[1]), set()).add(match[2])
    return tuple(len(found[block]) for block in sorted(found))


def _dashed(counts: tuple[int, ...]) -> str:
    return "-".join(map(str, counts))
