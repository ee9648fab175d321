"""Numbers as they are printed, and the rows of report/auc.csv and auc.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dam.evaluation.judge import AucRow, ComparisonRow, Judgement
from dam.evaluation.predictions import MEAN, Units
from dam.evaluation.rows import Assessment
from dam.report.frames import csv_text

AUC_COLUMNS = ("split", "label", "model", "n", "n_pos", "auc", "ci_low", "ci_high", "interval")
COMPARISON_COLUMNS = ("split", "label", "a", "b", "difference", "ci_low", "ci_high", "p_value", "p_holm")
PAIRS = (("auc", "ce"), ("auc", "focal"), ("auc", "warm_start"), ("blend", "auc"))  # the one that counts comes first
CONTROLS = ("ce", "focal")
_VARIANTS = (
    "_tta",
    "_meta",
    "_tta_meta",
)  # augmented copies, metadata mixed in: against without, and against the control
_VARIANT_PAIRS = tuple(
    (f"auc{v}", other) for v in _VARIANTS for other in ("auc", *(f"{control}{v}" for control in CONTROLS))
)
SHOWN = 4  # models in one figure; more lines cannot be told apart


@dataclass(frozen=True)
class JudgedSplit:
    """One split of a run, judged."""

    split: str
    units: Units
    judgement: Judgement
    assessment: Assessment | None = None

    @property
    def external(self) -> bool:
        """True for a set from elsewhere, brought by `dam evaluate --data`."""
        return self.split.startswith("external_")

    @property
    def title(self) -> str:
        """The split as the report calls it."""
        if self.external:
            return f"external set {self.split.removeprefix('external_')}"
        return self.split

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.units.scores)

    @property
    def patients(self) -> int:
        return len(set(self.units.patients.tolist()))

    def row(self, label: str, model: str) -> AucRow:
        """The AUC row of a label (or MEAN) and model."""
        return next(r for r in self.judgement.aucs if (r.label, r.model) == (label, model))

    def comparison(self, label: str, pair: tuple[str, str]) -> ComparisonRow:
        """The comparison of a label (or MEAN) and pair."""
        return next(c for c in self.judgement.comparisons if (c.label, c.a, c.b) == (label, *pair))


def pairs_of(models: Sequence[str]) -> list[tuple[str, str]]:
    """The comparisons a report makes of the models there are, the fair one (same training, other loss) first."""
    if models and models[0] == "ensemble" and all("@" in m for m in models[1:]):  # its members, the best on val first
        return [(models[0], m) for m in models[1:]]
    pairs = [pair for pair in (*PAIRS, *_VARIANT_PAIRS) if set(pair) <= set(models)]
    if "auc" not in models and "warm_start" in models:
        pairs += [(m, "warm_start") for m in CONTROLS if m in models]
    if not pairs and not set(models) & {"auc", "warm_start", *CONTROLS}:  # of another tool: all against the first
        pairs = [(m, models[0]) for m in models[1:]]
    return pairs


def primary_pair(models: Sequence[str]) -> tuple[str, str] | None:
    """The comparison that answers whether the second part helped, or None with one model."""
    pairs = pairs_of(models)
    return pairs[0] if pairs else None


def is_fair(pair: tuple[str, str]) -> bool:
    """True for a comparison of two objectives at equal training: the one that counts."""
    return pair[0].startswith("auc") and pair[1] in {c + pair[0].removeprefix("auc") for c in CONTROLS}


def without_interval(judged: JudgedSplit) -> list[str]:
    """Why an AUC of the table has no interval; labels without an AUC are in the judgement's own notes."""
    rows = [r for r in judged.judgement.aucs if not math.isnan(r.auc) and math.isnan(r.ci_low) and r.label != MEAN]
    return [f"{r.label}, {r.model}: interval {r.interval}" for r in rows]


