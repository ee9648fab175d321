"""Goal 8: DeLong's interval against one AUC of scikit-learn's; a thousand bootstrap replicates against resampling."""

from __future__ import annotations

import numpy as np

from benchmarks.measure import Report, Rounds, milliseconds, profile_of, repeated
from dam.evaluation.auc import placements
from dam.evaluation.bootstrap import Draws, RankedCases, bootstrap_aucs
from dam.evaluation.intervals import auc_interval, count_cases, delong_covariance


def run(quick: bool) -> Report:
    """N = 10,000, a tenth positive, each case a patient of its own."""
    from sklearn.metrics import roc_auc_score

    count, replicates = (2_000, 50) if quick else (10_000, 1_000)
    rng = np.random.default_rng(0)
    y = (rng.random(count) < 0.1).astype(np.float64)
    s = rng.normal(size=count) + y
    patients = np.arange(count)

    def delong() -> None:
        placed = placements(y, s)
        auc_interval(float(placed.auc[0]), float(delong_covariance(placed)[0, 0]), count_cases(y), "delong")

    def ranked() -> None:
        bootstrap_aucs([RankedCases(y, s, patients, count)], Draws(count, replicates, 0))

    def naive() -> None:
        draws = np.random.default_rng(0)
        for _ in range(replicates):
            rows = draws.integers(0, count, count)
            roc_auc_score(y[rows], s[rows])

    times = 5 if quick else 50
    small = Rounds({"delong": repeated(delong, times), "sklearn": repeated(lambda: roc_auc_score(y, s), times)})
    small.run(3 if quick else 11)
    large = Rounds({"ranked": ranked, "naive": naive}).run(2 if quick else 5)
    note = f"{milliseconds(small.median('delong'))} against {milliseconds(small.median('sklearn'))}"
    report = Report([small.line("delong", "sklearn", f"AUC with DeLong's interval, N = {count:,}", 0.25, note=note)])
    note = f"{milliseconds(large.median('ranked'))} against {milliseconds(large.median('naive'))}"
    report.lines.append(large.line("ranked", "naive", f"{replicates:,} bootstrap replicates", 0.08, note=note))
    for line, function in zip(report.lines, (repeated(delong, 20), ranked), strict=True):
        if line.missed:
            report.profile += f"{line.what}\n{profile_of(function)}\n"
    return report
