"""One word on a comparison: does model a help against model b, on this test set, and what could the set have shown?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from dam.evaluation.judge import ComparisonRow, Judgement
from dam.evaluation.predictions import MEAN

POWER = 0.8


@dataclass(frozen=True)
class Verdict:
    """The paired difference a - b of the mean AUC in a word: "helps", "tie", "hurts" or "not testable".

    "helps" only where the whole 95 % interval lies above 0, "hurts" only where it lies below. ``smallest_detectable``
    is the true difference that a two-sided 5 % test would have found with 80 % power, by the normal approximation
    (z_.975 + z_.8) SE; NaN without a standard error. ``seeds`` trainings were compared; where there are several,
    ``seeds_mean`` and ``seeds_sd`` (divisor n - 1) describe their differences, else NaN: the interval is about the
    sample of patients, not about training again.
    """

    a: str
    b: str
    word: str
    difference: float
    low: float
    high: float
    p_value: float
    smallest_detectable: float
    test: str  # how the interval and p were made, or why there is none
    seeds: int
    seeds_mean: float
    seeds_sd: float
    text: str


def make_verdict(judgement: Judgement, a: str, b: str, title: str = "", seeds: Sequence[float] = ()) -> Verdict:
    """The verdict on a compared pair of ``judgement``: its difference of the mean over labels is the primary test.

    Args:
        judgement: of ``judge``, which was given the pair (a, b).
        a: the model that may help.
        b: the model it is held against.
        title: how the text names the comparison ("AUC against CE at equal training"); "a against b" if blank.
        seeds: differences of the mean AUC, one a seed (this run among them); NaN are left out.

    Raises ``ValueError`` where the pair was not compared.
    """
    rows = [row for row in judgement.comparisons if (row.label, row.a, row.b) == (MEAN, a, b)]
    if not rows:
        raise ValueError(f"the pair {a}, {b} was not compared: give it to judge() among its pairs")
    row = rows[0]
    known = np.array([d for d in seeds if not math.isnan(d)], dtype=np.float64)
    several = len(known) > 1
    mean, sd = (float(known.mean()), float(known.std(ddof=1))) if several else (math.nan, math.nan)
    detectable = smallest_detectable(row.se)
    count = max(1, len(known))
    text = f"{title or f'{a} against {b}'}: {_sentence(row, detectable)}; {_spread(count, mean, sd)}"
    return Verdict(
        *(a, b, verdict_word(row), row.difference, row.ci_low, row.ci_high, row.p_value, detectable, row.test),
        *(count, mean, sd, text),
    )


def verdict_word(row: ComparisonRow) -> str:
    """ "helps" where the interval lies above 0, "hurts" below, "tie" where it holds 0, "not testable" without one."""
    if math.isnan(row.ci_low):
        return "not testable"
    if row.tie:
        return "tie"
    return "helps" if row.ci_low > 0 else "hurts"


def smallest_detectable(se: float, power: float = POWER, level: float = 0.95) -> float:
    """True difference found with this power by a two-sided test, normal approximation: (z_.975 + z_.8) SE.

    NaN for a standard error that is NaN or 0.
    """
    return float((ndtri(0.5 + level / 2) + ndtri(power)) * se) if se > 0 else math.nan


def _sentence(row: ComparisonRow, detectable: float) -> str:
    word = verdict_word(row)
    if math.isnan(row.difference):
        return f"{word}, {row.test}"
    if word == "not testable":
        return f"{word}, difference of the mean AUC {_number(row.difference)}, {row.test}"
    text = f"{word}, difference of the mean AUC {_number(row.difference)} "
    text += f"[{_number(row.ci_low)}, {_number(row.ci_high)}], p {_p(row.p_value)}"
    if math.isnan(detectable):
        return f"{text}; {row.test}"
    return f"{text}; this test set could have shown {_number(detectable, sign=False)} (80 % power)"


def _spread(seeds: int, mean: float, sd: float) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds: mean {_number(mean)}, SD {_number(sd, sign=False)}"


def _number(value: float, sign: bool = True) -> str:
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    if text in ("+0.000", "-0.000"):
        text = "0.000"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def _p(p: float) -> str:
    return "<.001" if p < 0.001 else _number(p, sign=False)
