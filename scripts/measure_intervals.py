"""Do the intervals hold what they promise? Coverage of every method, and how often a null comparison "helps".

Scores are binormal with a known true AUC. "independent": 200 images of 200 patients, 20 of them positive. "3 images a
patient": 150 patients, the label is the patient's (15 or 45 positive), and 70 % of the scores' variance is shared by a
patient's images; `delong` and `logit` take the images for independent there, as they do for a user who asks for them.
A study without an interval (all positives above all negatives) is counted apart, not as covered. Null comparisons: two
models of the same true AUC whose scores correlate, K labels; "helps" is right in none of them.

    python scripts/measure_intervals.py --out docs/measurements/intervals-2026-11-21.csv
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from dam.evaluation.auc import placements
from dam.evaluation.bootstrap import Draws, RankedCases, Replicates, bootstrap_aucs
from dam.evaluation.intervals import Interval, auc_interval, clustered_covariance, count_cases, delong_covariance
from dam.evaluation.judge import judge
from dam.evaluation.predictions import Units
from dam.evaluation.verdict import make_verdict
from dam.files import atomic_write_text

METHODS = ("auto", "delong", "logit", "clustered", "bootstrap")
SHARED = 0.7  # of the scores' variance within a patient
CORRELATION = 0.8  # of two models' scores in a null comparison


@dataclass(frozen=True)
class Design:
    """How a study looks."""

    name: str
    patients: int
    positives: int  # patients
    images: int = 1  # of each patient
    labels: int = 1
    alike: bool = False  # the labels have the same positives, and scores that correlate between labels


COVERAGE = (
    Design("independent", 200, 20),
    Design("3 images a patient, 15 patients positive", 150, 15, 3),
    Design("3 images a patient, 45 patients positive", 150, 45, 3),
)
NULL = (
    *(Design(f"1 label, {m} positives", 200, m) for m in (15, 25, 40)),
    *(Design(f"5 labels, {m} positives", 200, m, labels=5) for m in (15, 25, 40)),
    Design("5 labels with the same 15 positives", 200, 15, labels=5, alike=True),
    Design("1 label, 3 images a patient, 15 patients positive", 150, 15, 3),
    Design("5 labels, 3 images a patient, 15 patients positive", 150, 15, 3, 5),
)
AUCS = (0.75, 0.85, 0.95)


@dataclass(frozen=True)
class Row:
    """One line of the table; ``rate`` is the coverage, or the share of false "helps"."""

    measure: str
    design: str
    true_auc: float
    method: str
    studies: int
    replicates: int  # of the bootstrap, else 0
    rate: float
    monte_carlo_se: float
    mean_width: float
    without_interval: int


def study(design: Design, auc: float, models: int, rng: np.random.Generator) -> Units:
    """Draw one study: ``models`` of the same true AUC on the same images."""
    n = design.patients
    patients = np.repeat(np.arange(n), design.images)
    columns: list[np.ndarray] = []
    noises: list[np.ndarray] = []
    for _ in range(design.labels):
        noise, y = _noise(design, patients, models, rng), np.zeros(n)
        y[rng.choice(n, design.positives, replace=False)] = 1
        if design.alike and columns:
            noise = math.sqrt(CORRELATION) * noises[0] + math.sqrt(1 - CORRELATION) * noise
        columns.append(columns[0] if design.alike and columns else y[patients])
        noises.append(noise)
    scores = [math.sqrt(2) * ndtri(auc) * y + noise for y, noise in zip(columns, noises, strict=True)]
    names = tuple(f"label{j}" for j in range(design.labels))
    by_model = {f"model{r}": np.stack([s[r] for s in scores], axis=1) for r in range(models)}
    return Units("image", "mean", names, patients, np.stack(columns, axis=1), by_model, len(patients))


def _noise(design: Design, patients: np.ndarray, models: int, rng: np.random.Generator) -> np.ndarray:
    """Scores (models, images) of variance 1; each part is of a patient or an image, and of all models or of one."""
    shared = SHARED if design.images > 1 else 0.0
    common = CORRELATION if models > 1 else 0.0
    of_patient, of_image = math.sqrt(shared), math.sqrt(1 - shared)
    parts = [
        of_patient * rng.normal(size=design.patients)[patients] + of_image * rng.normal(size=len(patients))
        for _ in range(models + 1)
    ]
    return math.sqrt(common) * parts[0] + math.sqrt(1 - common) * np.stack(parts[1:])


def interval_of(units: Units, method: str, replicates: int, seed: int) -> Interval:
    """The interval of one label and model by one method, as ``judge`` makes it but without its other work."""
    y, s, patients = units.targets[:, 0], units.scores["model0"][:, 0], units.patients
    if method in ("delong", "logit"):
        patients = np.arange(len(y))
    placed, counts = placements(y, s), count_cases(y, patients)
    if counts.clustered or method == "clustered":
        variance = float(clustered_covariance(placed, patients[y == 1], patients[y == 0])[0, 0])
    else:
        variance = float(delong_covariance(placed)[0, 0])
    found = auc_interval(float(placed.auc[0]), variance, counts, "auto" if method == "bootstrap" else method)
    if method != "bootstrap" or math.isnan(found.low):
        return found
    count = int(patients.max()) + 1
    return Replicates(
        bootstrap_aucs([RankedCases(y, s, patients, count)], Draws(count, replicates, seed))[0]
    ).interval()


def coverage(design: Design, auc: float, method: str, studies: int, replicates: int = 0) -> Row:
    """Share of ``studies`` whose interval holds the true AUC; the same studies for every method."""
    covered, widths, without = 0, [], 0
    for seed in range(studies):
        units = study(design, auc, 1, np.random.default_rng([seed, round(100 * auc)]))
        found = interval_of(units, method, replicates, seed)
        if math.isnan(found.low):
            without += 1
            continue
        covered += found.low <= auc <= found.high
        widths.append(found.high - found.low)
    share = covered / len(widths)
    error = math.sqrt(share * (1 - share) / len(widths))
    return Row("coverage", design.name, auc, method, studies, replicates, share, error, float(np.mean(widths)), without)


def false_helps(design: Design, auc: float, method: str, studies: int, replicates: int = 0) -> Row:
    """Share of null comparisons whose verdict is "helps", which is right in none."""
    helps, widths, without = 0, [], 0
    pair = ("model1", "model0")
    for seed in range(studies):
        units = study(design, auc, 2, np.random.default_rng([seed, round(100 * auc), 1]))
        found = make_verdict(judge(units, [pair], method, max(1, replicates), seed), *pair)
        helps += found.word == "helps"
        if found.word == "not testable":
            without += 1
        else:
            widths.append(found.high - found.low)
    share = helps / studies
    error = math.sqrt(share * (1 - share) / studies)
    width = float(np.mean(widths)) if widths else math.nan
    return Row("false helps", design.name, auc, method, studies, replicates, share, error, width, without)


def measure(studies: int, null_studies: int, bootstrap_studies: int, replicates: int) -> Iterable[Row]:
    """Every row of the table, one after another."""
    for design in COVERAGE:
        for auc in AUCS:
            for method in METHODS:
                boot = method == "bootstrap"
                count = bootstrap_studies if boot else studies
                yield coverage(design, auc, method, count, replicates if boot else 0)
    for design in NULL:
        for auc in AUCS:
            yield false_helps(design, auc, "auto", null_studies)
        yield false_helps(design, 0.85, "delong", null_studies)
        yield false_helps(design, 0.85, "bootstrap", bootstrap_studies, replicates)


def main() -> None:
    """Measure, print as it goes, and write the table."""
    import io

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--studies", type=int, default=2000, help="of each design, AUC and method")
    parser.add_argument("--null-studies", type=int, default=1000, help="null comparisons of each design and AUC")
    parser.add_argument("--bootstrap-studies", type=int, default=500, help="studies where the bootstrap is judged")
    parser.add_argument("--replicates", type=int, default=500, help="of the bootstrap in each of its studies")
    args = parser.parse_args()
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in measure(args.studies, args.null_studies, args.bootstrap_studies, args.replicates):
        values = asdict(row) | {k: f"{getattr(row, k):.4f}" for k in ("rate", "monte_carlo_se", "mean_width")}
        writer.writerow(values)
        print(
            f"{row.measure:11} | {row.design:50} | {row.true_auc:.2f} | {row.method:9} | {row.studies:4} | "
            f"{row.rate:.3f} +- {row.monte_carlo_se:.3f} | width {row.mean_width:.3f} | {row.without_interval} without",
            flush=True,
        )
    atomic_write_text(args.out, text.getvalue())


if __name__ == "__main__":
    main()
