"""Configs of the group ``model`` for tests: ``configs/model/timm.yaml`` without weights, some keys changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dam.config import ModelConfig

FILE = Path(__file__).parents[1] / "configs" / "model" / "timm.yaml"


def model_config(name: str, **changes: Any) -> ModelConfig:
    values = yaml.safe_load(FILE.read_text("utf-8"))
    return ModelConfig(**{**values, "name": name, "weights": None, **changes})
