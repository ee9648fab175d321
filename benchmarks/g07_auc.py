"""Goal 7: the exact AUC of a million cases with ties, against scikit-learn's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np

from benchmarks.measure import Line, Report, Rounds, milliseconds, profile_of
from dam.evaluation.auc import roc_auc

BOUND = 0.08


def run(quick: bool) -> Report:
    """A tenth positive; scores of 100,000 distinct values, so that most cases are tied."""
    from sklearn.metrics import roc_auc_score

    count = 20_000 if quick else 1_000_000
    rng = np.random.default_rng(0)
    y = (rng.random(count) < 0.1).astype(np.int64)
    s = np.round(rng.normal(size=count) + y, 4)
    assert abs(roc_auc(y, s) - roc_auc_score(y, s)) < 1e-12
    variants = {"dam": lambda: _drop(roc_auc(y, s)), "scikit-learn": lambda: _drop(roc_auc_score(y, s))}
    if importlib.util.find_spec("torchmetrics"):
        import torch
        from torchmetrics.functional.classification import binary_auroc

        scores, targets = torch.from_numpy(s), torch.from_numpy(y)
        variants["torchmetrics"] = lambda: _drop(binary_auroc(scores, targets))
    found = Rounds(variants).run(3 if quick else 7)
    note = f"{milliseconds(found.median('dam'))} against {milliseconds(found.median('scikit-learn'))}"
    report = Report([found.line("dam", "scikit-learn", f"roc_auc, N = {count:,}", BOUND, note=note)])
    if "torchmetrics" in variants:
        report.lines.append(found.line("torchmetrics", "scikit-learn", "peer: torchmetrics"))
    if report.lines[0].missed:
        report.profile = profile_of(variants["dam"])
        report.lines += _without_avx512()
        report.facts["sorting the scores of the negatives alone"] = _sorts(s[y == 0])
    return report


def _sorts(scores: np.ndarray) -> list[dict[str, object]]:
    """What there is to sort float64 with, a millisecond figure each: is another faster?"""
    import cv2
    import torch

    tensor, row = torch.from_numpy(scores), scores[None]
    by = {
        "numpy": lambda: _drop(np.sort(scores)),
        "numpy, stable": lambda: _drop(np.sort(scores, kind="stable")),
        "torch": lambda: _drop(torch.sort(tensor)),
        "cv2": lambda: _drop(cv2.sort(row, cv2.SORT_EVERY_ROW)),
    }
    found = Rounds(by).run(5)
    return [{"by": name, "ms": 1e3 * found.median(name)} for name in by]


def _without_avx512() -> list[Line]:
    """The same with numpy's AVX-512 code switched off, where numpy has it: its sort takes 5 times as long on Zen 4 as
    the AVX2 one, because those processors store compressed vectors slowly."""
    from numpy._core._multiarray_umath import __cpu_features__ as features

    found = [name for name in ("X86_V4", "AVX512_ICL") if features.get(name)]
    if "NPY_DISABLE_CPU_FEATURES" in os.environ or not found:
        return []
    code = "from benchmarks.g07_auc import run; line = run(False).lines[0]; print(line.ratio, line.rounds)"
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return []
    ratio, rounds = done.stdout.split()[-2:]
    return [Line("the same with NPY_DISABLE_CPU_FEATURES=" + repr(" ".join(found)), float(ratio), rounds=int(rounds))]


def _drop(_: object) -> None:
    """A variant's return value is a count of units."""
