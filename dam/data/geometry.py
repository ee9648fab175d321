"""The part of an augmentation pipeline that is one warp: its draws for many images at once, and the maps they give.

Flips, quarter turns, one ``Affine`` or one ``Pad`` with ``RandomCrop``, and after them ``RandomBrightnessContrast``,
are one affine map and one table of gray values an image. They are drawn for a whole slice of a batch by a counter-based
generator and applied by ``warp.py`` (CPU) or ``warp_device.py``. Parameters have the distributions of albumentations'
transforms; the maps are theirs, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_CONSTANT, _LINEAR = 0, 1  # cv2.BORDER_CONSTANT, cv2.INTER_LINEAR
_LEVELS = np.arange(256, dtype=np.float32)


def uniforms(key: int, indices: np.ndarray, epochs: np.ndarray, count: int) -> np.ndarray:
    """float64 (n, ``count``) in [0, 1): the first draws of SplitMix64 (Steele, Lea, Flood 2014) for each image.

    Its start is a hash of ``key``, the image's index and its epoch (uint64 or non-negative), so a draw depends on these
    and its number alone.
    """
    start = _mix(_mix(np.uint64(key) + _GOLDEN * indices.astype(np.uint64)) + _GOLDEN * epochs.astype(np.uint64))
    return (splitmix64(start, count) >> np.uint64(11)) * 2.0**-53


def splitmix64(start: np.ndarray, count: int) -> np.ndarray:
    """uint64 (n, ``count``): the first numbers of SplitMix64 from each of ``start`` (n,), uint64."""
    return _mix(start[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


@dataclass(frozen=True)
class Border:
    """What comes in from outside and how values between pixels are made, cv2's numbers; ``fill`` 0 .. 255 a channel."""

    mode: int = _CONSTANT
    fill: tuple[float, ...] = (0.0, 0.0, 0.0)
    interpolation: int = _LINEAR


@dataclass(frozen=True)
class Plan:
    """What happens to n images. ``maps`` float64 (n, 2, 3): output pixel (x, y, 1) to input pixel (x, y); ``levels``
    uint8 (n, 256), the gray values after the warp, or None."""

    maps: np.ndarray
    levels: np.ndarray | None
    border: Border


class _Step:
    """One transform. Of ``draws`` uniforms an image, (n, draws), it makes maps (n, 3, 3), output to input pixels."""

    draws: ClassVar[int]

    def maps(self, u: np.ndarray, size: int) -> np.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class Geometry:
    """Steps on square images of ``size`` pixels, then changes of their gray values."""

    size: int
    steps: tuple[_Step, ...] = ()
    levels: tuple[_Levels, ...] = ()
    border: Border = field(default_factory=Border)

    def plan(self, key: int, indices: np.ndarray, epochs: np.ndarray) -> Plan:
        """The plan of images ``indices`` (n,) in their ``epochs`` (n,), drawn with ``key``."""
        needed = [step.draws for step in self.steps] + [change.draws for change in self.levels]
        u = iter(np.split(uniforms(key, indices, epochs, sum(needed)), np.cumsum(needed)[:-1], axis=1))
        maps = _identities(len(indices))
        for step in self.steps:
            maps = maps @ step.maps(next(u), self.size)  # from the output backwards: the last step's map comes first
        levels = np.tile(_LEVELS.astype(np.uint8), (len(indices), 1))
        for change in self.levels:
            levels = change.after(levels, next(u))
        return Plan(maps[:, :2], levels if self.levels else None, self.border)


# ---------------------------------------------------------------- steps


@dataclass(frozen=True)
class _Flip(_Step):
    """HorizontalFlip (``axis`` 0) or VerticalFlip (1)."""

    axis: int
    p: float
    draws: ClassVar[int] = 1

    def maps(self, u: np.ndarray, size: int) -> np.ndarray:
        maps = _identities(len(u))
        flipped = u[:, 0] < self.p
        maps[flipped, self.axis, self.axis] = -1
        maps[flipped, self.axis, 2] = size - 1
        return maps


