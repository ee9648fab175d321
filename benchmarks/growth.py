"""How time and memory grow with images, labels, diseases and processes: a fitted exponent each (1 is linear).

The exponent is the slope of log(time) over log(size) without the smallest size, where fixed costs show. What sorts is
not judged: N log N has a slope above 1, and so has every table that outgrows the caches.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import workload
from benchmarks.g12_metrics import _predictions
from benchmarks.measure import Line, Report, cpu_seconds
from dam.config import SamplerConfig, TwoClassConfig
from dam.data.sampling import make_sampler
from dam.data.store import ImageStore
from dam.data.table import check
from dam.evaluation.auc import placements, roc_auc
from dam.evaluation.intervals import delong_covariance
from dam.evaluation.judge import judge
from dam.evaluation.predictions import Predictions, merge_units
from dam.objectives import AUCMarginLoss
from dam.training.device import resolve
from dam.training.inputs import on_paper
from dam.training.plan import make_plan
from dam.training.rundir import RunDirectory

BOUND = 1.15
TORCH = ("loss: forward and backward", "second part, one step each")  # tracemalloc does not see torch's memory
Job = Callable[[], Any]


def run(quick: bool) -> Report:
    """Each row of the table: what grows, with what, seconds and peak megabytes at the sizes."""
    report, rows = Report(), []
    for axis, jobs, sizes in (
        ("images", _images, (1_000, 3_000) if quick else (1_000, 10_000, 100_000, 1_000_000)),
        ("labels", _labels, (1, 3) if quick else (1, 3, 10, 30, 100)),
        ("diseases", _diseases, (1, 2) if quick else (1, 5, 10, 20, 40)),
    ):
        found: dict[str, list[tuple[float, float]]] = {}
        for size in sizes:
            for name, job in jobs(size).items():
                found.setdefault(name, []).append((_seconds(job), _peak(job)))
        for name, values in found.items():
            seconds, peaks = ([value[part] for value in values] for part in (0, 1))
            rows.append(_row(axis, name, sizes[: len(seconds)], seconds, peaks))  # some jobs leave the largest out
    rows.append(_processes((1, 2) if quick else (1, 2, 4, 8)))
    for row in rows:
        for part in ("time",) if row["what"] in TORCH else ("time", "memory"):
            what = f"{row['what']}: {part} against {row['with']}"
            bound = None if "(sorts)" in row["what"] and part == "time" else BOUND
            report.lines.append(Line(what, row[f"{part} exponent"], bound, note="exponent"))
    report.facts["growth"] = rows
    return report


def _row(axis: str, name: str, sizes: tuple[int, ...], seconds: list[float], peaks: list[float]) -> dict[str, Any]:
    return {
        "what": name,
        "with": axis,
        "sizes": ", ".join(f"{size:,}" for size in sizes),
        "ms": ", ".join(f"{1e3 * value:.3g}" for value in seconds),
        "peak MB": ", ".join(f"{value / 1e6:.3g}" for value in peaks),
        "time exponent": exponent(sizes, seconds),
        "memory exponent": exponent(sizes, peaks),
    }


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Slope of the logarithms over all sizes but the smallest."""
    kept = max(2, len(sizes) - 1)
    x, y = np.log(sizes[-kept:]), np.log(np.maximum(values[-kept:], 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def _seconds(job: Job) -> float:
    best, spent, times = float("inf"), 0.0, 0
    gc.collect()
    while times < 2 or (spent < 0.2 and times < 20):
        began = cpu_seconds()
        job()
        taken = cpu_seconds() - began
        best, spent, times = min(best, taken), spent + taken, times + 1
    return best


def _peak(job: Job) -> float:
    """Bytes allocated by Python and numpy at the worst moment, beyond those before."""
    tracemalloc.start()
    job()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(peak)


def _images(count: int) -> dict[str, Job]:
    table = workload.make_table(count, ("a",), validation=count // 10)
    store = workload.make_store(len(table), 8, 1, Path(tempfile.mkdtemp()))
    targets = table.targets()
    rng = np.random.default_rng(0)
    y, s = targets[:count, 0].astype(np.float64), np.round(rng.normal(size=count), 4)
    order = rng.permutation(count)
    units = merge_units(_scored(y, s))
    return {
        "table: check": lambda: check(table),
        "store: open and match": lambda: ImageStore(store.path).rows_for(table),
        "store: read all rows at random": lambda: [
            store.take(part) for part in np.array_split(order, -(-count // 256))
        ],
        "sampler shuffle: an epoch": lambda: make_sampler(SamplerConfig("shuffle"), targets, 32, 0).epoch(1),
        "sampler two_class: an epoch": lambda: make_sampler(TwoClassConfig("two_class", 0.5), targets, 32, 0).epoch(1),
        "metrics: AUC (sorts)": lambda: roc_auc(y, s),
        "metrics: DeLong (sorts)": lambda: delong_covariance(placements(y, s)),
        "metrics: judge (sorts)": lambda: judge(units),
    }


def _scored(y: np.ndarray, s: np.ndarray) -> Predictions:
    names = np.array([f"{number:07d}.jpg" for number in range(len(y))], object)
    patients = np.array([f"p{number // 2}" for number in range(len(y))], object)
    return Predictions(names, patients, np.full(len(y), "", object), ("a",), y[:, None], {"auc": s[:, None]})


def _labels(count: int) -> dict[str, Job]:
    loss, scores = AUCMarginLoss(num_labels=count), torch.randn(128, count, requires_grad=True)
    targets = (torch.rand(128, count) < 0.2).float()
    table = workload.make_table(20_000, tuple(f"label {number}" for number in range(count)), validation=2_000)
    whole = _predictions(5_000)
    columns = np.arange(count) % 14
    units = merge_units(
        Predictions(whole.images, whole.patients, whole.studies, tuple(f"l{k}" for k in range(count)),
                    whole.targets[:, columns], {"auc": whole.scores["auc"][:, columns]})
    )  # fmt: skip
    return {
        "loss: forward and backward": lambda: loss(scores, targets).backward(),
        "table: check": lambda: check(table),
        "metrics: judge": lambda: judge(units),
    }


def _diseases(count: int) -> dict[str, Job]:
    labels = tuple(f"label {number}" for number in range(count))
    table = workload.make_table(5_000, labels)
    cfg = workload.config(*workload.CIFAR, "auc.epochs=1", "auc.eval_every=1")
    inputs = on_paper(cfg, table)
    device = resolve(cfg)
    one = workload.config(*workload.CIFAR, "batch_size=16", "auc.epochs=1", "auc.eval_every=1")
    store = workload.make_store(len(table), 32, 3)
    ready = workload.inputs_of(one, table, store, device)

    def train() -> None:
        for stage in workload.make_stages(one, ready, device):
            workload.train(stage, 1)

    jobs: dict[str, Job] = {"plan of the second part": lambda: make_plan(cfg, inputs, RunDirectory(Path()))}
    if count <= 10:
        jobs["second part, one step each"] = train
    return jobs


def _processes(counts: tuple[int, ...]) -> dict[str, Any]:
    """Processes that read one store at a time: CPU seconds and memory of all together, shared pages divided."""
    store = workload.make_store(20_000, 32, 3)
    seconds, peaks = [], []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            began = cpu_seconds()
            children = []
            for number in range(count):
                child = os.fork()
                if child == 0:
                    mine = ImageStore(store.path)
                    rows = np.random.default_rng(number).permutation(len(mine))
                    for part in np.array_split(rows, 200):
                        mine.take(part)
                    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
                    share = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
                    (Path(folder) / str(number)).write_text(json.dumps(share), encoding="utf-8")
                    os._exit(0)
                children.append(child)
            for child in children:
                os.waitpid(child, 0)
            seconds.append(cpu_seconds() - began)
            peaks.append(1024 * sum(json.loads(file.read_text(encoding="utf-8")) for file in Path(folder).iterdir()))
    return _row("processes", "processes reading one store", counts, seconds, [float(peak) for peak in peaks])
