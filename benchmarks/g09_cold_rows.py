"""Goal 9: random rows of a store that memory does not hold, against indexing a memory map. Wall time: it is waiting."""

from __future__ import annotations

import os
import time

import numpy as np

from benchmarks.measure import Report, line_of
from benchmarks.workload import make_store
from dam.data.store import ImageStore

BOUND = 5.0


def run(quick: bool) -> Report:
    """Before each round the kernel is told to drop the file from its cache, so that no size of memory helps; what a
    disk or a host keeps beyond that is out of reach here."""
    rows, size = (2_000, 64) if quick else (40_000, 224)
    store = make_store(rows, size, 1)
    path = store.path / "gray.u8"
    picks, batch = 512, 32
    rng = np.random.default_rng(0)

    def cold() -> np.ndarray:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        return rng.choice(rows, picks, replace=False)

    def timed(read) -> list[float]:
        chosen = cold()
        began = time.perf_counter()
        for start in range(0, picks, batch):
            read(chosen[start : start + batch])
        return [picks / (time.perf_counter() - began)]

    out = np.empty((batch, size, size, 1), np.uint8)
    speeds: dict[str, list[float]] = {"dam": [], "map": []}
    for number in range(3 if quick else 12):
        order = ("dam", "map") if number % 2 else ("map", "dam")
        for name in order:
            if name == "dam":
                speeds["dam"] += timed(lambda chosen: store.take(chosen, out))
            else:
                mapped = np.memmap(path, np.uint8, "r", shape=(rows, size, size, 1))
                speeds["map"] += timed(lambda chosen, mapped=mapped: mapped[chosen])
                del mapped
    ratios = [a / b for a, b in zip(speeds["dam"][1:], speeds["map"][1:], strict=True)]
    medians = {name: float(np.median(values)) for name, values in speeds.items()}
    note = f"{medians['dam']:,.0f} against {medians['map']:,.0f} rows a second (wall)"
    line = line_of(ratios, f"cold rows of {size} x {size}, batches of {batch}", BOUND, at_least=True, note=note)
    return Report([line], profile=_breakdown(store, cold, out) if line.missed else "")


def _breakdown(store: ImageStore, cold, out: np.ndarray) -> str:
    import cProfile
    import io
    import pstats

    profiler, text = cProfile.Profile(), io.StringIO()
    chosen = cold()
    profiler.runcall(lambda: [store.take(chosen[i : i + len(out)], out) for i in range(0, len(chosen), len(out))])
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(10)
    return text.getvalue().strip()