def auc_records(judged: Sequence[JudgedSplit]) -> list[dict[str, object]]:
    """Rows of auc.csv and of "auc" in auc.json; NaN is None."""
    return [_record(AUC_COLUMNS, {"split": s.split, **vars(row)}) for s in judged for row in s.judgement.aucs]


def comparison_records(judged: Sequence[JudgedSplit]) -> list[dict[str, object]]:
    """Rows of "comparisons" in auc.json; NaN is None."""
    return [
        _record(COMPARISON_COLUMNS, {"split": s.split, **vars(row)}) for s in judged for row in s.judgement.comparisons
    ]


def _record(columns: Sequence[str], values: dict[str, object]) -> dict[str, object]:
    return {c: None if isinstance(v := values[c], float) and math.isnan(v) else v for c in columns}


def auc_csv(judged: Sequence[JudgedSplit]) -> str:
    """The text of auc.csv, floats in full precision, NaN blank."""
    return csv_text(auc_records(judged), AUC_COLUMNS)


# ---------------------------------------------------------------- numbers


def number(value: float, sign: bool = False, dash: str = "–") -> str:
    """An AUC (or with ``sign`` a difference) to three decimals without the leading zero: .843, 1.000, -.012."""
    if math.isnan(value):
        return dash
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    if text in ("+0.000", "-0.000"):
        text = "0.000"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def with_interval(value: float, low: float, high: float, sign: bool = False, dash: str = "–") -> str:
    """ ".843 [.475, .969]"; without an interval the value alone, a dash where there is no value."""
    if math.isnan(value) or math.isnan(low):
        return number(value, sign, dash)
    return f"{number(value, sign)} [{number(low, sign)}, {number(high, sign)}]"


def p_text(p: float, dash: str = "–") -> str:
    """A p value to three decimals, "<.001" below."""
    if math.isnan(p):
        return dash
    return "<.001" if p < 0.001 else number(p)


def verdict(row: ComparisonRow) -> str:
    """ "tie" where the interval holds 0, else which model is higher; for a label also after Holm's adjustment."""
    if math.isnan(row.difference):
        return "not comparable"
    if math.isnan(row.ci_low):
        return "not testable"
    if row.tie:
        return "tie"
    higher = f"{row.a if row.difference > 0 else row.b} higher"
    return higher if row.label == MEAN or row.p_holm < 0.05 else f"{higher}, not after Holm"


def plural(count: int, what: str) -> str:
    """ "1 study", "2 studies"."""
    if count == 1:
        return f"1 {what}"
    return f"{count} {what[:-1]}ies" if what.endswith("y") else f"{count} {what}s"


def judged_on(split: JudgedSplit) -> str:
    """How the split was judged: "120 studies of 80 patients (mean score of 160 images)"."""
    units = split.units
    text = plural(len(units.targets), units.unit)
    if units.unit != "patient" and split.patients < len(units.targets):
        text += f" of {plural(split.patients, 'patient')}"
    if units.unit != "image":
        text += f" ({units.merge} score of {plural(units.images, 'image')})"
    return text


def rounded(value: float, digits: int = 3, dash: str = "–") -> str:
    """A number that is no share: ``digits`` decimals, a dash where undefined."""
    return dash if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def share(value: float, dash: str = "–") -> str:
    """A prevalence as a percentage: "12 %", "0.4 %"."""
    if math.isnan(value):
        return dash
    return f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:.0f} %"


def shown_models(models: Sequence[str]) -> tuple[str, ...]:
    """The models that figures draw, at most SHOWN of them, in the order of the tables; tables hold all."""
    first = [m for m in ("auc", "ce", "focal", "warm_start", "blend") if m in models]
    wanted = (first + [m for m in models if m not in first])[:SHOWN]
    return tuple(m for m in models if m in wanted)


def main_models(models: Sequence[str]) -> tuple[str, ...]:
    """The model of the headline and its control (or warm start), for what is told of two models only."""
    pair = primary_pair(models)
    if pair is not None:
        return pair
    return tuple(models[-1:])
