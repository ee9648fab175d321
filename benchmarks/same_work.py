"""The same training by ``dam`` and by LibAUC's loop, each a process of its own, one after the other in one run.

CIFAR-10 at 1 % positives with ResNet-20: 100 steps, and one epoch; chest X-rays at 224 x 224 with DenseNet-121: 30
steps. Both end with scores and an AUC of the validation and of the test rows. ``dam`` is measured whole: from the
command line to predictions and report, image store included. Memory is that of the main process.
``python -m benchmarks.same_work OUT WORD ...`` is dam's side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Line, Report, cpu_seconds, peak_bytes
from dam.compose import compose
from dam.data import load_table
from dam.data.readers import ImageReader
from dam.data.sampling import make_sampler

RATE = 0.2
ALWAYS = ("warm_start=none", "auc=auc_margin", "device=cpu", "workers=1", "model.weights=null", "auc.eval_every=1000",
          "evaluation.replicates=100", f"auc.sampler.sampling_rate={RATE}", "auc.optimizer.momentum=0.9",
          "auc.optimizer.weight_decay=1e-5")  # fmt: skip


def run(quick: bool) -> Report:
    """Ratios below 1: dam took less."""
    report, rows = Report(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = _cifar(folder)
        cifar = [*ALWAYS, "data=cifar10", f"data.root={root}", "data.imratio=0.01", "data.val_fraction=0.05",
                 "model=resnet20_cifar", "augment=cifar", "image_size=32", "batch_size=128"]  # fmt: skip
        chest = [*ALWAYS, "data=phantom", "data.patients=80", "data.phantom_size=320", "auc.labels=[Edema]",
                 "model=densenet121", "augment=chest", "image_size=224", "batch_size=8"]  # fmt: skip
        epoch = _epoch(cifar)
        works = [
            ("CIFAR-10 at 1 %, ResNet-20, 100 steps", cifar, "resnet20_cifar", 128, 2 if quick else 100),
            (
                f"CIFAR-10 at 1 %, ResNet-20, one epoch ({epoch} steps)",
                cifar,
                "resnet20_cifar",
                128,
                2 if quick else epoch,
            ),
            ("generated chest X-rays, 224, DenseNet-121, 30 steps of 8", chest, "densenet121", 8, 2 if quick else 30),
        ]
        for what, words, model, batch, steps in works:
            data = _shared_data(words, folder)
            dam = _child(
                folder, ["benchmarks.same_work"], [*words, f"auc.steps={steps}", f"data.store={folder}/store{steps}"]
            )
            theirs = _child(folder, ["benchmarks.libauc_loop"], [str(data), model, str(batch), str(steps), str(RATE)])
            rows += [{"work": what, "by": by, **found} for by, found in (("dam", dam), ("LibAUC's loop", theirs))]
            pairs = {part: (dam[part], theirs[part]) for part in ("cpu s", "loop s", "peak MiB")}
            for title, part in (
                ("CPU time", "cpu s"),
                ("CPU time of the steps", "loop s"),
                ("peak memory", "peak MiB"),
            ):
                mine, other = pairs[part]
                report.lines.append(
                    Line(f"{what}: {title}", mine / other, note=f"{mine:,.0f} against {other:,.0f} {part.split()[-1]}")
                )
    report.facts["CIFAR-10's images"] = "made up" if root.startswith(name) else "the real ones"
    report.facts["each"] = rows
    return report


def _cifar(folder: Path) -> str:
    """The real files where ``DAM_REAL_DATA`` has them, else made-up ones in the binary layout."""
    real = os.environ.get("DAM_REAL_DATA")
    for place in (Path(real), Path(real) / "cifar10") if real else ():
        if (place / "cifar-10-batches-py").is_dir():
            return str(place / "cifar-10-batches-py")
    made = folder / "cifar-10-batches-bin"
    made.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        rows = rng.integers(0, 256, (10_000, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        rows.tofile(made / name)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (made / "batches.meta.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return str(made)


def _epoch(words: list[str]) -> int:
    cfg = compose(words)
    table = load_table(cfg.data)
    assert cfg.auc is not None
    return make_sampler(cfg.auc.sampler, table.targets(table.split("train")), cfg.batch_size, 0).steps_per_epoch


def _shared_data(words: list[str], folder: Path) -> Path:
    """What LibAUC's loop reads: the very rows of dam's table, as arrays (CIFAR) or as files."""
    table = load_table(compose(words).data)
    reader, held = ImageReader(table.root), {}
    for split in ("train", "val", "test"):
        rows = table.split(split)
        targets = table.targets(rows)[:, table.labels.index("Edema") if "Edema" in table.labels else 0]
        rows, targets = rows[~np.isnan(targets)], targets[~np.isnan(targets)]
        images = table.frame["image"].to_numpy()[rows]
        if "::" in images[0]:
            read = (reader.read(image) for image in images)  # an image without colour comes as gray
            held[split] = np.stack([image if image.ndim == 3 else image[..., None].repeat(3, -1) for image in read])
        else:
            held[split] = np.array([str(table.root / image) for image in images])
        held[f"{split}_labels"] = (targets >= 0.5).astype(np.float32)
    np.savez(folder / "data.npz", **held)
    return folder / "data.npz"


def _child(folder: Path, module: list[str], words: list[str]) -> dict[str, Any]:
    out = folder / "told.json"
    command = [sys.executable, "-m", *module, str(out), *words]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module[0]}: {done.stderr.strip()[-500:]}")
    told = json.loads(out.read_text(encoding="utf-8"))
    return {"cpu s": told["cpu"], "loop s": told["loop"], "peak MiB": told["peak"] / 2**20, "val AUC": told["auc"]}


def _dam(out: Path, words: list[str]) -> None:
    """``dam train`` as typed, the CPU seconds of its stage noted, without those of the evaluation at its end."""
    from dam import cli
    from dam.training.stage import Stage

    noted = {"loop": 0.0}
    run, measure = Stage.run, Stage.measure

    def timed(self: Stage) -> dict[str, Any]:
        began = cpu_seconds()
        facts = run(self)
        noted["loop"] += cpu_seconds() - began
        noted["auc"] = float(facts["val_auc"])
        return facts

    def apart(self: Stage, network: Any) -> dict[str, Any]:
        began = cpu_seconds()
        found = measure(self, network)
        noted["loop"] -= cpu_seconds() - began
        return found

    Stage.run, Stage.measure = timed, apart  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        code = cli.main(["train", *words, f"run_dir={folder}/run"])
    if code:
        raise SystemExit(code)
    out.write_text(json.dumps({"cpu": cpu_seconds(), "peak": peak_bytes(), **noted}), encoding="utf-8")


if __name__ == "__main__":
    _dam(Path(sys.argv[1]), sys.argv[2:])
