"""A plan of ``geometry.py`` applied on the CPU, in place: one warp an image, or row copies where pixels stay whole."""

from __future__ import annotations

import numpy as np

from dam.data.geometry import Border, Plan

_AT_ONCE = 1 << 16  # bytes of images; larger temporary arrays come fresh from the kernel, page by page


def apply(plan: Plan, images: np.ndarray) -> None:
    """Change ``images``, uint8 (n, S, S, C), C-contiguous. The result of one does not depend on the others."""
    whole = _whole(plan) if plan.border.mode == 0 else np.zeros(len(images), bool)  # 0: cv2.BORDER_CONSTANT
    if whole.all():
        _move(plan.maps, plan.border, images)
    elif whole.any():
        some = images[whole]
        _move(plan.maps[whole], plan.border, some)
        images[whole] = some
    _warp(plan.maps, plan.border, images, np.flatnonzero(~whole))
    if plan.levels is not None:
        _look_up(plan.levels, images)


def _whole(plan: Plan) -> np.ndarray:
    """Which maps only mirror and shift by whole pixels."""
    turn, shift = plan.maps[:, :, :2], plan.maps[:, :, 2]
    mirrors = (np.abs(turn) == np.eye(2)).all(axis=(1, 2))
    whole: np.ndarray = mirrors & (shift == np.rint(shift)).all(axis=1)
    return whole


def _move(maps: np.ndarray, border: Border, images: np.ndarray) -> None:
    """Mirror, then cut each row out of its padded image as one piece of memory: no call an image."""
    size = images.shape[1]
    mirrored = maps[:, [0, 1], [0, 1]] < 0
    _mirror(images, mirrored)
    # Where output pixel 0 lies in the mirrored image: whole pixels, at most one image away.
    starts = maps[:, :, 2].astype(np.int64)
    starts = np.clip(np.where(mirrored, size - 1 - starts, starts), -size, size)
    at_once = max(1, _AT_ONCE // images[:1].nbytes)
    for first in range(0, len(images), at_once):
        _cut(images[first : first + at_once], starts[first : first + at_once], border)


def _cut(images: np.ndarray, starts: np.ndarray, border: Border) -> None:
    """Shift ``images`` so that output pixel (0, 0) is the input's ``starts`` (n, 2), x and y, at most S from it."""
    count, size, _, channels = images.shape
    pad = int(np.abs(starts).max())
    if pad == 0:
        return
    wide = size + 2 * pad
    padded = np.empty((count, wide, wide * channels), np.uint8)
    fill = np.rint(border.fill[:channels]).astype(np.uint8)
    padded[...] = fill[0] if (fill == fill[0]).all() else np.tile(fill, wide)
    padded[:, pad:-pad, pad * channels : -pad * channels] = images.reshape(count, size, size * channels)
    rows = np.arange(count)[:, None] * wide + starts[:, 1:] + pad + np.arange(size)
    places = (rows * wide + starts[:, :1] + pad) * channels
    row = np.dtype((np.void, size * channels))
    pieces = np.lib.stride_tricks.as_strided(
        padded.reshape(-1)[: row.itemsize].view(row), (padded.size - row.itemsize + 1,), (1,), writeable=False
    )
    images[...] = pieces[places].view(np.uint8).reshape(images.shape)


def _mirror(images: np.ndarray, mirrored: np.ndarray) -> None:
    """Mirror images along x where ``mirrored[:, 0]``, along y where ``mirrored[:, 1]``."""
    import cv2

    count, size, _, channels = images.shape
    flat = images.reshape(count, -1)
    x, y = np.flatnonzero(mirrored[:, 0]), np.flatnonzero(mirrored[:, 1])
    if len(x):
        rows = flat[x].reshape(len(x) * size, size, channels)  # mirrored along x, all of them are one tall image
        flat[x] = cv2.flip(rows, 1).reshape(len(x), -1)
    if len(y):
        images[y] = images[y][:, ::-1]


def _warp(maps: np.ndarray, border: Border, images: np.ndarray, chosen: np.ndarray) -> None:
    import cv2

    size, channels = images.shape[1], images.shape[3]
    planes = images[..., 0] if channels == 1 else images
    source = np.empty(planes.shape[1:], np.uint8)
    flags = border.interpolation | cv2.WARP_INVERSE_MAP
    for i in chosen.tolist():
        np.copyto(source, planes[i])
        cv2.warpAffine(
            source,
            maps[i],
            (size, size),
            dst=planes[i],
            flags=flags,
            borderMode=border.mode,
            borderValue=border.fill[:channels],
        )


def _look_up(levels: np.ndarray, images: np.ndarray) -> None:
    import cv2

    changed = (levels != np.arange(256, dtype=np.uint8)).any(axis=1)
    for i in np.flatnonzero(changed).tolist():
        flat = images[i].reshape(len(images[i]), -1)  # (S, S * C): one table for all channels
        cv2.LUT(flat, levels[i], dst=flat)
