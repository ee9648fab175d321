"""Augmentation: faults in a pipeline are found before training; results depend on (seed, epoch, index) alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from dam.config import AugmentConfig
from dam.data.augment import Augment, _PhiloxRandom, check_augment, check_on_device
from dam.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs" / "augment"
VARIED = [
    {"name": "Affine", "rotate": [-20, 20], "translate_percent": [-0.1, 0.1], "p": 0.9},
    {"name": "OneOf", "p": 0.9, "transforms": [{"name": "GaussNoise", "p": 1}, {"name": "CoarseDropout", "p": 1}]},
    {"name": "RandomBrightnessContrast", "p": 0.5},
    {"name": "RandomGamma", "p": 0.5},
]


def image(channels: int = 1, size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (size, size, channels), dtype=np.uint8)


def shipped(name: str, size: int) -> AugmentConfig:
    tree = OmegaConf.create({"image_size": size, "augment": OmegaConf.load(CONFIGS / f"{name}.yaml")})
    resolved: Any = OmegaConf.to_container(tree, resolve=True)
    return AugmentConfig(train=resolved["augment"]["train"])


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS.glob("*.yaml")])
@pytest.mark.parametrize("channels", [1, 3])
def test_shipped_pipelines(name: str, channels: int) -> None:
    cfg = shipped(name, 48)
    if channels == 1 and any(entry["name"] == "ToGray" for entry in cfg.train):
        pytest.skip("for colour images")
    check_augment(cfg, 48, channels)
    augment, source = Augment(cfg, 48, seed=0), image(channels, 48)
    for index in range(20):
        result = augment(source.copy(), index, 0)
        assert result.shape == source.shape
        assert result.dtype == np.uint8


def test_result_is_a_function_of_seed_epoch_and_index() -> None:
    cfg, source = AugmentConfig(VARIED), image(3)
    keys = [(index, epoch) for index in range(40) for epoch in range(2)]
    one = Augment(cfg, 32, seed=5)
    forward = [one(source.copy(), *key) for key in keys]
    backward = [Augment(cfg, 32, seed=5)(source.copy(), *key) for key in reversed(keys)][::-1]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda key: one(source.copy(), *key), keys))
    other_seed = [Augment(cfg, 32, seed=6)(source.copy(), *key) for key in keys[:10]]
    for a, b, c in zip(forward, backward, threaded, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)
    assert len({a.tobytes() for a in forward}) > 70  # epochs and images differ
    assert not all(np.array_equal(a, b) for a, b in zip(forward, other_seed, strict=False))


def test_draws_do_not_remember_the_image_before() -> None:
    # gauss() keeps every second value back, integers() half a word: both must be forgotten between images.
    augment = Augment(AugmentConfig(VARIED), 32, seed=0)
    pipeline = augment._idle[0]
    pipeline(image(3), 3, 0)
    first = (pipeline._python.gauss(0, 1), pipeline._compose.random_generator.integers(9, dtype=np.int32))
    pipeline(image(3), 3, 0)
    assert first == (pipeline._python.gauss(0, 1), pipeline._compose.random_generator.integers(9, dtype=np.int32))


def test_python_random_is_uniform() -> None:
    source = _PhiloxRandom()
    source.bits = np.random.Philox(key=1)
    values = [source.random() for _ in range(4000)]
    assert 0 <= min(values) < 0.01 < 0.99 < max(values) < 1
    assert abs(np.mean(values) - 0.5) < 0.02
    assert {source.randint(1, 6) for _ in range(200)} == {1, 2, 3, 4, 5, 6}
    assert {source.getrandbits(70).bit_length() for _ in range(200)} <= set(range(50, 71))
    assert max(source.getrandbits(70).bit_length() for _ in range(200)) == 70


def test_the_image_that_was_given_stays_as_it_was() -> None:
    augment, source = Augment(AugmentConfig([{"name": "HorizontalFlip", "p": 1}]), 32, 0), image()
    assert np.array_equal(augment(source, 0, 0), source[:, ::-1])
    assert np.array_equal(source, image())


def test_what_the_device_cannot_do_is_refused_by_name() -> None:
    check_on_device(shipped("none", 48), 48)
    check_on_device(shipped("cifar", 48), 48)
    check_on_device(shipped("chest", 48), 48)
    with pytest.raises(UserError, match=r"cannot do CoarseDropout \(augment\.train\[3\]\).*augment_on=cpu"):
        check_on_device(shipped("dermoscopy", 48), 48)
    for argument in ({"border_mode": 3}, {"interpolation": 2}):
        with pytest.raises(UserError, match="border_mode 0, 1, 2 and 4 and interpolation 0 and 1"):
            check_on_device(AugmentConfig([{"name": "Affine", "rotate": 5, **argument}]), 48)


def test_empty_pipeline_returns_the_image() -> None:
    source = image()
    assert Augment(AugmentConfig([]), 32, 0)(source, 0, 0) is source


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "Afine"}], r"augment\.train\[0\]: albumentations has no transform Afine; nearest: Affine"),
        ([{"name": "Affine", "rotatte": 3}], "Affine has no argument rotatte; nearest: rotate"),
        ([{"name": "Affine", "scal": 3, "p": 1}, {"name": "Flop"}], r"nearest: scale; augment\.train\[1\]"),
        ([{"name": "HorizontalFlip", "p": 2}], r"p: Input should be less than or equal to 1 \(is 2\)"),
        ([{"name": "Rotate", "limit": "often"}], "Rotate refuses its arguments: limit"),
        ([{"p": 1}], "must be a transform"),
        (["HorizontalFlip"], "must be a transform"),
        ([{"name": "Normalize"}], "model.mean"),
        ([{"name": "ToTensorV2"}], "the loader makes tensors"),
        ([{"name": "Lambda"}], "a function cannot come from a config"),
        ([{"name": "os.system"}], "no transform os.system"),
        ([{"name": "OneOf", "transforms": [{"name": "Flip2"}]}], r"train\[0\]\.transforms\[0\]"),
        ([{"name": "OneOf"}], r"train\[0\]\.transforms must be"),
    ],
)
def test_faults_in_names_and_values(entries: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_augment(AugmentConfig(entries))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "Resize", "height": 16, "width": 16}, "into one of 16 x 16 pixels"),
        ({"name": "ToGray"}, "already gray"),
        ({"name": "ToRGB"}, "3 channels"),
        ({"name": "ChannelDropout"}, "ChannelDropout fails on an image of 32 x 32 pixels, 1 channel"),
        ({"name": "FDA"}, "FDA"),
    ],
)
def test_faults_found_by_trying(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_augment(AugmentConfig([entry]), 32, 1)


def test_sizes_may_change_on_the_way() -> None:
    entries = [{"name": "Pad", "padding": 4}, {"name": "RandomCrop", "height": 32, "width": 32}]
    check_augment(AugmentConfig(entries), 32, 3)
    with pytest.raises(UserError, match="32 x 32"):
        check_augment(AugmentConfig(entries), 64, 3)


def test_a_size_that_changes_only_now_and_then_is_caught_in_training() -> None:
    entries = [{"name": "Pad", "padding": 4, "p": 1}, {"name": "RandomCrop", "height": 32, "width": 32, "p": 0.5}]
    augment = Augment(AugmentConfig(entries), 32, 0)
    with pytest.raises(UserError, match="40 x 40"):
        for index in range(20):
            augment(image(3), index, 0)
