"""Pipelines that are one warp: draws as albumentations has them, images as it makes them, on CPU and device."""

from __future__ import annotations

from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
import torch
from scipy import stats

from dam.data import warp, warp_device
from dam.data.geometry import Border, Geometry, Plan, fuse, splitmix64, uniforms

SIZE = 48
AFFINE = {
    "rotate": (-15, 15),
    "scale": {"x": (0.8, 1.1), "y": (0.9, 1.3)},
    "shear": {"x": (-5, 9), "y": (-3, 3)},
    "translate_percent": {"x": (-0.05, 0.2), "y": (-0.1, 0.1)},
    "p": 1,
}
FIXED = {
    "rotate": (17, 17),
    "scale": {"x": (0.8, 0.8), "y": (1.2, 1.2)},
    "shear": {"x": (5, 5), "y": (-3, -3)},
    "translate_percent": {"x": (0.07, 0.07), "y": (-0.1, -0.1)},
    "p": 1,
}


def made(*entries: tuple[str, dict[str, Any]]) -> list[Any]:
    return [getattr(albumentations, name)(**arguments) for name, arguments in entries]


def geometry(*entries: tuple[str, dict[str, Any]]) -> Geometry:
    found, fused = fuse(made(*entries), SIZE)
    assert found is not None
    assert fused == len(entries)
    return found


def planned(found: Geometry, count: int, epoch: int = 0, key: int = 1) -> Plan:
    return found.plan(key, np.arange(count), np.full(count, epoch))


def noise(count: int, channels: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def smooth(count: int, channels: int) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(image, (0, 0), 2).reshape(image.shape) for image in noise(count, channels)])


# ---------------------------------------------------------------- random numbers


def test_splitmix64_gives_its_published_numbers() -> None:
    # The first five of the seed 1234567, as Vigna's C code gives them (Rosetta Code, "Pseudo-random numbers").
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(np.array([1234567], np.uint64), 5).tolist() == [expected]


