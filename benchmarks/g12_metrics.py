"""Goal 12: every metric of 14 labels and 25,000 images, against the inference that made the scores."""

from __future__ import annotations

import numpy as np

from benchmarks.measure import Report, Rounds, cpu_seconds, line_of, milliseconds, profile_of
from benchmarks.workload import CHEST, config, inputs_of, make_stages, make_store, make_table
from dam.evaluation.assess import assess
from dam.evaluation.judge import judge
from dam.evaluation.predictions import Predictions, merge_units
from dam.training.device import resolve
from dam.training.module import infer

BOUND = 0.01
LABELS = tuple(f"finding {number}" for number in range(14))


def run(quick: bool) -> Report:
    """Judged is what every table gets: AUC, DeLong's variance, interval and mean over labels. The whole report's tables
    (thresholds, calibration, bootstrap, net benefit, trust) are shown beside it."""
    count, images, size = (2_000, 8, 64) if quick else (25_000, 64, 224)
    cfg = config(
        *CHEST, f"image_size={size}", "batch_size=16", "auc.labels=[Edema]", "auc.eval_every=1", "auc.epochs=1"
    )
    device = resolve(cfg)
    table = make_table(max(images, 64), ("Edema",))
    (stage,) = make_stages(cfg, inputs_of(cfg, table, make_store(len(table), size, 1), device), device)
    loader = stage.tools.inputs.loader(np.arange(images), ("Edema",))
    scores = Rounds({"inference": lambda: (infer(stage.network, loader, images, 32), images)[1]}).run(1 if quick else 3)
    inference = scores.median("inference") * count
    table_of_scores = _predictions(count)
    units = merge_units(table_of_scores)
    found = Rounds({"judge": lambda: _drop(judge(units))}).run(3 if quick else 9)
    ratios = [seconds / inference for seconds in found.seconds["judge"]]
    note = f"{milliseconds(found.median('judge'))} against {inference:,.0f} s: DenseNet-121, of {images} images"
    report = Report([line_of(ratios, f"AUC with intervals, 14 labels x {count:,}", BOUND, note=note)])
    began = cpu_seconds()
    assess(table_of_scores, None, None, cfg.evaluation)
    seconds = cpu_seconds() - began
    report.lines.append(line_of([seconds / inference], "every table of the report", note=f"{seconds:.1f} s"))
    if report.lines[0].missed:
        report.profile = profile_of(lambda: judge(units))
    return report


def _predictions(count: int) -> Predictions:
    rng = np.random.default_rng(0)
    targets = (rng.random((count, 14)) < 0.15).astype(np.float64)
    scores = rng.normal(size=targets.shape) + targets
    names = np.array([f"{number:06d}.jpg" for number in range(count)], object)
    patients = np.array([f"p{number // 2}" for number in range(count)], object)
    return Predictions(names, patients, np.full(count, "", object), LABELS, targets, {"auc": scores})


def _drop(_: object) -> None:
    """A variant's return value is a count of units."""
