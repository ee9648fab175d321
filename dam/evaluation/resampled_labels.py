"""One pass of the patient bootstrap over all labels and models: performance, rates at thresholds, calibration error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit

from dam.evaluation.agreement import BINS, equal_mass
from dam.evaluation.auc import Array
from dam.evaluation.bootstrap import Draws, Replicates
from dam.evaluation.resampled import (
    CurveSampler,
    average_precisions,
    partial_aucs,
    sensitivities_at,
    specificities_at,
)

Codes = NDArray[np.intp]
CURVES = ("ap", "pauc", "sens_at_spec", "spec_at_sens")
RATES = ("sensitivity", "specificity", "ppv", "npv", "accuracy")


@dataclass(frozen=True)
class Job:
    """Numbers of one label and model that are drawn together; ``draw(weights (patients, b))`` gives (names, b)."""

    names: tuple[str, ...]
    draw: Callable[[Array], Array]


def run_jobs(jobs: Sequence[Job], draws: Draws) -> list[dict[str, Replicates]]:
    """The replicates of every job's numbers, by name; the same draws for all jobs."""
    found = [np.empty((len(job.names), draws.replicates)) for job in jobs]
    start = 0
    for weights in draws.weights() if jobs else ():
        stop = start + weights.shape[1]
        for job, values in zip(jobs, found, strict=True):
            values[:, start:stop] = job.draw(weights)
        start = stop
    return [dict(zip(job.names, map(Replicates, rows), strict=True)) for job, rows in zip(jobs, found, strict=True)]


def curve_job(cases: tuple[Array, Array, Codes], count: int, targets: tuple[float, float, float]) -> Job:
    """``CURVES`` of cases (y, scores, patients) of both classes; ``targets`` = (max FPR, specificity, sensitivity)."""
    y, scores, patients = cases
    max_fpr, specificity, sensitivity = targets
    sampler = CurveSampler(y, scores, patients, count)

    def draw(weights: Array) -> Array:
        drawn = sampler.draw(weights)
        return np.stack(
            [
                average_precisions(drawn),
                partial_aucs(drawn, max_fpr),
                sensitivities_at(drawn, specificity),
                specificities_at(drawn, sensitivity),
            ]
        )

    return Job(CURVES, draw)


def rates_job(cases: tuple[Array, Array, Codes], count: int, threshold: float) -> Job:
    """``RATES`` at one threshold of raw scores; NaN in a replicate that has no such case."""
    y, scores, patients = cases
    called = scores >= threshold
    kinds = ((y == 1) & called, (y == 0) & called, (y == 1) & ~called, (y == 0) & ~called)
    counts = np.stack([np.bincount(patients[kind], minlength=count) for kind in kinds]).astype(np.float64)

    def draw(weights: Array) -> Array:
        tp, fp, fn, tn = counts @ weights
        parts, wholes = (tp, tn, tp, tn, tp + tn), (tp + fn, tn + fp, tp + fp, tn + fn, tp + fp + fn + tn)
        nothing = [np.full(len(tp), np.nan) for _ in parts]
        return np.stack(
            [np.divide(p, w, out=out, where=w > 0) for p, w, out in zip(parts, wholes, nothing, strict=True)]
        )

    return Job(RATES, draw)


def ece_job(y: Array, stages: Mapping[str, Array], patients: Codes, count: int) -> Job:
    """Calibration error of sigmoid(logits) of each stage, named as it, over the sample's own bins of equal mass."""
    gaps, codes = [], []
    for i, logits in enumerate(stages.values()):
        p = expit(logits)
        gaps.append(p - y)
        codes.append(equal_mass(p) + i * BINS)
    owners = np.tile(patients, len(stages))
    shape = (len(stages) * BINS, count)
    sums = sparse.csc_array((np.concatenate(gaps), (np.concatenate(codes), owners)), shape=shape)
    owned = np.bincount(patients, minlength=count).astype(np.float64)

    def draw(weights: Array) -> Array:
        n = owned @ weights
        errors = np.abs(sums @ weights).reshape(len(stages), BINS, -1).sum(axis=1)
        return np.asarray(np.divide(errors, n, out=np.full(errors.shape, np.nan), where=n > 0))

    return Job(tuple(stages), draw)
