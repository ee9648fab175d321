"""A COVIDx folder as COVID-Net's and Kaggle's: flat train/ and test/, lists whose lines have three to five fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = [
    "5 auntminnie-a.png negative cohen",
    "5 auntminnie-b.png positive cohen",  # one id in both classes
    "ANON56 actmed-1.PNG positive actmed",
    "COVID 1 COVID(1).png positive sirm",  # five fields
    "COVID 2 COVID(2).png positive sirm",
    "419639-000238 MIDRC-RICORD-1C-419639-000238-46556-1.png positive ricord",
    "0004cfab 0004cfab.png negative rsna",
    "000924cf 000924cf.png negative rsna",
    "00f08de1 00f08de1.jpg NEGATIVE rsna",
]
TEST = ["419639-1 ricord-1.png positive ricord", "0a1b 0a1b.png negative rsna", "0a1c 0a1c.png negative rsna"]


def save(path: Path, number: int, side: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + number % 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def file_of(line: str) -> str:
    words = line.split()
    return words[-3 if words[-1].lower() not in ("negative", "positive", "normal", "pneumonia", "covid-19") else -2]


def write(root: Path, lists: dict[str, list[str]], images: Path, pictures: bool = True) -> Path:
    """``lists``: file name -> lines; images go to ``images/<split>/``."""
    for number, (name, lines) in enumerate(lists.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))
        split = next(s for s in ("train", "test", "val") if s in path.name)
        for k, line in enumerate(lines if pictures else []):
            save(images / split / file_of(line), 100 * number + k)
    return root


def many(root: Path, patients: int = 40) -> Path:
    """Enough for five folds and a test set."""
    train = [
        f"{n} a{n}-{k}.png {'positive' if n % 4 == 0 else 'negative'} cohen" for n in range(patients) for k in (0, 1)
    ]
    test = [f"t{n} t{n}.png {'positive' if n % 2 else 'negative'} rsna" for n in range(8)]
    return write(root, {"train.txt": train, "test.txt": test}, root)
