"""Goal 11: peak memory of a whole run, one disease at a time, against that of the bare training step.

Both are processes of their own. The bare one imports every module that the run had imported at its end, holds the same
network and optimizer, and makes three steps on one batch: ``python -m benchmarks.g11_memory run|bare OUT WORD ...``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Line, Report, peak_bytes

BOUND = 1.10


def run(quick: bool) -> Report:
    """DenseNet-121 at 224 pixels: warm start and five diseases on generated images, with predictions and report."""
    report = Report()
    size, batch, model = (64, 4, "resnet18") if quick else (224, 8, "densenet121")
    image = [f"data.phantom_size={size}", f"image_size={size}"]
    words = [*image, "data=phantom", "data.patients=60", f"model={model}", "model.weights=null", f"batch_size={batch}"]
    words += ["device=cpu", "workers=1", "warm_start.steps=3", "auc.steps=3", "evaluation.replicates=100"]
    peaks: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("run", "bare"):
            out = Path(folder) / part
            places = [f"data.root={folder}/images", f"data.store={folder}/store", f"run_dir={folder}/run_directory"]
            command = [sys.executable, "-m", "benchmarks.g11_memory", part, str(out), *words, *places]
            done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                raise RuntimeError(f"{part}: {done.stderr.strip()[-500:]}")
            peaks[part] = json.loads(out.read_text(encoding="utf-8"))
    ratio = peaks["run"]["peak"] / peaks["bare"]["peak"]
    note = f"{peaks['run']['peak'] / 2**20:,.0f} against {peaks['bare']['peak'] / 2**20:,.0f} MiB"
    line = Line(f"{model}, {size}, batch {batch}, warm start and 5 diseases", ratio, BOUND, note=note)
    report.lines.append(line)
    report.facts["the run's peak so far, MiB, after"] = [
        {"stage": name, "MiB": value / 2**20} for name, value in peaks["run"]["after"].items()
    ]
    report.facts["bare: MiB after"] = [
        {"moment": name, "MiB": value / 2**20} for name, value in peaks["bare"]["after"].items()
    ]
    if line.missed:
        report.profile = json.dumps(peaks["run"]["after"], indent=1)
    return report


def _run(out: Path, words: list[str]) -> None:
    """``dam train``, the peak noted after every stage."""
    from dam import cli
    from dam.training import single

    after: dict[str, int] = {"imports": peak_bytes()}
    train = single._train

    def noted(planned, tools) -> None:
        train(planned, tools)
        after[planned.spec.name] = peak_bytes()

    single._train = noted
    code = cli.main(["train", *words])
    if code:
        raise SystemExit(code)
    after["predictions and report"] = peak_bytes()
    _tell(out, after)


def _bare(out: Path, words: list[str]) -> None:
    modules = json.loads((out.parent / "run").read_text(encoding="utf-8"))["modules"]
    for name in modules:
        with contextlib.suppress(Exception):  # optional parts of libraries that the run never reached
            importlib.import_module(name)
    import torch

    from benchmarks.workload import Bare, normalized
    from dam import memory
    from dam.compose import compose
    from dam.training.device import resolve
    from dam.training.networks import bare_network

    after = {"imports": peak_bytes()}
    memory.keep_freed()
    cfg = compose(words)
    device = resolve(cfg)
    network = bare_network(cfg, device, 1, 1, None)
    network.train()
    optimizer = torch.optim.AdamW(network.model.parameters(), 1e-4)  # of auc=auc_direct
    images = normalized(network, (cfg.batch_size, cfg.image_size, cfg.image_size, 1))
    Bare(network.model, device, images, optimizer)(3)
    after["three steps"] = peak_bytes()
    _tell(out, after)


def _tell(out: Path, after: dict[str, int]) -> None:
    told = {"peak": peak_bytes(), "after": after, "modules": sorted(sys.modules)}
    out.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    {"run": _run, "bare": _bare}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
