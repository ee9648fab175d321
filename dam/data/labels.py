"""From what a label file says to training targets: uncertain, blank and fractional labels."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from dam.config import DataConfig
from dam.data.datasets import DATASETS
from dam.data.table import UNCERTAIN, ImageTable, counted, named
from dam.errors import UserError

T = TypeVar("T")


def apply_policies(table: ImageTable, cfg: DataConfig) -> ImageTable:
    """Resolve blank and uncertain (-1) labels as ``data.blank``, ``data.uncertain``, ``data.smooth`` and ``data.soft``
    say, label by label; a note a step tells how many rows it changed.

    Training rows: ``zeros`` and ``ones`` set the class, ``ignore`` makes the label unknown (NaN), ``smooth`` draws the
    target once per row from U(lo, hi) (Pham et al. 2021, arXiv 1911.06475) seeded by ``data.split_seed``, ``keep``
    leaves uncertainty as a target of one half. Fractions are kept (``soft=weights``) or cut at one half (``resolve``).
    Validation and test rows always get a class, so that an AUC exists: ``smooth`` gives the class of the middle of its
    range, a fraction is cut at one half, and ``keep`` makes the label unknown, since one half is neither class.

    Raises ``UserError`` for a policy key that is no label, a missing ``default``, and a range outside [0, 1].
    """
    _check_keys(table, cfg)
    training = table.frame["split"].isin(["train", ""]).to_numpy()
    values = table.frame[list(table.labels)].to_numpy(dtype=np.float64, copy=True)
    notes: list[str] = []
    for k, label in enumerate(table.labels):
        notes += _resolve(values[:, k], training, label, cfg)
    frame = table.frame.copy()
    frame[list(table.labels)] = values
    return table.with_frame(frame, *notes)


def hard_targets(table: ImageTable, cfg: DataConfig) -> np.ndarray:
    """Targets as if every row were judged: float64 (rows, labels) of 1, 0 and NaN. Splits are stratified by these."""
    _check_keys(table, cfg)
    values = table.frame[list(table.labels)].to_numpy(dtype=np.float64, copy=True)
    judged = np.zeros(len(table), dtype=bool)
    for k, label in enumerate(table.labels):
        _resolve(values[:, k], judged, label, cfg)
    return values


def _resolve(column: np.ndarray, training: np.ndarray, label: str, cfg: DataConfig) -> list[str]:
    """Change one label's values in place; the notes of what changed."""
    notes = []
    blank = np.isnan(column)
    uncertain = column == UNCERTAIN
    fraction = (column > 0) & (column < 1)
    blank_policy = _chosen(cfg.blank, label)
    if blank.any():
        column[blank] = 0.0 if blank_policy == "zeros" else np.nan
        notes.append(
            f"{label}: {counted(int(blank.sum()), 'blank label')} -> {'0' if blank_policy == 'zeros' else 'unknown'}"
        )
    policy = _chosen(cfg.uncertain, label)
    if uncertain.any():
        column[uncertain] = _uncertain_values(policy, training[uncertain], label, cfg)
        notes.append(f"{label}: {counted(int(uncertain.sum()), 'uncertain label')} -> {_told(policy, label, cfg)}")
    soft = (column > 0) & (column < 1)
    cut = soft & (~training | (cfg.soft == "resolve"))
    column[cut] = (column[cut] >= 0.5).astype(float)
    n_cut = int((cut & fraction).sum())
    if n_cut:
        notes.append(f"{label}: {counted(n_cut, 'fraction')} cut at one half")
    n_kept = int((soft & fraction & ~cut).sum())
    if n_kept:
        notes.append(f"{label}: {counted(n_kept, 'fraction')} kept as soft targets in training")
    return notes


def _uncertain_values(policy: str, training: np.ndarray, label: str, cfg: DataConfig) -> np.ndarray:
    if policy == "zeros":
        return np.zeros(len(training))
    if policy == "ones":
        return np.ones(len(training))
    if policy == "ignore":
        return np.full(len(training), np.nan)
    if policy == "keep":
        return np.where(training, 0.5, np.nan)
    low, high = _chosen(cfg.smooth, label)
    generator = np.random.default_rng([cfg.split_seed, zlib.crc32(b"smooth"), zlib.crc32(label.encode())])
    drawn = generator.uniform(low, high, len(training))
    return np.where(training, drawn, float((low + high) / 2 >= 0.5))


def _told(policy: str, label: str, cfg: DataConfig) -> str:
    if policy == "smooth":
        low, high = _chosen(cfg.smooth, label)
        return f"U({low:g}, {high:g}) in training, {int((low + high) / 2 >= 0.5)} elsewhere"
    return {
        "zeros": "0",
        "ones": "1",
        "ignore": "unknown",
        "keep": "one half in training, unknown elsewhere",
    }[policy]


def _chosen(policies: Mapping[str, T], label: str) -> T:
    return policies[label] if label in policies else policies["default"]


def _check_keys(table: ImageTable, cfg: DataConfig) -> None:
    for key, policies in (("uncertain", cfg.uncertain), ("blank", cfg.blank), ("smooth", cfg.smooth)):
        if "default" not in policies:
            raise UserError(f"data.{key} has no entry 'default': add data.{key}.default=...")
        # A dataset's yaml holds policies for its usual labels, of which this run may have left some out.
        usual = DATASETS[cfg.name].labels if cfg.name in DATASETS else ()
        for name in policies:
            if name not in ("default", *table.labels, *usual):
                near = difflib.get_close_matches(name, ["default", *table.labels], 1, 0.6)
                hint = f"; did you mean {near[0]!r}?" if near else ": leave it out, or use 'default'."
                raise UserError(
                    f"data.{key}.{name} names no label of this table, which has {named(table.labels)}{hint}"
                )
    for name, bounds in cfg.smooth.items():
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
            raise UserError(
                f"data.smooth.{name}={list(bounds)} is no range: give [low, high] with 0 <= low <= high <= 1."
            )
