"""Drawing chest-like X-rays: anatomy by shapes, findings where a radiologist would look for them.

Coordinates are fractions of the image side, x to the right and y down; the patient's right side is on the left.
Values are densities, 0 black (air) to 1 white (bone, fluid). Each finding has an amount, 0 (none) to about 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

Points = Sequence[tuple[float, float]]
_SHIFT = 6  # sub-pixel bits of cv2's drawing functions


class Canvas:
    """A square float32 image with drawing in fractions of its side."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.pixels = np.zeros((side, side), np.float32)
        self.y, self.x = np.mgrid[0:side, 0:side].astype(np.float32) / side

    def polygon(self, points: Points, soft: float = 0.008) -> np.ndarray:
        """Mask in [0, 1] of a polygon with edges ``soft`` wide."""
        mask = np.zeros((self.side, self.side), np.uint8)
        cv2.fillPoly(mask, [self._fixed(points)], 255, cv2.LINE_AA, _SHIFT)
        return self._blur(mask.astype(np.float32) / 255, soft)

    def lines(self, curves: Sequence[Points], width: float, soft: float = 0.004) -> np.ndarray:
        """Mask in [0, 1] of polylines ``width`` wide."""
        mask = np.zeros((self.side, self.side), np.uint8)
        thickness = max(1, round(width * self.side))
        thin = min(1.0, width * self.side)  # a line thinner than a pixel is fainter instead
        cv2.polylines(mask, [self._fixed(c) for c in curves], False, round(255 * thin), thickness, cv2.LINE_AA, _SHIFT)
        return self._blur(mask.astype(np.float32) / 255, soft)

    def ellipse(self, centre: tuple[float, float], radii: tuple[float, float], turn: float, edge: float) -> np.ndarray:
        """Mask in [0, 1] of an ellipse turned by ``turn`` radians, with an edge ``edge`` wide relative to its radii."""
        dx, dy = self.x - centre[0], self.y - centre[1]
        c, s = float(np.cos(turn)), float(np.sin(turn))
        r = np.sqrt(((dx * c + dy * s) / radii[0]) ** 2 + ((dy * c - dx * s) / radii[1]) ** 2)
        mask: np.ndarray = np.clip((1 + edge - r) / (2 * edge), 0, 1)
        return mask

    def blob(self, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
        """A Gaussian hill of height 1."""
        hill: np.ndarray = np.exp(
            -0.5 * (((self.x - centre[0]) / radii[0]) ** 2 + ((self.y - centre[1]) / radii[1]) ** 2)
        )
        return hill

    def clouds(self, generator: np.random.Generator, grain: float) -> np.ndarray:
        """Smooth noise, mean 0 and standard deviation 1, with structures ``grain`` wide."""
        cells = max(2, round(1 / grain))
        noise = generator.standard_normal((cells, cells)).astype(np.float32)
        smooth: np.ndarray = cv2.resize(noise, (self.side, self.side), interpolation=cv2.INTER_CUBIC)
        return smooth

    def _fixed(self, points: Points) -> np.ndarray:
        return np.round(np.asarray(points, np.float64) * self.side * (1 << _SHIFT)).astype(np.int32).reshape(-1, 1, 2)

    def _blur(self, mask: np.ndarray, soft: float) -> np.ndarray:
        return cv2.GaussianBlur(mask, (0, 0), max(soft * self.side, 0.3))


def draw(
    side: int,
    view: str,
    amounts: Mapping[str, float],
    body: np.random.Generator,
    device: bool,
    shot: np.random.Generator,
) -> np.ndarray:
    """One X-ray, uint8 (side, side). ``body`` seeds the patient's build (the same for all images of a patient),
    ``shot`` this exposure: position, findings' places, noise."""
    canvas = Canvas(side)
    if view == "frontal":
        _frontal(canvas, amounts, body, device, shot)
    else:
        _lateral(canvas, amounts, body, shot)
    return _expose(canvas, shot)


def _lung(sign: float, wide: float, raised: float, apex: float, base: float) -> list[tuple[float, float]]:
    """Outline of a lung; ``sign`` -1 is the patient's right (left in the image)."""
    shape = [
        (0.10, apex + 0.03), (0.17, apex), (0.25, apex + 0.07), (0.31, 0.30), (0.345, 0.45), (0.365, 0.62),
        (0.365, base + 0.04), (0.33, base - 0.02 - raised), (0.26, base - 0.075 - raised),
        (0.18, base - 0.085 - raised), (0.10, base - 0.05 - raised), (0.075, base - 0.08 - raised),
        (0.075, 0.45), (0.07, 0.30), (0.075, apex + 0.10),
    ]  # fmt: skip
    return [(0.5 + sign * x * wide, y) for x, y in shape]


def _frontal(
    canvas: Canvas, amounts: Mapping[str, float], body: np.random.Generator, device: bool, shot: np.random.Generator
) -> None:
    wide = body.uniform(0.95, 1.1)
    apex, base = body.uniform(0.09, 0.14), body.uniform(0.82, 0.88)
    heart_lean, heart_size = body.uniform(-0.02, 0.02), body.normal(0, 0.022)
    fat = body.uniform(0, 1)
    band_side = float(shot.choice([-1.0, 1.0]))
    raised = {side: max(0.0, shot.normal(0.0, 0.012)) for side in (-1.0, 1.0)}
    raised[-1.0] += 0.02  # the liver
    raised[band_side] += 0.075 * amounts["Atelectasis"]
    image = canvas.pixels
    trunk = canvas.ellipse((0.5, 0.62), (0.47 * wide + 0.04 * fat, 0.66), 0.0, 0.06)
    image += trunk * (0.50 + 0.05 * fat) + canvas.blob((0.5, 1.02), (0.5, 0.16)) * 0.12
    lungs = {side: canvas.polygon(_lung(side, wide, raised[side], apex, base)) for side in (-1.0, 1.0)}
    air = np.maximum(lungs[-1.0], lungs[1.0])
    image -= air * (0.36 - 0.06 * fat)
    image += canvas.polygon([(0.46, 0.0), (0.54, 0.0), (0.545, 1.0), (0.455, 1.0)], 0.012) * 0.13
    image += canvas.ellipse((0.515, 0.28), (0.075, 0.20), 0.0, 0.25) * 0.12  # upper mediastinum
    _heart(canvas, air, wide, heart_lean, 0.45 + heart_size + 0.17 * amounts["Cardiomegaly"])
    _bones(canvas, wide, body)
    _vessels(canvas, air, shot, 0.06 + 0.07 * amounts["Edema"])
    image += (canvas.blob((0.3, 0.72), (0.13, 0.1)) + canvas.blob((0.7, 0.72), (0.13, 0.1))) * body.uniform(0, 0.1)
    _haze(canvas, air, wide, amounts["Edema"], shot)
    _patch(canvas, lungs, wide, amounts["Consolidation"], shot)
    _bands(canvas, lungs, wide, amounts["Atelectasis"], band_side, shot)
    _fluid(canvas, wide, base, amounts["Pleural Effusion"], shot)
    _distract(canvas, device, shot)


def _heart(canvas: Canvas, air: np.ndarray, wide: float, lean: float, ratio: float) -> None:
    """Its width over that of the chest is the cardiothoracic ratio: about .45, from .5 on enlarged."""
    half = ratio * 0.365 * wide
    mask = canvas.ellipse(
        (0.535 + lean + 0.12 * (ratio - 0.45), 0.66), (half, 0.145 + 0.3 * (ratio - 0.45)), 0.35, 0.05
    )
    canvas.pixels += mask * (0.05 + 0.27 * air)


def _bones(canvas: Canvas, wide: float, body: np.random.Generator) -> None:
    ribs, start, gap = [], body.uniform(0.13, 0.17), body.uniform(0.078, 0.09)
    slope = body.uniform(0.06, 0.12)
    along = np.linspace(0, 1, 12)
    for i in range(8):
        reach = 0.20 + 0.19 * min(1.0, (i + 1) / 4)
        for sign in (-1, 1):
            x = 0.5 + sign * wide * (0.05 + reach * along)
            y = start + i * gap - 0.03 * np.sin(np.pi * along) + slope * along**2
            ribs.append(list(zip(x.tolist(), y.tolist(), strict=True)))
    canvas.pixels += canvas.lines(ribs, 0.02, 0.006) * body.uniform(0.05, 0.085)
    collar = [[(0.5 + s * 0.05, 0.15), (0.5 + s * 0.2 * wide, 0.10), (0.5 + s * 0.38 * wide, 0.08)] for s in (-1, 1)]
    canvas.pixels += canvas.lines(collar, 0.025, 0.006) * 0.13


def _vessels(canvas: Canvas, air: np.ndarray, shot: np.random.Generator, strength: float) -> None:
    branches: list[list[tuple[float, float]]] = []
    for sign in (-1, 1):
        for _ in range(9):
            angle = shot.uniform(-1.2, 1.35)
            x, y, points = 0.5 + sign * 0.10, 0.44, []
            for _ in range(5):
                points.append((x, y))
                x += sign * 0.045 * np.cos(angle)
                y += 0.05 * np.sin(angle)
                angle += shot.normal(0, 0.25)
            branches.append(points)
    hila = canvas.blob((0.395, 0.45), (0.035, 0.06)) + canvas.blob((0.605, 0.43), (0.035, 0.06))
    canvas.pixels += air * canvas.lines(branches, 0.008, 0.004) * strength * 1.6 + hila * (0.07 + strength)


def _haze(canvas: Canvas, air: np.ndarray, wide: float, amount: float, shot: np.random.Generator) -> None:
    """Oedema: haze around both hila, like the wings of a bat, with fine lines."""
    if amount <= 0:
        return
    radii = (0.09 + 0.03 * amount, 0.15)
    wings = canvas.blob((0.5 - 0.17 * wide, 0.48), radii) + canvas.blob((0.5 + 0.17 * wide, 0.48), radii)
    texture = 1 + 0.35 * canvas.clouds(shot, 0.05)
    canvas.pixels += air * wings * texture * 0.21 * amount


def _patch(
    canvas: Canvas, lungs: Mapping[float, np.ndarray], wide: float, amount: float, shot: np.random.Generator
) -> None:
    """Consolidation: one irregular dense patch in one lung."""
    side = float(shot.choice([-1.0, 1.0]))
    x, y = 0.5 + side * wide * shot.uniform(0.17, 0.29), shot.uniform(0.24, 0.68)
    if amount <= 0:
        return
    size = shot.uniform(0.055, 0.08) * (0.75 + 0.5 * amount)
    hill = canvas.blob((x, y), (size, size * shot.uniform(0.8, 1.3)))
    ragged = np.clip(2.2 * (hill - 0.38 + 0.13 * canvas.clouds(shot, 0.045)), 0, 1)
    canvas.pixels += lungs[side] * cv2.GaussianBlur(ragged, (0, 0), 0.01 * canvas.side) * 0.36 * min(amount + 0.15, 1.0)


def _bands(
    canvas: Canvas,
    lungs: Mapping[float, np.ndarray],
    wide: float,
    amount: float,
    side: float,
    shot: np.random.Generator,
) -> None:
    """Atelectasis: plate-like bands above a raised half of the diaphragm."""
    if amount <= 0:
        return
    bands = []
    for _ in range(1 + int(shot.integers(0, 2)) + int(amount > 0.7)):
        x, y = 0.5 + side * wide * shot.uniform(0.14, 0.18), shot.uniform(0.56, 0.70)
        length, tilt = shot.uniform(0.13, 0.19), shot.normal(0.0, 0.14)
        bands.append(
            [(x, y), (x + side * length / 2, y + tilt * length / 2 - 0.008), (x + side * length, y + tilt * length)]
        )
    canvas.pixels += lungs[side] * canvas.lines(bands, 0.02, 0.005) * 0.34 * min(amount + 0.15, 1.0)


def _fluid(canvas: Canvas, wide: float, base: float, amount: float, shot: np.random.Generator) -> None:
    """Effusion: the costophrenic angle is blunted, then fluid rises, higher at the chest wall (meniscus)."""
    side = float(shot.choice([-1.0, 1.0]))
    both = shot.uniform() < 0.4
    if amount <= 0:
        return
    for sign, share in ((side, 1.0), (-side, 0.7 if both else 0.0)):
        level = amount * share
        if level <= 0:
            continue
        lateral = np.clip((sign * (canvas.x - 0.5) / wide - 0.07) / 0.30, 0, 1)
        surface = base + 0.035 - level * (0.06 + 0.20 * lateral**2) - 0.05 * lateral**4
        inside = (lateral > 0) & (lateral < 1) & (canvas.y < base + 0.06)
        fluid = np.clip((canvas.y - surface) / 0.03, 0, 1) * inside
        fluid = cv2.GaussianBlur(fluid.astype(np.float32), (0, 0), 0.008 * canvas.side)
        canvas.pixels += fluid * np.clip(0.60 - canvas.pixels, 0, 1) * 0.92


def _distract(canvas: Canvas, device: bool, shot: np.random.Generator) -> None:
    """What is there and means nothing: wires, a pacemaker, a side marker."""
    if device:
        wires = []
        for _ in range(int(shot.integers(1, 4))):
            x0, y0, x1 = shot.uniform(0.15, 0.85), shot.uniform(0.0, 0.2), shot.uniform(0.2, 0.8)
            wires.append([(x0, y0), ((x0 + x1) / 2 + shot.normal(0, 0.08), 0.4), (x1, shot.uniform(0.5, 1.0))])
        canvas.pixels += canvas.lines(wires, 0.008, 0.003) * 0.3
        if shot.uniform() < 0.25:
            canvas.pixels += canvas.ellipse((0.76, 0.2), (0.05, 0.04), 0.3, 0.1) * 0.4
    if shot.uniform() < 0.6:
        x, y = float(shot.choice([0.05, 0.9])), shot.uniform(0.03, 0.12)
        canvas.pixels += canvas.polygon([(x, y), (x + 0.03, y), (x + 0.03, y + 0.045), (x, y + 0.045)], 0.002) * 0.5


def _lateral(
    canvas: Canvas, amounts: Mapping[str, float], body: np.random.Generator, shot: np.random.Generator
) -> None:
    """From the side: spine to the right, sternum to the left, one lung field behind and above the heart."""
    base = body.uniform(0.80, 0.86)
    image = canvas.pixels
    image += canvas.ellipse((0.5, 0.6), (0.42, 0.66), 0.0, 0.06) * 0.55
    field = [(0.40, 0.12), (0.60, 0.12), (0.74, 0.30), (0.78, 0.60), (0.76, base + 0.04), (0.62, base - 0.05),
             (0.45, base - 0.10), (0.28, base - 0.05), (0.22, 0.55), (0.28, 0.28)]  # fmt: skip
    air = canvas.polygon(field)
    image -= air * 0.33
    spine = np.linspace(0.05, 1.0, 10)
    column = [(0.80 - 0.05 * float(np.sin(np.pi * y)) + 0.04, float(y)) for y in spine]
    image += canvas.lines([column], 0.07, 0.015) * 0.2
    large = amounts["Cardiomegaly"]
    image += canvas.ellipse((0.40, 0.64), (0.13 + 0.05 * large, 0.15 + 0.03 * large), -0.5, 0.08) * (0.05 + 0.25 * air)
    ribs = [[(0.25, 0.22 + 0.09 * i), (0.5, 0.27 + 0.09 * i), (0.78, 0.2 + 0.09 * i)] for i in range(7)]
    image += canvas.lines(ribs, 0.014, 0.006) * 0.05
    image += air * canvas.blob((0.52, 0.45), (0.10, 0.13)) * (0.07 + 0.2 * amounts["Edema"])
    x, y = shot.uniform(0.35, 0.68), shot.uniform(0.3, 0.7)
    image += air * canvas.blob((x, y), (0.06, 0.06)) * 0.25 * amounts["Consolidation"]
    band = [[(x - 0.09, 0.66), (x + 0.09, 0.70)]]
    image += air * canvas.lines(band, 0.02, 0.005) * 0.25 * amounts["Atelectasis"]
    behind = np.clip((canvas.x - 0.45) / 0.3, 0, 1)
    surface = base + 0.03 - amounts["Pleural Effusion"] * (0.02 + 0.2 * behind**2)
    fluid: np.ndarray = np.clip((canvas.y - surface) / 0.03, 0, 1) * air
    canvas.pixels += fluid * np.clip(0.58 - image, 0, 1) * 0.9


def _expose(canvas: Canvas, shot: np.random.Generator) -> np.ndarray:
    """Position, contrast, blur and noise of one exposure; uint8."""
    side = canvas.side
    centre = (side / 2, side / 2)
    turn = np.asarray(cv2.getRotationMatrix2D(centre, shot.normal(0, 2.5), shot.uniform(0.93, 1.07)), np.float64)
    turn[:, 2] += shot.normal(0, 0.018, 2) * side
    image = cv2.warpAffine(canvas.pixels, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    image = np.clip(image * shot.uniform(0.85, 1.2) + shot.normal(0.03, 0.03), 0, 1) ** shot.uniform(0.8, 1.25)
    image = cv2.GaussianBlur(image, (0, 0), shot.uniform(0.3, 0.8) * side / 112)
    image = image + 0.018 * canvas.clouds(shot, 0.12)
    image = image + shot.standard_normal(image.shape, dtype=np.float32) * shot.uniform(0.015, 0.045)
    shade: np.ndarray = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return shade
