"""What a GPU does: images a second, busy share, peak memory; DenseNet-121 at 224 and 320 and ConvNeXt-T at 224, bf16,
batch 64, warm start and AUC stage apart; the loader alone; the optimizer's step; compile on and off; CUDA graphs.

One command, no network, under eight minutes: ``python -m benchmarks gpu``. ``measure(device)`` also runs on a CPU at
toy sizes, which is how the tests exercise it.
"""

from __future__ import annotations

import copy
import itertools
import os
import statistics
import time
from contextlib import closing
from typing import Any, NamedTuple

import torch

from benchmarks import workload
from benchmarks.measure import Line, Report
from dam.objectives import PESG, AUCMarginLoss
from dam.training.device import resolve
from dam.training.stage import Stage

BUSY = 0.95


class Case(NamedTuple):
    """A network at a size."""

    model: tuple[str, ...]
    size: int
    batch: int


CASES = {
    "DenseNet-121, 224": Case(("model=densenet121",), 224, 64),
    "DenseNet-121, 320": Case(("model=densenet121",), 320, 64),
    "ConvNeXt-T, 224": Case(("model=convnext_tiny",), 224, 64),
}
TOY = {"toy": Case(("model=timm", "model.name=resnet8_cifar"), 32, 4)}


def run(quick: bool) -> Report:
    """Everything, on the first CUDA device."""
    return measure("cuda", CASES, steps=10 if quick else 40, workers=min(16, os.cpu_count() or 1))


def measure(device: str, cases: dict[str, Case], steps: int, workers: int) -> Report:
    """Rows for every case; the busy share of ``DenseNet-121, 224`` is judged."""
    report, rows = Report(), []
    for name, case in cases.items():
        stages = {part: _stage(device, case, part, steps, workers) for part in ("warm start", "AUC stage")}
        for part, stage in stages.items():
            rows.append({"case": name, "part": part, **_training(stage, steps)})
        stage = stages["AUC stage"]
        rows.append({"case": name, "part": "step on data in memory", **_alone(stage, steps)})
        rows.append({"case": name, "part": "loader alone", **_reading(stage, steps)})
        rows.append({"case": name, "part": "evaluation", **_evaluating(stage)})
        bound = BUSY if name == "DenseNet-121, 224" else None
        busy = rows[-4]["busy share"]
        report.lines.append(Line(f"{name}: share of the AUC step that the device is busy", busy, bound, at_least=True))
        alone, whole = rows[-3]["images/s"], rows[-4]["images/s"]
        report.lines.append(Line(f"{name}: step with loader against data in memory, wall a image", alone / whole))
        del stages, stage
    report.facts["rates"] = rows
    case = next(iter(cases.values()))
    report.facts["optimizer step, ms"] = _optimizers(device, case)
    report.facts["torch.compile"] = _compiled(device, case, steps)
    if device == "cuda":
        report.facts["CUDA graph"] = _graph(case, steps)
    return report


def _stage(device: str, case: Case, part: str, steps: int, workers: int) -> Stage:
    objective = ("auc=ce",) if part == "warm start" else ("auc=auc_margin", "auc.loss.prior=train")
    heads = ("auc.heads=joint",) if part == "warm start" else ("auc.labels=[Edema]",)
    precision = "bf16" if device == "cuda" else "fp32"
    words = (*case.model, "augment=chest", f"image_size={case.size}", f"batch_size={case.batch}", f"device={device}",
             f"precision={precision}", f"workers={workers}", "deterministic=false")  # fmt: skip
    cfg = workload.config(
        *words, *objective, *heads, "sampler@auc.sampler=shuffle", "auc.epochs=1000", "auc.eval_every=1000"
    )
    place = resolve(cfg)
    table = workload.make_table(case.batch * steps, workload.FIVE, validation=2 * case.batch)
    store = workload.make_store(len(table), case.size, 1)
    return workload.make_stages(cfg, workload.inputs_of(cfg, table, store, place), place)[0]


