"""Our numbers beside the paper's: mean and standard deviation over folds, interval over patients, reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dam.report.document import Table
from dam.report.tables import number, p_text, plural, with_interval
from dam.studies.measures import Arm
from dam.studies.paired import Paired
from dam.studies.study import Reference

TITLES = {
    "auc": "AUC",
    "precision_negative": "precision of negatives",
    "precision_positive": "precision of positives",
    "sensitivity_negative": "sensitivity of negatives",
    "sensitivity_positive": "sensitivity of positives",
    "trust_positive": "trust of positives",
    "trust_negative": "trust of negatives",
    "brier": "Brier score",
    "ece": "ECE",
    "nll": "NLL",
    "slope": "slope",
}
References = Mapping[str, Mapping[str, Reference]]


def title(measure: str) -> str:
    """A measure in words."""
    stem = measure.removesuffix("_calibrated")
    return TITLES[stem] + (", calibrated" if stem != measure else "")


def spread(mean: float, sd: float | None, dash: str = "–") -> str:
    """ ".896 ± .016"; the mean alone without a standard deviation."""
    return number(mean, dash=dash) + ("" if sd is None or math.isnan(sd) else f" ± {number(sd)}")


def beside_paper(
    caption: str, names: Sequence[str], arms: Mapping[str, Arm], measures: Sequence[str], references: References
) -> tuple[Table, list[dict[str, Any]]]:
    """A table with one row an arm, and its numbers in full precision as rows of a CSV file.

    ``names``: all arms of the study; one without a result has dashes. Of each measure: ours with the standard deviation
    over folds, the 95 % interval of that mean over test patients, and the paper's.
    """
    file = caption.partition(":")[0].lower().replace(" ", "_")
    header = ["", "folds"]
    for measure in measures:
        header += [title(measure), "95 % CI", "the paper"]
    lines, rows = [], []
    for name in names:
        arm = arms.get(name)
        line = [name, str(len(arm.judged)) if arm else "0"]
        for measure in measures:
            cells, row = _cells(name, arm, measure, references.get(measure, {}).get(name))
            line += cells
            rows.append(row)
        lines.append(tuple(line))
    return Table(tuple(header), tuple(lines), caption, f"{file}.csv"), rows


def _cells(name: str, arm: Arm | None, measure: str, paper: Reference | None) -> tuple[list[str], dict[str, Any]]:
    mean, sd, low, high, method = math.nan, math.nan, math.nan, math.nan, "no cell is finished"
    some = ""
    if arm is not None:
        mean, sd, some = arm.mean(measure), arm.sd(measure), _some(arm, measure)
        low, high, method = vars(arm.interval(measure)).values()
    row = {
        "arm": name, "measure": measure, "mean": mean, "sd": sd, "ci_low": low, "ci_high": high, "interval": method,
        "replicates": int((~np.isnan(arm.values(measure))).sum()) if arm else 0,
        "paper_mean": paper.mean if paper else None, "paper_sd": paper.sd if paper else None,
    }  # fmt: skip
    interval = "–" if math.isnan(low) else f"[{number(low)}, {number(high)}]"
    return [spread(mean, sd) + some, interval, spread(paper.mean, paper.sd) if paper else "–"], row


def _some(arm: Arm, measure: str) -> str:
    """ " (4 folds)" where not all of the arm's define the measure."""
    defined = int((~np.isnan(arm.values(measure))).sum())
    return f" ({plural(defined, 'fold')})" if 0 < defined < len(arm.judged) else ""


def differences(caption: str, rows: Sequence[Paired], file: str) -> Table:
    """Paired differences a - b over patients and over folds, with the paper's."""
    header = ("a − b", "measure", "over patients", "p (Holm)", "over folds", "p", "the paper", "here")
    lines = [
        (
            f"{row.a} − {row.b}",
            title(row.measure),
            with_interval(row.difference, row.low, row.high, sign=True),
            p_text(row.p_holm),
            "–" if math.isnan(row.fold_low) else f"[{number(row.fold_low, True)}, {number(row.fold_high, True)}]",
            p_text(row.fold_p),
            number(row.paper, sign=True),
            row.word,
        )
        for row in rows
    ]
    return Table(header, tuple(lines), caption, file)


def calibration(names: Sequence[str], arms: Mapping[str, Arm]) -> tuple[Table, list[dict[str, Any]]]:
    """Trust beside the proper measures of the same probabilities, before and after calibration on validation."""
    measures = ("trust_positive", "trust_negative", "brier", "nll", "ece", "slope")
    lines, rows = [], []
    for name in names:
        for stage, suffix in (("before", ""), ("after", "_calibrated")):
            arm = arms.get(name)
            row: dict[str, Any] = {"arm": name, "stage": stage}
            line = [name, stage]
            for measure in measures:
                mean, sd = (arm.mean(measure + suffix), arm.sd(measure + suffix)) if arm else (math.nan, math.nan)
                row |= {measure: mean, f"{measure}_sd": sd}
                line.append(spread(mean, sd) + (_some(arm, measure + suffix) if arm else ""))
            rows.append(row)
            lines.append(tuple(line))
    header = ("", "calibration", *(title(measure) for measure in measures))
    return Table(header, tuple(lines), "Calibration beside trust, mean ± sd over folds", "calibration.csv"), rows
