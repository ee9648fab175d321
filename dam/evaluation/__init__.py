"""Evaluation of a predictions table: AUC, intervals, tests, calibration. Imports no torch."""

from dam.evaluation.agreement import (
    Agreement,
    agreement,
    brier,
    equal_mass,
    equal_width,
    reliability,
    smooth_calibration,
)
from dam.evaluation.assess import assess
from dam.evaluation.auc import RocCurve, placements, roc_auc, roc_curve, why_undefined
from dam.evaluation.bootstrap import Draws, RankedCases, Replicates, bootstrap_aucs
from dam.evaluation.calibration import Blend, Platt, blend_tables, fit_blend, fit_platt, fit_temperature
from dam.evaluation.comparisons import Difference, contrast_test, holm, macro_mean, paired_test, unpaired_test
from dam.evaluation.curves import (
    average_precision,
    partial_auc,
    pr_curve,
    roc_at,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)
from dam.evaluation.fitted import Fitted, LabelFit, fit, fit_label
from dam.evaluation.groups import group_units
from dam.evaluation.intervals import auc_interval, clustered_covariance, count_cases, delong_covariance
from dam.evaluation.judge import AucRow, ComparisonRow, Judgement, judge
from dam.evaluation.net_benefit import decision_curve
from dam.evaluation.operating import (
    Counts2x2,
    Threshold,
    choose_threshold,
    clopper_pearson,
    confusion,
    mcnemar,
    predictive_values,
    wilson,
)
from dam.evaluation.predictions import (
    Predictions,
    Units,
    make_predictions,
    merge_units,
    read_predictions,
    write_predictions,
)
from dam.evaluation.radiologists import nrbc_rows, reader_point, reader_row
from dam.evaluation.reader_tables import ReaderTable, join_readers, read_readers
from dam.evaluation.resampled import RocBand, roc_band
from dam.evaluation.rows import (
    Assessment,
    CalibrationRow,
    DensityRow,
    NetBenefitRow,
    NrbcRow,
    OperatingRow,
    PerformanceRow,
    ReaderRow,
    ReliabilityRow,
    SubgroupRow,
    TrustRow,
)
from dam.evaluation.subgroups import subgroup_rows
from dam.evaluation.trust import binary_trust, class_trust, trust_density
from dam.evaluation.verdict import Verdict, make_verdict

__all__ = [
    "Agreement",
    "Assessment",
    "AucRow",
    "Blend",
    "CalibrationRow",
    "ComparisonRow",
    "Counts2x2",
    "DensityRow",
    "Difference",
    "Draws",
    "Fitted",
    "Judgement",
    "LabelFit",
    "NetBenefitRow",
    "NrbcRow",
    "OperatingRow",
    "PerformanceRow",
    "Platt",
    "Predictions",
    "RankedCases",
    "ReaderRow",
    "ReaderTable",
    "ReliabilityRow",
    "Replicates",
    "RocBand",
    "RocCurve",
    "SubgroupRow",
    "Threshold",
    "TrustRow",
    "Units",
    "Verdict",
    "agreement",
    "assess",
    "auc_interval",
    "average_precision",
    "binary_trust",
    "blend_tables",
    "bootstrap_aucs",
    "brier",
    "choose_threshold",
    "class_trust",
    "clopper_pearson",
    "clustered_covariance",
    "confusion",
    "contrast_test",
    "count_cases",
    "decision_curve",
    "delong_covariance",
    "equal_mass",
    "equal_width",
    "fit",
    "fit_blend",
    "fit_label",
    "fit_platt",
    "fit_temperature",
    "group_units",
    "holm",
    "join_readers",
    "judge",
    "macro_mean",
    "make_predictions",
    "make_verdict",
    "mcnemar",
    "merge_units",
    "nrbc_rows",
    "paired_test",
    "partial_auc",
    "placements",
    "pr_curve",
    "predictive_values",
    "read_predictions",
    "read_readers",
    "reader_point",
    "reader_row",
    "reliability",
    "roc_at",
    "roc_auc",
    "roc_band",
    "roc_curve",
    "sensitivity_at_specificity",
    "smooth_calibration",
    "specificity_at_sensitivity",
    "subgroup_rows",
    "trust_density",
    "unpaired_test",
    "why_undefined",
    "wilson",
    "write_predictions",
]
