"""A small network on metadata (age, sex, site), and how its columns become numbers.

What is learned of the columns (means, deviations, categories) comes from training rows and is kept as JSON beside the
weights, so that new rows can be encoded without the dataset.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from dam.config import MetadataConfig
from dam.errors import UserError, in_a_line
from dam.models.backbones import seeded

MISSING_WORDS = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "unknown"})  # in lower case
_LARGEST = 1e30  # a number beyond it is taken for missing
_ROUNDING = 1e-12  # a deviation below this share of the mean is none
MOST_CATEGORIES = 100  # a column with more words names rows; it does not describe them


@dataclass(frozen=True)
class ColumnEncoding:
    """One column. ``number``: (x - mean) / std, 0 where missing and where training has one value only (std 0), then an
    indicator of missing. ``category``: one column a word of training, then one for missing or new words."""

    name: str
    kind: str  # number or category
    mean: float = 0.0
    std: float = 1.0
    words: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Number of features."""
        return 2 if self.kind == "number" else len(self.words) + 1

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        """float32 (N, width)."""
        if self.kind == "number":
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
            missing = ~np.isfinite(numbers)
            scaled = np.where(missing | (self.std == 0), 0.0, (numbers - self.mean) / (self.std or 1.0))
            return np.stack([scaled, missing], axis=1).astype(np.float32)
        place = {word: i for i, word in enumerate(self.words)}
        codes = np.array([place.get(_word(value), len(self.words)) for value in values], dtype=np.int64)
        return np.eye(self.width, dtype=np.float32)[codes]


@dataclass(frozen=True)
class MetadataEncoding:
    """How metadata columns become the features of ``MetadataNetwork``, in this order."""

    columns: tuple[ColumnEncoding, ...]

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(column.width for column in self.columns)

    def encode(self, values: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """float32 (N, width) from columns of N values each. Raises ``UserError`` naming a column that is absent."""
        absent = [column.name for column in self.columns if column.name not in values]
        if absent:
            several = len(absent) > 1
            raise UserError(
                f"the metadata column{'s' * several} {', '.join(absent)} {'are' if several else 'is'} missing; "
                f"there are {', '.join(map(str, values)) or 'none'}"
            )
        return np.concatenate([column.encode(list(values[column.name])) for column in self.columns], axis=1)

    def to_json(self) -> str:
        """JSON text; ``from_json`` gives an equal encoding back, to the last bit."""
        return json.dumps({"columns": [asdict(column) for column in self.columns]}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> MetadataEncoding:
        """Raises ``UserError`` for text that ``to_json`` did not write."""
        try:
            entries = json.loads(text)["columns"]
            return MetadataEncoding(tuple(ColumnEncoding(**{**e, "words": tuple(e["words"])}) for e in entries))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the run's metadata/encoding.json is damaged ({in_a_line(error)}); put back a copy of it"
            ) from error


def fit_encoding(columns: Sequence[str], training: Mapping[str, Sequence[Any]]) -> MetadataEncoding:
    """Learn each of ``columns`` from the values of the training rows.

    Missing are blanks, NaN and the words of ``MISSING_WORDS``. A column whose other values are all numbers is
    standardized by their mean and (population) standard deviation, any other is one-hot with its words in order; of one
    without values every value is new.
    Raises ``UserError`` for a column of more than ``MOST_CATEGORIES`` words.
    """
    found = []
    for name in columns:
        known = [word for word in map(_word, training[name]) if word]
        numbers = np.array([_number(word) for word in known], dtype=np.float64)
        if known and np.isfinite(numbers).all():
            mean, std = float(numbers.mean()), float(numbers.std())
            constant = std <= _ROUNDING * abs(mean)  # equal numbers may differ from their mean by a rounding
            found.append(ColumnEncoding(name, "number", mean, 0.0 if constant else std))
            continue
        words = tuple(sorted(set(known)))
        if len(words) > MOST_CATEGORIES:
            raise UserError(
                f"metadata.columns: {name} holds {len(words)} different words (such as {', '.join(words[:3])}): that "
                "tells rows apart and describes none; leave it out"
            )
        found.append(ColumnEncoding(name, "category", words=words))
    return MetadataEncoding(tuple(found))


def _word(value: Any) -> str:
    """The value as a word, "" where it is missing."""
    word = "" if value is None else str(value).strip()
    return "" if word.lower() in MISSING_WORDS else word


def _number(value: Any) -> float:
    try:
        number = float(_word(value))
    except ValueError:
        return math.nan
    return number if abs(number) < _LARGEST else math.nan


class MetadataNetwork(nn.Module):
    """Features (N, inputs) float32 to logits (N, outputs): linear layers with ReLU and dropout, then the head.

    The paper names the two widths (256, 128), not the activation. Initial values are a function of ``seed``.
    """

    def __init__(self, cfg: MetadataConfig, inputs: int, outputs: int, seed: int) -> None:
        super().__init__()
        with seeded(seed):
            layers: list[nn.Module] = []
            for width, following in zip([inputs, *cfg.hidden], cfg.hidden, strict=False):
                layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(cfg.drop_rate)]
            self.features = nn.Sequential(*layers)
            self.head = nn.Linear(cfg.hidden[-1], outputs)

    def forward_features(self, features: Tensor) -> Tensor:
        """(N, hidden[-1])."""
        hidden: Tensor = self.features(features)
        return hidden

    def forward_head(self, hidden: Tensor) -> Tensor:
        """(N, outputs) logits."""
        logits: Tensor = self.head(hidden)
        return logits

    def forward(self, features: Tensor) -> Tensor:
        """(N, outputs) logits."""
        return self.forward_head(self.forward_features(features))


def mix_scores(image: np.ndarray, metadata: np.ndarray, weight: float) -> np.ndarray:
    """The logit of weight * sigmoid(metadata) + (1 - weight) * sigmoid(image); logits in, any equal shapes, float64."""
    with np.errstate(divide="ignore", invalid="ignore"):  # log 0 leaves one of the two alone; NaN stays NaN
        ours, theirs = np.log(weight), np.log1p(-weight)
        positive = np.logaddexp(ours - np.logaddexp(0, -metadata), theirs - np.logaddexp(0, -image))
        negative = np.logaddexp(ours - np.logaddexp(0, metadata), theirs - np.logaddexp(0, image))
    mixed: np.ndarray = positive - negative
    return mixed