@dataclass(frozen=True)
class _QuarterTurns(_Step):
    """RandomRotate90: 0 to 3 quarter turns, equally often."""

    p: float
    draws: ClassVar[int] = 2

    def maps(self, u: np.ndarray, size: int) -> np.ndarray:
        turn = np.array([[0.0, -1, size - 1], [1, 0, 0], [0, 0, 1]])
        turns = np.stack([np.linalg.matrix_power(turn, k).round() for k in range(4)])
        return turns[np.where(u[:, 0] < self.p, _integers(u[:, 1], 0, 3), 0)]


@dataclass(frozen=True)
class _Shift(_Step):
    """Pad, then RandomCrop to the size before: ``before`` pixels were added at left and top, ``room`` in all."""

    before: tuple[int, int]
    room: tuple[int, int]
    draws: ClassVar[int] = 2

    def maps(self, u: np.ndarray, size: int) -> np.ndarray:
        maps = _identities(len(u))
        for axis in (0, 1):
            maps[:, axis, 2] = _integers(u[:, axis], 0, self.room[axis]) - self.before[axis]
        return maps


@dataclass(frozen=True)
class _Affine(_Step):
    """albumentations' Affine: scale, rotate, shear (degrees) and shift about the centre, whole pixels of shift."""

    scale: tuple[tuple[float, float], tuple[float, float]]
    rotate: tuple[float, float]
    shear: tuple[tuple[float, float], tuple[float, float]]
    shift: tuple[tuple[float, float], tuple[float, float]]
    percent: bool  # shift is a part of the side
    keep_ratio: bool
    p: float
    draws: ClassVar[int] = 8

    def maps(self, u: np.ndarray, size: int) -> np.ndarray:
        scale = [_between(u[:, 1 + axis], self.scale[axis]) for axis in (0, 1)]
        if self.keep_ratio:
            scale[1] = scale[0]
        angle = np.deg2rad(_between(u[:, 3], self.rotate))
        shear = [np.tan(-np.deg2rad(_between(u[:, 4 + axis], self.shear[axis]))) for axis in (0, 1)]
        cos, sin = np.cos(angle), np.sin(angle)
        forward = _identities(len(u))  # shear @ rotation @ scale: where an input pixel goes, from the centre
        forward[:, 0, 0], forward[:, 0, 1] = (cos - shear[0] * sin) * scale[0], (sin + shear[0] * cos) * scale[1]
        forward[:, 1, 0], forward[:, 1, 1] = (shear[1] * cos - sin) * scale[0], (shear[1] * sin + cos) * scale[1]
        centre = np.full(2, (size - 1) / 2)
        shift = np.stack([self._pixels(u[:, 6 + axis], axis, size) for axis in (0, 1)], axis=1)
        forward[:, :2, 2] = centre + shift - forward[:, :2, :2] @ centre
        maps = _identities(len(u))
        applied = u[:, 0] < self.p
        maps[applied] = np.linalg.inv(forward[applied])
        return maps

    def _pixels(self, u: np.ndarray, axis: int, size: int) -> np.ndarray:
        low, high = self.shift[axis]
        pixels: np.ndarray = np.trunc(_between(u, (low, high)) * size) if self.percent else _integers(u, low, high)
        return pixels


@dataclass(frozen=True)
class _Levels:
    """RandomBrightnessContrast: contrast * value + brightness, cut to 0 .. 255 and rounded down."""

    brightness: tuple[float, float]  # of the full range
    contrast: tuple[float, float]
    p: float
    draws: ClassVar[int] = 3

    def after(self, levels: np.ndarray, u: np.ndarray) -> np.ndarray:
        """The gray values (n, 256) that ``levels`` become."""
        slope = (1 + _between(u[:, 1:2], self.contrast)).astype(np.float32)
        offset = (255 * _between(u[:, 2:3], self.brightness)).astype(np.float32)
        table = np.clip(_LEVELS * slope + offset, 0, 255).astype(np.uint8)
        table[u[:, 0] >= self.p] = _LEVELS
        after: np.ndarray = np.take_along_axis(table, levels.astype(np.intp), axis=1)
        return after


