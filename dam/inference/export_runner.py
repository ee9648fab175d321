#!/usr/bin/env python3
"""Scores image files with the ONNX model beside this script. It needs numpy, Pillow and onnxruntime, nothing else.

    python NAME_run.py IMAGE|FOLDER... [--model NAME.onnx] [--out scores.csv] [--batch 16]

Prints a row an image and label: image, label, score (logit), probability (calibrated; empty where the run had no
calibration), decision (1 where score >= the stored threshold). A file that cannot be read is named on standard error,
the others are scored, and the exit code is 1. Images of more than 8 bits and DICOM are refused: `dam predict` reads
them. Area averaging where an axis shrinks and linear interpolation where it grows are OpenCV's, to within one of 255
gray levels.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"}
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
MOST_PIXELS = 178_956_970
LARGE, SHORT = 25_000_000, 1024  # a larger JPEG is decoded at 1/2, 1/4 or 1/8, its short side not below SHORT
EXIF_ORIENTATION = 0x0112


def decode(file: Path) -> np.ndarray:
    """Pixels of an image file, uint8 (H, W) if gray or of three equal channels, else (H, W, 3) RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError("it has too many pixels to be decoded safely")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError("it has more than 8 bits a pixel; use `dam predict`")
    if image.format == "JPEG" and image.width * image.height > LARGE:
        divisor, pixels, side = 1, image.width * image.height, min(image.size)
        while divisor < 8 and pixels > LARGE * divisor**2 and side >= 2 * SHORT * divisor:
            divisor *= 2
        image.draft(image.mode, (image.width // divisor, image.height // divisor))
    image.load()
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    gray = image.mode in ("L", "1", "LA", "La")
    array = np.asarray(image.convert("L" if gray else "RGB"))
    if array.ndim == 3 and (array[..., :1] == array[..., 1:]).all():
        array = np.ascontiguousarray(array[..., 0])
    return array


def to_gray(image: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) to gray (H, W), ITU-R BT.601 in OpenCV's integers."""
    red, green, blue = (image[..., i].astype(np.uint32) for i in range(3))
    return ((red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15).astype(np.uint8)


def area_weights(before: int, after: int) -> np.ndarray:
    """(after, before): the share of every old pixel in every new one, by the length they have in common."""
    edges = np.arange(after + 1) * (before / after)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(before)
    common = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return np.asarray(common / common.sum(axis=1, keepdims=True))


def linear_weights(before: int, after: int) -> np.ndarray:
    """(after, before) of linear interpolation between pixel centres; beyond the outer ones their value holds."""
    centre = np.clip((np.arange(after) + 0.5) * (before / after) - 0.5, 0, before - 1)
    left = np.minimum(centre.astype(int), max(0, before - 2))
    weights = np.zeros((after, before))
    weights[np.arange(after), left] = 1 - (centre - left)
    weights[np.arange(after), np.minimum(left + 1, before - 1)] += centre - left
    return weights


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (H, W[, 3]) to (height, width[, 3]): first what shrinks, then what grows."""
    for weights_of, wanted in ((area_weights, np.minimum), (linear_weights, np.maximum)):
        rows, columns = int(wanted(height, image.shape[0])), int(wanted(width, image.shape[1]))
        if (rows, columns) == image.shape[:2]:
            continue
        values = image.astype(np.float32)
        if columns != image.shape[1]:
            across = weights_of(image.shape[1], columns).astype(np.float32)
            values = np.moveaxis(np.tensordot(values, across, axes=(1, 1)), -1, 1)
        if rows != image.shape[0]:
            values = np.tensordot(weights_of(image.shape[0], rows).astype(np.float32), values, axes=(1, 0))
        image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return image


def fit_image(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Square, ``size`` a side: squash, crop (the central square) or pad (centred on black)."""
    height, width = image.shape[:2]
    if fit == "squash":
        return resize(image, size, size)
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return resize(image[top : top + side, left : left + side], size, size)
    scale = size / max(height, width)
    inner = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    out = np.zeros((size, size, *image.shape[2:]), np.uint8)
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    out[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return out


def prepare(image: np.ndarray, wanted: dict[str, Any]) -> np.ndarray:
    """Decoded pixels to the model's input, uint8 (size, size, channels)."""
    if image.ndim == 3 and wanted["channels"] == 1:
        image = to_gray(image)
    image = fit_image(image, wanted["size"], wanted["fit"])
    return np.repeat(image[..., None], wanted["channels"], axis=-1) if image.ndim == 2 else image


def files_of(names: list[str]) -> Iterator[Path]:
    """The files named, and the images in the folders named."""
    for name in map(Path, names):
        if name.is_dir():
            yield from (p for p in sorted(name.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file())
        else:
            yield name


def decision(score: float, threshold: float | str | None) -> str:
    """1 or 0 by the stored threshold; empty where none was chosen."""
    return "" if threshold is None else str(int(score >= float(threshold)))


def score_files(session: Any, facts: dict[str, Any], names: list[str], batch: int, writer: Any) -> int:
    """Write the rows of every image; returns how many could not be read."""
    bad, coloured = 0, 0
    waiting: list[tuple[Path, np.ndarray]] = []

    def flush() -> None:
        if not waiting:
            return
        logits, chances = session.run(["logits", "probabilities"], {"images": np.stack([x for _, x in waiting])})
        for (file, _), scores, ps in zip(waiting, logits.tolist(), chances.tolist(), strict=True):
            for label, score, p in zip(facts["labels"], scores, ps, strict=True):
                known = "" if math.isnan(p) else f"{p:.9g}"
                writer.writerow([file, label, f"{score:.9g}", known, decision(score, facts["thresholds"][label])])
        waiting.clear()

    for file in files_of(names):
        try:
            image = decode(file)
        except (OSError, SyntaxError, ValueError, EOFError, TypeError, Image.DecompressionBombError) as error:
            print(f"{file}: {error}", file=sys.stderr)
            bad += 1
            continue
        coloured += image.ndim == 3 and facts["input"]["channels"] == 1
        waiting.append((file, prepare(image, facts["input"])))
        if len(waiting) == batch:
            flush()
    flush()
    if coloured:
        print(f"{coloured} colour images were made gray: the model was trained on gray ones", file=sys.stderr)
    return bad


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 all scored, 1 some could not be read, 2 nothing to do."""
    import onnxruntime

    parser = argparse.ArgumentParser(description="Scores of image files as CSV.")
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument("--model", help="the .onnx file; by default the one beside this script")
    parser.add_argument("--out", help="the CSV file; by default standard output")
    parser.add_argument("--batch", type=int, default=16, help="images at a time")
    given = parser.parse_args(arguments)
    script = Path(__file__)
    model = Path(given.model) if given.model else script.with_name(script.stem.removesuffix("_run") + ".onnx")
    if not model.is_file():
        print(f"there is no model {model}; name it by --model", file=sys.stderr)
        return 2
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["dam"])
    if not any(True for _ in files_of(given.images)):
        print(f"no image in {', '.join(given.images)}", file=sys.stderr)
        return 2
    target = open(given.out, "w", encoding="utf-8", newline="") if given.out else sys.stdout  # noqa: SIM115
    try:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(["image", "label", "score", "probability", "decision"])
        bad = score_files(session, facts, given.images, max(1, given.batch), writer)
    finally:
        if given.out:
            target.close()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