def _training(stage: Stage, steps: int) -> dict[str, Any]:
    """The product's own steps with its loader: wall seconds of the second half, then the device's share of them."""
    workload.train(stage, max(2, steps // 4))  # cuDNN chooses its algorithms, the allocator grows
    _reset_peak(stage)
    _wait(stage)
    began = time.perf_counter()
    images = workload.train(stage, steps)
    _wait(stage)
    seconds = time.perf_counter() - began
    return {"images/s": images / seconds, "busy share": _busy(stage, max(2, steps // 4)), "peak GiB": _peak(stage)}


def _busy(stage: Stage, steps: int) -> float:
    """Share of the wall time in which a kernel or a copy runs, by the profiler; NaN where there is no device."""
    if not stage.device.is_cuda:
        return float("nan")
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        workload.train(stage, steps)
        _wait(stage)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    return share_of(spans)


def share_of(spans: list[tuple[float, float]]) -> float:
    """Covered share of the time between the first beginning and the last end; spans sorted, may overlap.

    The loader's start and end lie outside: what counts is whether the device waits between kernels.
    """
    if not spans:
        return float("nan")
    covered, (begin, end) = 0.0, spans[0]
    for start, stop in spans[1:]:
        if start > end:
            covered, begin, end = covered + end - begin, start, stop
        else:
            end = max(end, stop)
    covered += end - begin
    return covered / (max(stop for _, stop in spans) - spans[0][0])


def _alone(stage: Stage, steps: int) -> dict[str, Any]:
    bare = workload.bare_of(stage, with_optimizer=True)
    bare(3)
    _reset_peak(stage)
    _wait(stage)
    began = time.perf_counter()
    images = bare(steps)
    _wait(stage)
    return {"images/s": images / (time.perf_counter() - began), "busy share": float("nan"), "peak GiB": _peak(stage)}


def _reading(stage: Stage, steps: int) -> dict[str, Any]:
    began, images = time.perf_counter(), 0
    draws = itertools.islice(stage._draws(0), steps)
    with closing(stage.loader.batches(draws)) as batches:
        for batch in batches:
            images += len(batch.rows)
    _wait(stage)
    return {"images/s": images / (time.perf_counter() - began), "busy share": float("nan"), "peak GiB": float("nan")}


def _evaluating(stage: Stage) -> dict[str, Any]:
    stage.validation.logits(stage.network)
    _reset_peak(stage)
    began = time.perf_counter()
    stage.validation.logits(stage.network)
    seconds = time.perf_counter() - began
    rate = len(stage.validation.rows) / seconds
    return {"images/s": rate, "busy share": float("nan"), "peak GiB": _peak(stage)}


def _optimizers(device: str, case: Case) -> list[dict[str, Any]]:
    stage = _stage(device, case, "AUC stage", 2, 1)
    rows = []
    for name, make in (
        ("SGD fused, momentum .9", lambda params: torch.optim.SGD(params, 1e-3, 0.9, fused=True)),
        ("PESG", lambda params: PESG(params, AUCMarginLoss().to(device), 1e-3, 0.002)),
        ("PESG, momentum .9", lambda params: PESG(params, AUCMarginLoss().to(device), 1e-3, 0.002, momentum=0.9)),
    ):
        model = copy.deepcopy(stage.network.model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer = make(list(model.parameters()))
        rows.append({"optimizer": name, "ms": 1e3 * _timed(optimizer.step, device, 20)})
    return rows


def _timed(function: Any, device: str, times: int) -> float:
    """Median wall seconds of a call, the device waited for."""
    taken = []
    for number in range(times + 3):
        began = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 3:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _compiled(device: str, case: Case, steps: int) -> list[dict[str, Any]]:
    """``compile=true`` against false, the first step (which compiles) apart; a failure is told, not raised."""
    rows = []
    for compiled in (False, True):
        stage = _stage(device, case, "AUC stage", 2, 1)
        bare = workload.bare_of(stage, with_optimizer=True)
        began = time.perf_counter()
        try:
            if compiled:
                bare._model.forward_features = torch.compile(bare._model.forward_features)  # type: ignore[assignment]
            bare(1)
            _wait(stage)
            first = time.perf_counter() - began
            rate = case.batch / _timed(lambda bare=bare: bare(1), device, max(3, steps // 4))
            rows.append({"compile": compiled, "first step s": first, "images/s": rate})
        except Exception as error:  # no compiler on this machine, say
            rows.append({"compile": compiled, "first step s": f"{type(error).__name__}", "images/s": float("nan")})
    return rows


def _graph(case: Case, steps: int) -> list[dict[str, Any]]:
    """Forward and backward replayed as one CUDA graph, against launched kernel by kernel: what graphs could gain."""
    stage = _stage("cuda", case, "AUC stage", 2, 1)
    bare = workload.bare_of(stage)
    plain = _timed(lambda: bare(1), "cuda", max(5, steps // 2))
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            bare(3)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            bare(1)
        replayed = _timed(graph.replay, "cuda", max(5, steps // 2))
    except RuntimeError as error:
        return [{"forward and backward": "as a graph", "ms": f"not captured: {str(error).splitlines()[0]}"}]
    return [
        {"forward and backward": "kernel by kernel", "ms": 1e3 * plain},
        {"forward and backward": "as a graph", "ms": 1e3 * replayed},
    ]


def _wait(stage: Stage) -> None:
    if stage.device.is_cuda:
        torch.cuda.synchronize()


def _reset_peak(stage: Stage) -> None:
    if stage.device.is_cuda:
        torch.cuda.reset_peak_memory_stats()


def _peak(stage: Stage) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if stage.device.is_cuda else float("nan")
