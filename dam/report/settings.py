"""The `evaluation` node of a run's config; runs older than the node are read with the defaults of configs/."""

from __future__ import annotations

from dataclasses import fields

import yaml

from dam.config import EvaluationConfig
from dam.config_files import config_dir
from dam.errors import UserError
from dam.report.run_files import RunFiles


def evaluation_settings(run: RunFiles) -> EvaluationConfig:
    """The run's own values over those of ``configs/evaluation/default.yaml``. Raises ``UserError`` for unknown keys."""
    defaults = yaml.safe_load((config_dir() / "evaluation" / "default.yaml").read_text(encoding="utf-8"))
    own = run.setting("evaluation", default={})
    known = {field.name for field in fields(EvaluationConfig)}
    if not isinstance(own, dict) or set(own) - known:
        what = ", ".join(sorted(set(own) - known)) if isinstance(own, dict) else repr(own)
        raise UserError(
            f"{run.path / 'config.yaml'}: evaluation has no key {what}; known are {', '.join(sorted(known))}"
        )
    return EvaluationConfig(**{key: value for key, value in {**defaults, **own}.items() if key in known})


def rebalanced(run: RunFiles) -> bool:
    """True where training saw another class balance than the data has: a two-class sampler, thinning, or upsampling."""
    if run.setting("rebalanced"):  # said to `dam evaluate`
        return True
    if run.setting("data", "imratio") is not None or run.setting("data", "upsample"):
        return True
    parts = (run.setting(part, "sampler", "name") for part in ("warm_start", "auc", "control"))
    return any(name not in (None, "shuffle") for name in parts)
