"""Training from stores of growing size, then reading the whole of each through the loader: what is resident does not
grow with them, so a store may exceed the memory.

Each size is a process of its own: ``python -m benchmarks.beyond_memory ROWS STEPS``.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.measure import Line, Report, peak_bytes

BOUND = 1.05
SIZE = 224


def run(quick: bool) -> Report:
    """Gray rows of 224 x 224 read with preadv: 50 kB an image, never mapped."""
    sizes = (500, 1_000) if quick else (2_000, 10_000, 40_000)
    rows = []
    for count in sizes:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.beyond_memory", str(count), str(3 if quick else 8)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    note = f"store of {rows[-1]['store MiB']:,.0f} against {rows[0]['store MiB']:,.0f} MiB"
    ratio = rows[-1]["peak MiB"] / rows[0]["peak MiB"]
    return Report(
        [Line("peak resident memory, largest against smallest store", ratio, BOUND, note=note)], {"sizes": rows}
    )


def _one(count: int, steps: int) -> None:
    from contextlib import closing
    from pathlib import Path

    from benchmarks.workload import CHEST, config, inputs_of, make_stages, make_store, make_table, train
    from dam.training.device import resolve
    from dam.training.inputs import in_order

    cfg = config(*CHEST, "model=timm", "model.name=resnet8_cifar", f"image_size={SIZE}", "batch_size=32",
                 "auc.labels=[Edema]", "auc.epochs=100", "auc.eval_every=100")  # fmt: skip
    device = resolve(cfg)
    table = make_table(count, ("Edema",))
    store = make_store(len(table), SIZE, 1)
    (stage,) = make_stages(cfg, inputs_of(cfg, table, store, device), device)
    train(stage, steps)
    with closing(stage.loader.batches(in_order(count, 32))) as batches:
        read = sum(len(batch.rows) for batch in batches)
    assert read == count
    status = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    mapped = store.path.name in Path("/proc/self/maps").read_text(encoding="utf-8")
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Rss:"))
    told = {
        "images": count,
        "store MiB": len(table) * SIZE * SIZE / 2**20,
        "peak MiB": peak_bytes() / 2**20,
        "resident MiB": resident / 2**10,
        "store mapped": mapped,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    _one(int(sys.argv[1]), int(sys.argv[2]))
