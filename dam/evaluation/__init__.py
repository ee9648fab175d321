"""Evaluation of a predictions table: AUC, intervals, tests, calibration. Imports no torch."""

from dam.evaluation.auc import RocCurve, placements, roc_auc, roc_curve, why_undefined
from dam.evaluation.calibration import Blend, Platt, blend_tables, fit_blend, fit_platt
from dam.evaluation.comparisons import Difference, holm, macro_mean, paired_test
from dam.evaluation.intervals import auc_interval, clustered_covariance, count_cases, delong_covariance
from dam.evaluation.judge import AucRow, ComparisonRow, Judgement, judge
from dam.evaluation.predictions import (
    Predictions,
    Units,
    make_predictions,
    merge_units,
    read_predictions,
    write_predictions,
)

__all__ = [
    "AucRow",
    "Blend",
    "ComparisonRow",
    "Difference",
    "Judgement",
    "Platt",
    "Predictions",
    "RocCurve",
    "Units",
    "auc_interval",
    "blend_tables",
    "clustered_covariance",
    "count_cases",
    "delong_covariance",
    "fit_blend",
    "fit_platt",
    "holm",
    "judge",
    "macro_mean",
    "make_predictions",
    "merge_units",
    "paired_test",
    "placements",
    "read_predictions",
    "roc_auc",
    "roc_curve",
    "why_undefined",
    "write_predictions",
]