def _identities(count: int) -> np.ndarray:
    return np.tile(np.eye(3), (count, 1, 1))


def _between(u: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    values: np.ndarray = limits[0] + u * (limits[1] - limits[0])
    return values


def _integers(u: np.ndarray, low: float, high: float) -> np.ndarray:
    numbers: np.ndarray = int(low) + (u * (int(high) - int(low) + 1)).astype(np.int64)
    return numbers


# ---------------------------------------------------------------- from albumentations' transforms


def fuse(transforms: Sequence[Any], size: int) -> tuple[Geometry | None, int]:
    """The longest beginning of ``transforms`` (albumentations objects) that is one warp on square images of ``size``
    pixels, and how many transforms it is; ``(None, 0)`` if the first is none.

    Two transforms that lose pixels at the border do not fuse: what the first lost would come back.
    """
    steps: list[_Step] = []
    levels: list[_Levels] = []
    border: Border | None = None
    taken = 0
    while taken < len(transforms):
        change = _levels_of(transforms[taken])
        if change is not None:
            levels.append(change)
            taken += 1
            continue
        found, used = _step_of(transforms[taken : taken + 2], size)
        moves = found is not None and found[1] is not None
        if found is None or levels or (moves and border is not None):
            break
        steps.append(found[0])
        border = found[1] or border
        taken += used
    if not taken:
        return None, 0
    return Geometry(size, tuple(steps), tuple(levels), border or Border()), taken


def _step_of(ahead: Sequence[Any], size: int) -> tuple[tuple[_Step, Border | None] | None, int]:
    """Step and border (None: nothing comes in) that the first of ``ahead`` makes, or the first two, and how many."""
    name, first = type(ahead[0]).__name__, ahead[0]
    if name in ("HorizontalFlip", "VerticalFlip"):
        return (_Flip(("HorizontalFlip", "VerticalFlip").index(name), first.p), None), 1
    if name == "RandomRotate90":
        return (_QuarterTurns(first.p), None), 1
    if name == "Affine" and not (first.fit_output or first.balanced_scale):
        shift = first.translate_px if first.translate_percent is None else first.translate_percent
        pairs = [(tuple(limits["x"]), tuple(limits["y"])) for limits in (first.scale, first.shear, shift)]
        percent = first.translate_percent is not None
        step = _Affine(pairs[0], tuple(first.rotate), pairs[1], pairs[2], percent, first.keep_ratio, first.p)
        border = Border(first.border_mode, _channels(first.fill), first.interpolation)
        return (step, border), 1
    if name == "Pad" and len(ahead) == 2 and _crops_back(first, ahead[1], size):
        left, top, right, bottom = _sides(first.padding)
        return (_Shift((left, top), (left + right, top + bottom)), Border(first.border_mode, _channels(first.fill))), 2
    return None, 0


def _crops_back(pad: Any, crop: Any, size: int) -> bool:
    same = type(crop).__name__ == "RandomCrop" and not crop.pad_if_needed and crop.height == crop.width == size
    return same and pad.p >= 1 and crop.p >= 1


def _sides(padding: Any) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of Pad's argument."""
    if isinstance(padding, Sequence):
        x, y = padding[:2]
        return (x, y, x, y) if len(padding) == 2 else tuple(padding)
    return (padding,) * 4


def _channels(fill: float | Sequence[float]) -> tuple[float, ...]:
    values = tuple(map(float, fill)) if isinstance(fill, Sequence) else (float(fill),)
    return values * 3 if len(values) == 1 else values


def _levels_of(transform: Any) -> _Levels | None:
    if type(transform).__name__ != "RandomBrightnessContrast" or not transform.brightness_by_max:
        return None
    if transform.ensure_safe_range:
        return None
    return _Levels(tuple(transform.brightness_limit), tuple(transform.contrast_limit), transform.p)
