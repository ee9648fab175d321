"""A plain folder (or archive) of images without labels, for pretraining."""

from __future__ import annotations

import pandas as pd

from dam.config import DataConfig
from dam.data.datasets.csv_folders import images_below
from dam.data.datasets.csv_patients import SPLIT_WORDS
from dam.data.datasets.csv_roots import parse_root
from dam.data.table import ImageTable
from dam.errors import UserError


def read(cfg: DataConfig) -> ImageTable:
    """Every image below ``data.root``, in whatever folders; those below a folder ``val`` or ``test`` at its top stay
    out of training. There are no labels and no patients. Raises ``UserError``."""
    if cfg.labels:
        raise UserError(f"data.labels={list(cfg.labels)}: data=folder has no labels; use data=csv for a table of them")
    root = parse_root(cfg.root, "the images")
    found, notes = images_below(root)
    if not found:
        raise UserError(f"data.root={root.shown} holds no image: give the folder that they are in, with data.root=PATH")
    frame = pd.DataFrame({"image": [*map(root.locators(root.folder), found)]})
    frame["patient"] = frame["study"] = frame["image"]
    frame["split"] = [SPLIT_WORDS.get(name.split("/", 1)[0].lower(), "train") for name in found]
    return ImageTable(frame, (), root.folder, cfg.name, tuple(notes))
