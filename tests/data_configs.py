"""Configs of the group ``data`` for tests: the shipped YAML with some keys changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dam.config import DATA

CONFIGS = Path(__file__).parents[1] / "configs" / "data"


def data_values(name: str) -> dict[str, Any]:
    """The YAML of a dataset over those it starts from; dictionaries are merged key by key, as Hydra does."""
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text("utf-8"))
    merged: dict[str, Any] = {}
    for parent in values.pop("defaults", []):
        if parent != "_self_":
            merged = data_values(parent)
    for key, value in values.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def data_config(dataset: str, **changes: Any) -> Any:
    return DATA[dataset](**{**data_values(dataset), **changes})
