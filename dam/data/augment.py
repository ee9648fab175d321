"""Augmentation by albumentations: a pipeline from the config, checked, and random only by (seed, epoch, index).

albumentations merely warns about an argument it does not know, and seeds by the order of calls. Here every name and
value is checked before training, and each image gets its own stretch of one counter-based generator, whatever thread
works on it and in whatever order. The beginning of a pipeline that is one warp does not go through albumentations
(``geometry.py``). A pipeline object is used by one thread at a time.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import random
import warnings
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dam.config import AugmentConfig
from dam.data.geometry import Plan, fuse
from dam.data.warp import apply
from dam.errors import UserError

if TYPE_CHECKING:
    import albumentations

_GROUPS = ("OneOf", "SomeOf", "RandomOrder", "Sequential")  # hold a list "transforms" of further entries
_REFUSED = {
    "Normalize": "normalization is done after augmentation, with model.mean and model.std",
    "ToFloat": "images stay uint8 here; the model's input is made of them later",
    "FromFloat": "images stay uint8 here",
    "ToTensorV2": "the loader makes tensors",
    "ToTensor3D": "the loader makes tensors",
    "Lambda": "a function cannot come from a config",
}
_UINT64 = 64


class Augment:
    """A training augmentation of uint8 images ``(S, S, C)``, which keep shape and type.

    The result depends on the image, the seed, ``index`` (which row of the table) and ``epoch`` (which time it is
    drawn), nothing else. Threads may share it. The beginning of the pipeline that is one warp is ``geometry``: drawn
    and applied to many images at once (``warp``). What is left of it is done by albumentations, image by image
    (``finish``).
    """

    def __init__(self, cfg: AugmentConfig, image_size: int, seed: int) -> None:
        self.image_size = image_size
        self.is_identity = not cfg.train
        self.geometry, fused = fuse(_build_all(cfg.train), image_size)
        self._rest = cfg.train[fused:]
        self.is_one_warp = not self._rest
        sequence = np.random.SeedSequence([seed, 0x617567])
        self._key = sequence.generate_state(2, np.uint64)
        self._warp_key = int(sequence.generate_state(3, np.uint64)[2])
        self._idle: deque[_Pipeline] = deque()  # append and pop are atomic
        if self._rest:
            self._idle.append(self._pipeline())

    def __call__(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
        """The augmented image, a new array unless there are no transforms. Raises ``UserError`` as ``finish`` does."""
        if self.is_identity:
            return image
        if self.geometry is not None:
            image = image.copy()
            self.warp(image[None], np.array([index], np.uint64), np.array([epoch], np.uint64))
        return self.finish(image, index, epoch)

    def plan(self, indices: np.ndarray, epochs: np.ndarray) -> Plan | None:
        """What ``geometry`` does to images ``indices`` (n,) in their ``epochs`` (n,)."""
        return None if self.geometry is None else self.geometry.plan(self._warp_key, indices, epochs)

    def warp(self, images: np.ndarray, indices: np.ndarray, epochs: np.ndarray) -> None:
        """Apply ``geometry``, if any, to ``images`` (n, S, S, C), C-contiguous, in place."""
        plan = self.plan(indices, epochs)
        if plan is not None:
            apply(plan, images)

    def finish(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
        """What is left of the pipeline. Raises ``UserError`` if it gives another size or type."""
        if not self._rest:
            return image
        try:
            pipeline = self._idle.pop()
        except IndexError:
            pipeline = self._pipeline()
        try:
            result = pipeline(image, index, epoch)
        finally:
            self._idle.append(pipeline)
        if result.shape != image.shape and result.size == image.size:
            result = result.reshape(image.shape)  # some transforms drop a lone channel
        if result.shape != image.shape or result.dtype != np.uint8:
            raise UserError(_changed(f"augment.train turned an image of {_describe(image)}", result))
        return result

    def _pipeline(self) -> _Pipeline:
        return _Pipeline(_build_all(self._rest), self._key)


def check_augment(
    cfg: AugmentConfig, image_size: int | None = None, channels: int | None = None, key: str = "augment.train"
) -> None:
    """Check every transform and argument of ``cfg``; with size and channels (1 or 3), also try them on an image.

    ``key`` is where the config has it. Raises ``UserError`` that names all faults found, each with its place and the
    nearest valid name.
    """
    if not cfg.train:
        return
    faults: list[str] = []
    for place, entry in _walk(cfg.train, key):
        faults += _faults(place, entry)
    if faults:
        raise UserError("; ".join(faults) + ".")
    if image_size is None or channels is None:
        return
    noise = np.random.default_rng(0).integers(0, 256, (image_size, image_size, channels), dtype=np.uint8)
    image = noise // 2 + 64
    for number, entry in enumerate(cfg.train):
        image = _try(f"{key}[{number}]", _build(entry), image)
    if image.shape[:2] != (image_size, image_size) or image.size != noise.size:
        raise UserError(_changed(f"{key} turns an image of {_describe(noise)}", image))


def check_on_device(cfg: AugmentConfig, image_size: int) -> None:
    """``augment_on=device``: refuse a checked pipeline that is not one warp. ``UserError`` names the transform."""
    from dam.data.warp_device import can_apply  # it needs torch

    geometry, fused = fuse(_build_all(cfg.train), image_size)
    if fused < len(cfg.train):
        raise UserError(
            f"augment_on=device cannot do {cfg.train[fused]['name']} (augment.train[{fused}]): there a pipeline is "
            "flips, RandomRotate90 and one Affine or one Pad with RandomCrop, then RandomBrightnessContrast. "
            "Take it out, or set augment_on=cpu."
        )
    if geometry is not None and not can_apply(geometry.border):
        raise UserError(
            f"augment_on=device knows border_mode 0, 1, 2 and 4 and interpolation 0 and 1, and augment.train has "
            f"{geometry.border.mode} and {geometry.border.interpolation}: change it, or set augment_on=cpu."
        )


# ---------------------------------------------------------------- random numbers


class _PhiloxRandom(random.Random):
    """Python's ``random.Random`` on top of a numpy bit generator, which transforms draw from as well."""

    bits: np.random.Philox

    def seed(self, *args: Any, **kwargs: Any) -> None:
        self.gauss_next = None  # the only state of its own

    def random(self) -> float:
        return float(int(self.bits.random_raw()) >> 11) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        value, have = 0, 0
        while have < k:
            value |= int(self.bits.random_raw()) << have
            have += _UINT64
        return value >> (have - k)


