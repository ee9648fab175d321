"""The settings by which a table is judged: defaults of ``configs/evaluation``, a run's own, and what was typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dam.errors import UserError
from dam.schema import ConfigError, Fault


def settings(words: Sequence[str], stored: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``{"data": {"unit", "merge"}, "evaluation": {...}}`` from ``key=value`` words, through the config's own check.

    ``stored``: the config of a run, whose values stand where nothing was typed. Raises ``ConfigError`` with all faults
    at once, ``UserError`` for a readers file that is not there.
    """
    from dam.compose import compose
    from dam.overrides import read

    typed = {setting.key for setting in read(words)[0]}
    foreign = [key for key in sorted(typed) if key not in ("data.unit", "data.merge") and key.startswith("data.")]
    if foreign:
        raise ConfigError([Fault(key, f"{key} chooses images, and here a table of predictions is judged: leave it out "
                                      "(an external set is added by --data NAME)") for key in foreign])  # fmt: skip
    config = compose(["data=csv", "data.root=.", *words])  # the dataset with no unit of its own
    result: dict[str, Any] = {
        "data": {"unit": config.data.unit, "merge": config.data.merge},
        "evaluation": dict(vars(config.evaluation)),
    }
    for node, values in result.items():
        kept = (stored or {}).get(node)
        for key in values if isinstance(kept, Mapping) else ():
            if kept is not None and key in kept and f"{node}.{key}" not in typed:
                values[key] = kept[key]
    if result["evaluation"]["readers"] is not None:
        result["evaluation"]["readers"] = _readers(result["evaluation"]["readers"])
    return result


def _readers(given: str) -> str:
    """The tables of readers (a file, several joined by commas, or a folder), each as an absolute path."""
    from pathlib import Path

    paths = [Path(part.strip()).expanduser().absolute() for part in given.split(",") if part.strip()]
    for path in paths:
        if not path.exists():
            raise UserError(
                f"there is no file or folder {path} of readers; --readers takes a table with study, reader, label, "
                "value, or tables of one reader each: several joined by commas, or their folder"
            )
    return ",".join(map(str, paths))