def test_uniforms_are_uniform_and_unrelated_between_images_epochs_and_draws() -> None:
    indices, epochs = np.repeat(np.arange(200), 20), np.tile(np.arange(20), 200)
    u = uniforms(7, indices, epochs, 6)
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert all(stats.kstest(u[:, k], "uniform").pvalue > 1e-3 for k in range(6))
    together = np.concatenate([u, uniforms(8, indices, epochs, 6), uniforms(7, indices + 1, epochs, 6)], axis=1)
    correlations = np.corrcoef(together.T)[np.triu_indices(18, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(len(u))
    by_image = u[:, 0].reshape(200, 20)
    assert abs(np.corrcoef(by_image[:, :-1].ravel(), by_image[:, 1:].ravel())[0, 1]) < 5 / np.sqrt(3800)


def test_a_draw_depends_on_its_own_image_and_epoch_only() -> None:
    found = geometry(("HorizontalFlip", {"p": 0.5}), ("Affine", AFFINE), ("RandomBrightnessContrast", {"p": 0.5}))
    whole = planned(found, 50, epoch=3)
    some = np.array([41, 3, 17])
    part = found.plan(1, some, np.full(3, 3))
    assert np.array_equal(part.maps, whole.maps[some])
    assert part.levels is not None
    assert whole.levels is not None
    assert np.array_equal(part.levels, whole.levels[some])
    assert not np.array_equal(planned(found, 50, epoch=4).maps, whole.maps)
    assert not np.array_equal(planned(found, 50, epoch=3, key=2).maps, whole.maps)
    large = np.array([2**64 - 1], np.uint64)  # a hash of an image, where images have no row
    assert found.plan(1, large, np.array([0], np.uint64)).maps.shape == (1, 2, 3)


# ---------------------------------------------------------------- distributions


def test_flips_come_as_often_as_they_should() -> None:
    maps = planned(geometry(("HorizontalFlip", {"p": 0.3}), ("VerticalFlip", {"p": 0.8})), 8000).maps
    flipped = maps[:, [0, 1], [0, 1]] < 0
    assert np.abs(flipped.mean(axis=0) - (0.3, 0.8)).max() < 0.02
    assert abs(np.corrcoef(flipped.T)[0, 1]) < 0.05
    assert np.array_equal(maps[:, [0, 1], 2], np.where(flipped, SIZE - 1, 0))


def test_crops_are_uniform_over_all_places() -> None:
    entries = (("Pad", {"padding": [1, 2, 3, 0]}), ("RandomCrop", {"height": SIZE, "width": SIZE}))
    maps = planned(geometry(*entries), 9000).maps
    assert (maps[:, :, :2] == np.eye(2)).all()
    for axis, places in ((0, range(-1, 4)), (1, range(-2, 1))):
        found, counts = np.unique(maps[:, axis, 2], return_counts=True)
        assert found.tolist() == list(places)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_quarter_turns_are_uniform() -> None:
    maps = planned(geometry(("RandomRotate90", {"p": 1})), 4000).maps
    counts = np.unique(maps.reshape(len(maps), -1), axis=0, return_counts=True)[1]
    assert len(counts) == 4
    assert stats.chisquare(counts).pvalue > 1e-3
    images = noise(20, 1)
    turned = images.copy()
    warp.apply(planned(geometry(("RandomRotate90", {"p": 1})), 20), turned)
    assert all(any(np.array_equal(b, np.rot90(a, k)) for k in range(4)) for a, b in zip(images, turned, strict=True))


@pytest.mark.parametrize(
    "more", [{}, {"keep_ratio": True, "scale": (0.8, 1.1)}, {"translate_percent": None, "translate_px": (-3, 5)}]
)
def test_affine_draws_as_albumentations_does(more: dict[str, Any]) -> None:
    count, arguments = 1500, AFFINE | more
    transform = albumentations.Affine(**arguments)
    transform.set_random_seed(0)
    drawn = [transform.get_params_dependent_on_data({"shape": (SIZE, SIZE, 1)}, {})["matrix"] for _ in range(count)]
    theirs = np.linalg.inv(np.stack(drawn))[:, :2].reshape(count, -1)
    ours = planned(geometry(("Affine", arguments)), count).maps.reshape(count, -1)
    for k in range(6):
        assert stats.ks_2samp(ours[:, k], theirs[:, k]).pvalue > 1e-3, k
    assert np.abs(np.corrcoef(ours.T) - np.corrcoef(theirs.T)).max() < 0.12


def test_a_transform_is_left_out_as_often_as_it_should() -> None:
    maps = planned(geometry(("Affine", AFFINE | {"p": 0.25})), 4000).maps
    assert abs((maps == np.eye(2, 3)).all(axis=(1, 2)).mean() - 0.75) < 0.03
    levels = planned(geometry(("RandomBrightnessContrast", {"p": 0.25})), 4000).levels
    assert levels is not None
    assert abs((levels == np.arange(256)).all(axis=1).mean() - 0.75) < 0.03


# ---------------------------------------------------------------- the same images as albumentations

PIPELINES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "mirrored": [("HorizontalFlip", {"p": 1})],
    "upside down": [("VerticalFlip", {"p": 1})],
    "affine": [("Affine", FIXED)],
    "filled": [("Affine", FIXED | {"fill": 77})],
    "nearest": [("Affine", FIXED | {"interpolation": cv2.INTER_NEAREST})],
    "cubic": [("Affine", FIXED | {"interpolation": cv2.INTER_CUBIC})],
    "replicated": [("Affine", FIXED | {"border_mode": cv2.BORDER_REPLICATE})],
    "reflected": [("Affine", FIXED | {"border_mode": cv2.BORDER_REFLECT})],
    "wrapped": [("Affine", FIXED | {"border_mode": cv2.BORDER_WRAP})],
    "mixed": [("VerticalFlip", {"p": 1}), ("Affine", FIXED | {"border_mode": 4}), ("HorizontalFlip", {"p": 1})],
    "shifted": [
        ("Affine", {"translate_px": {"x": (3, 3), "y": (-5, -5)}, "fill": 9, "p": 1}),
        ("HorizontalFlip", {"p": 1}),
    ],
    "gray values": [
        ("Affine", FIXED),
        ("RandomBrightnessContrast", {"brightness_limit": (0.1, 0.1), "contrast_limit": (0.3, 0.3), "p": 1}),
        ("RandomBrightnessContrast", {"brightness_limit": (-0.2, -0.2), "contrast_limit": (-0.1, -0.1), "p": 1}),
    ],
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("channels", [1, 3])
def test_with_fixed_parameters_images_are_albumentations_own(name: str, channels: int) -> None:
    entries, image = PIPELINES[name], noise(1, channels)
    expected = albumentations.Compose(made(*entries))(image=image[0])["image"].reshape(image[0].shape)
    result = image.copy()
    warp.apply(planned(geometry(*entries), 1), result)
    assert np.abs(result[0].astype(int) - expected).max() <= 1  # flips are folded into the map: another rounding
    assert (result[0] != expected).mean() < 0.01


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fill", [(0.0, 0.0, 0.0), (7.0, 100.0, 250.0)])
def test_moved_rows_are_what_a_warp_makes(channels: int, fill: tuple[float, ...]) -> None:
    rng, count = np.random.default_rng(0), 60
    maps = np.zeros((count, 2, 3))
    maps[:, [0, 1], [0, 1]] = rng.choice([-1, 1], (count, 2))
    maps[:, :, 2] = rng.integers(-30, 90, (count, 2))
    maps[:2, :, 2] = [[1000, 0], [0, -1000]]  # beyond the image
    images = noise(count, channels)
    moved = images.copy()
    warp.apply(Plan(maps, None, Border(fill=fill)), moved)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    for image, result, matrix in zip(images, moved, maps, strict=True):
        expected = cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=flags, borderValue=fill[:channels])
        assert np.array_equal(result, expected.reshape(image.shape))


def test_images_that_move_and_images_that_turn_share_a_batch() -> None:
    found = geometry(("HorizontalFlip", {"p": 0.5}), ("Affine", AFFINE | {"p": 0.5}))
    images = noise(30, 1)
    together, alone = images.copy(), images.copy()
    plan = planned(found, 30)
    warp.apply(plan, together)
    for i in range(30):
        warp.apply(Plan(plan.maps[i : i + 1], None, plan.border), alone[i : i + 1])
    assert np.array_equal(together, alone)


@pytest.mark.parametrize(
    ("fused", "entries"),
    [
        (3, [("Pad", {"padding": 4}), ("RandomCrop", {"height": SIZE, "width": SIZE}), ("HorizontalFlip", {})]),
        (0, [("Pad", {"padding": 4}), ("RandomCrop", {"height": 40, "width": 40})]),
        (0, [("Pad", {"padding": 4}), ("RandomCrop", {"height": SIZE, "width": SIZE, "p": 0.5})]),
        (0, [("RandomCrop", {"height": SIZE, "width": SIZE})]),
        (1, [("Affine", {}), ("Affine", {})]),  # what the first lost at the border would come back
        (0, [("Affine", {"fit_output": True})]),
        (0, [("Affine", {"balanced_scale": True})]),
        (2, [("Affine", {}), ("RandomBrightnessContrast", {}), ("HorizontalFlip", {})]),
        (0, [("RandomBrightnessContrast", {"brightness_by_max": False})]),
        (1, [("HorizontalFlip", {}), ("GaussNoise", {}), ("HorizontalFlip", {})]),
    ],
)
def test_how_much_of_a_pipeline_is_one_warp(fused: int, entries: list[tuple[str, dict[str, Any]]]) -> None:
    found, count = fuse(made(*entries), SIZE)
    assert count == fused
    assert (found is None) == (fused == 0)


# ---------------------------------------------------------------- on the device


@pytest.mark.parametrize("border", [0, 1, 2, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_on_the_device_images_differ_by_a_rounding(border: int, channels: int) -> None:
    found = geometry(
        ("HorizontalFlip", {"p": 0.5}),
        ("Affine", AFFINE | {"border_mode": border, "fill": [90.0, 10.0, 200.0][:channels]}),
    )
    plan, images = planned(found, 20), smooth(20, channels)
    there = warp_device.apply(plan, torch.from_numpy(images)).numpy()
    warp.apply(plan, images)
    difference = np.abs(there.astype(int) - images)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize("channels", [1, 3])
def test_on_the_device_whole_pixels_and_gray_values_are_exact(channels: int) -> None:
    entries = [("Pad", {"padding": 6, "fill": 50}), ("RandomCrop", {"height": SIZE, "width": SIZE})]
    found = geometry(*entries, ("VerticalFlip", {}), ("RandomRotate90", {}), ("RandomBrightnessContrast", {"p": 0.7}))
    plan, images = planned(found, 20), noise(20, channels)
    there = warp_device.apply(plan, torch.from_numpy(images.copy()))
    warp.apply(plan, images)
    assert there.dtype == torch.uint8
    assert np.array_equal(there.numpy(), images)


def test_what_torch_cannot_do_is_known() -> None:
    assert warp_device.can_apply(Border())
    assert not warp_device.can_apply(Border(mode=cv2.BORDER_WRAP))
    assert not warp_device.can_apply(Border(interpolation=cv2.INTER_CUBIC))