class _Pipeline:
    """One Compose with generators that are set to a place in the stream before every image (1 us)."""

    def __init__(self, transforms: list[Any], key: np.ndarray) -> None:
        self._compose = _albumentations().Compose(transforms)
        self._bits = np.random.Philox(key=key)
        self._start = self._bits.state
        self._python = _PhiloxRandom()
        self._python.bits = self._bits
        self._compose.set_random_state(np.random.Generator(self._bits), self._python)

    def __call__(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
        # The generator counts up in the low words; index and epoch above them keep the streams apart.
        counter: np.ndarray = self._start["state"]["counter"]
        counter[2], counter[3] = index, epoch
        self._bits.state = self._start
        self._python.seed()
        result: np.ndarray = self._compose(image=image)["image"]
        return result


# ---------------------------------------------------------------- from names to transforms


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks a server for the newest version
    import albumentations

    return albumentations


@functools.cache
def _registry() -> dict[str, type[albumentations.BasicTransform]]:
    library = _albumentations()
    found = {
        name: value
        for name, value in vars(library).items()
        if inspect.isclass(value) and issubclass(value, library.BasicTransform) and not inspect.isabstract(value)
    }
    for name in ("BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D"):
        found.pop(name, None)
    return found | {name: getattr(library, name) for name in _GROUPS}


def _walk(entries: object, place: str) -> Iterable[tuple[str, object]]:
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        yield place, entries
        return
    for number, entry in enumerate(entries):
        yield f"{place}[{number}]", entry
        if isinstance(entry, Mapping) and entry.get("name") in _GROUPS:
            yield from _walk(entry.get("transforms"), f"{place}[{number}].transforms")


def _faults(place: str, entry: object) -> list[str]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        return [f"{place} must be a transform, as in {{name: HorizontalFlip, p: 0.5}}, not {entry!r}"]
    name, arguments = entry["name"], {key: value for key, value in entry.items() if key != "name"}
    if name in _REFUSED:
        return [f"{place}: {name} cannot be used, {_REFUSED[name]}"]
    registry = _registry()
    if name not in registry:
        return [f"{place}: albumentations has no transform {name}{_nearest(name, registry)}"]
    known = [key for key in inspect.signature(registry[name].__init__).parameters if key not in ("self", "strict")]
    unknown = [key for key in arguments if key not in known]
    if unknown:
        return [f"{place}: {name} has no argument {key}{_nearest(str(key), known)}" for key in unknown]
    if name in _GROUPS:  # the transforms inside are looked at one by one
        arguments["transforms"] = [registry["HorizontalFlip"]()]
    return [
        f"{place}: {name} refuses its arguments: {fault}" for fault in _construction_faults(registry[name], arguments)
    ]


def _construction_faults(transform: type, arguments: dict[str, Any]) -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", UserWarning)  # albumentations goes on with defaults where it warns
            transform(**arguments)
    except (ValueError, TypeError, UserWarning) as error:
        details = getattr(error.__cause__, "errors", None)
        if details is None:
            return [str(error).strip().splitlines()[0]]
        return [f"{'.'.join(map(str, d['loc'])) or 'together'}: {d['msg']} (is {d['input']!r})" for d in details()[:3]]
    return []


def _nearest(name: str, valid: Iterable[str]) -> str:
    by_lower = {key.lower(): key for key in valid}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    if near:
        return f"; nearest: {', '.join(by_lower[key] for key in near)}"
    return f"; it takes {', '.join(by_lower.values())}" if len(by_lower) < 30 else ""


def _build_all(entries: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [_build(entry) for entry in entries]


def _build(entry: Mapping[str, Any]) -> Any:
    arguments = {key: value for key, value in entry.items() if key != "name"}
    if entry["name"] in _GROUPS:
        arguments["transforms"] = _build_all(arguments["transforms"])
    return _registry()[entry["name"]](**arguments)


# ---------------------------------------------------------------- trying them


def _try(place: str, transform: Any, image: np.ndarray) -> np.ndarray:
    """The image after a transform that is made to apply; of alternatives, each is tried."""
    if isinstance(transform, _albumentations().BaseCompose):
        inner = place + ".transforms"
        if type(transform).__name__ == "Sequential":
            for number, child in enumerate(transform.transforms):
                image = _try(f"{inner}[{number}]", child, image)
            return image
        results = [_try(f"{inner}[{number}]", child, image) for number, child in enumerate(transform.transforms)]
        return results[0]
    name = type(transform).__name__
    transform.set_random_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            result: np.ndarray = transform(image=image.copy(), force_apply=True)["image"]
    except Exception as error:  # whatever a transform may raise, the config asked for it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{place}: {name} fails on an image of {_describe(image)}: {reason.rstrip('.')}.") from error
    channels = result.size // (result.shape[0] * result.shape[1])
    if result.dtype != np.uint8 or result.ndim not in (2, 3) or channels != image.shape[-1]:
        raise UserError(_changed(f"{place}: {name} turns an image of {_describe(image)}", result))
    return result.reshape(*result.shape[:2], image.shape[-1])


def _describe(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    return f"{height} x {width} pixels, {channels} channel{'s' * (channels != 1)}, {image.dtype}"


def _changed(subject: str, result: np.ndarray) -> str:
    return f"{subject} into one of {_describe(result)}: the pipeline must keep size (image_size), channels and uint8."
