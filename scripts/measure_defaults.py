"""Which objective, optimizer and head rule earn to be the default? Small budget, equal steps, several seeds.

Every arm starts from the same warm start of its task and seed, makes the same number of steps, is tried at three
learning rates (the rate with the best mean validation AUC over seeds counts), and is judged by its weights' average at
the end. Test AUC is written beside it and never looked at for a choice. Rows already in the output file are not made
again, so a stopped measurement goes on.

    python scripts/measure_defaults.py --cifar DIR --patches DIR --out results.csv
    python scripts/measure_defaults.py --out results.csv --table
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dam.compose import compose
from dam.config import Config
from dam.data import load_table
from dam.data.augment import Augment
from dam.data.store import open_store
from dam.training import tracking
from dam.training.device import resolve
from dam.training.inputs import Inputs
from dam.training.interrupt import StopRequest
from dam.training.metrics import label_auc
from dam.training.module import infer
from dam.training.networks import disease_network
from dam.training.plan import PlannedStage, make_plan
from dam.training.rundir import RunDirectory
from dam.training.stage import Stage, StageTools

WARM_START_TIMES = 6  # a backbone that has learned something: the papers' second part refines, it does not start
SGD_RATES, ADAM_RATES = (0.3, 0.1, 0.03), (3e-3, 1e-3, 3e-4)
_PRIOR = ["auc=auc_margin", "auc.loss.form=prior", "auc.loss.prior=batch"]
_DIRECT = ["auc=auc_margin", "auc.loss.inner=batch", "auc.loss.form=auto", "auc.loss.prior=train"]
ARMS: dict[str, tuple[list[str], tuple[float, ...]]] = {
    "CE, Adam, natural": (["auc=ce", "auc.optimizer=adam", "auc.sampler=shuffle"], ADAM_RATES),
    "CE, Adam, balanced": (["auc=ce", "auc.optimizer=adam", "auc.sampler=two_class"], ADAM_RATES),
    "PESG paper, sgd": ([*_PRIOR, "auc.optimizer.variant=paper"], SGD_RATES),
    "PESG libauc, sgd": ([*_PRIOR, "auc.optimizer.variant=libauc", "auc.optimizer.momentum=0.9"], SGD_RATES),
    "PESG paper, adam": ([*_PRIOR, "auc.optimizer.variant=paper", "auc.optimizer.mode=adam"], ADAM_RATES),
    "PESG libauc, adam": ([*_PRIOR, "auc.optimizer.variant=libauc", "auc.optimizer.mode=adam"], ADAM_RATES),
    "PESG paper, adam, closed-form init": (
        [*_PRIOR, "auc.optimizer.variant=paper", "auc.optimizer.mode=adam", "auc.loss.init=closed_form"],
        ADAM_RATES,
    ),
    "direct, AdamW": ([*_DIRECT, "auc.optimizer=adamw"], ADAM_RATES),
}
KEEP_ONLY = ("PESG libauc, adam", "PESG paper, adam, closed-form init")
SCORES = {"PESG paper, adam": ("bsn_sqrt", "none"), "direct, AdamW": ("bsn", "bsn_sqrt", "none")}


def cases() -> list[tuple[str, str, str, list[str], tuple[float, ...]]]:
    """(arm, head, score, overrides, rates): all arms with both head rules, some with other scores."""
    listed = []
    for arm, (overrides, rates) in ARMS.items():
        for head in ("keep",) if arm in KEEP_ONLY else ("redraw", "keep"):
            listed.append((arm, head, "sigmoid", [*overrides, f"auc.head={head}"], rates))
        for score in SCORES.get(arm, ()):
            listed.append((arm, "keep", score, [*overrides, "auc.head=keep", f"auc.loss.score={score}"], rates))
    return listed


def tasks(args: argparse.Namespace) -> dict[str, list[str]]:
    """Task name -> overrides of its data; ``SEED`` is replaced."""
    found = {}
    if args.cifar:
        shared = ["data=cifar10", f"data.root={args.cifar}", "image_size=32", "augment=cifar"]
        found["CIFAR-10 0.1"] = [*shared, "data.imratio=0.1"]
    if args.patches:
        found["CRCHistoPhenotypes 0.1"] = [
            *("data=csv", f"data.root={args.patches}", f"data.csv={args.patches}/dam.csv", "data.image_column=image"),
            *("data.patient_column=patient", "data.labels=[isCancerous]", "data.imratio=0.1"),
            *("data.val_fraction=0.35", "data.test_fraction=0.25", "image_size=32", "augment=dermoscopy"),
        ]
    return found


def base(task: list[str], seed: int, steps: int) -> list[str]:
    words = [word.replace("SEED", str(seed)) for word in task]
    return [
        *words,
        *(f"seed={seed}", f"data.split_seed={seed}", "batch_size=32", "select=last"),
        *("model=timm", "model.name=resnet8_cifar", "model.weights=null"),
        *(f"warm_start.steps={WARM_START_TIMES * steps}", f"auc.steps={steps}"),
        *("warm_start.ema=0.98", "auc.ema=0.98", "device=cpu", "workers=0"),
    ]


def tools_for(cfg: Config) -> StageTools:
    device = resolve(cfg)
    store, table = open_store(load_table(cfg.data), cfg.data, cfg.image_size, 2, progress=False)
    inputs = Inputs(
        table,
        store,
        store.rows_for(table),
        {split: table.split(split) for split in ("train", "val", "test")},
        Augment(cfg.augment, cfg.image_size, cfg.seed),
        cfg.workers,
        False,
    )
    return StageTools(cfg, inputs, device, StopRequest(), tracking.Trackers([]))


def train(cfg: Config, run: RunDirectory, planned: PlannedStage, tools: StageTools) -> Stage:
    spec = replace(planned.spec, eval_every=planned.spec.steps)
    stage = Stage(spec, replace(tools, cfg=cfg), disease_network(cfg, run, planned, tools))
    stage.run()
    return stage


def test_auc(stage: Stage, tools: StageTools) -> float:
    rows, labels = tools.inputs.splits["test"][::4], stage.spec.labels  # 2,500 of CIFAR-10's: only a second opinion
    logits = infer(stage._averaged(), tools.inputs.loader(rows, labels, augmented=False), len(rows), 256)
    return label_auc(tools.inputs.targets(rows, labels)[:, 0], logits[:, 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--patches", help="folder of CRCHistoPhenotypes with patch_images/ and its CSV")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print the table of what --out holds")
    args = parser.parse_args()
    if args.table:
        print(table(args.out))
        return
    torch.set_num_threads(args.threads)
    if args.patches:
        write_patch_table(Path(args.patches))
    done = set()
    if args.out.exists():
        with open(args.out, newline="", encoding="utf-8") as file:
            done = {tuple(row[key] for key in KEYS) for row in csv.DictReader(file)}
    for task, overrides in tasks(args).items():
        for seed in range(args.seeds):
            measure(args, task, base(overrides, seed, args.steps), seed, done)


KEYS = ("task", "seed", "arm", "head", "score", "lr")


def measure(args: argparse.Namespace, task: str, words: list[str], seed: int, done: set[tuple[str, ...]]) -> None:
    """All arms of one task and seed, from one warm start."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose(words)
        tools = tools_for(cfg)
        run = RunDirectory(Path(folder))
        first = make_plan(cfg, tools.inputs, run)[0]
        warm = train(cfg, run, first, tools)
        write(args.out, task, seed, ("warm start alone", "", "", "0"), warm, tools, done)
        for arm, head, score, overrides, rates in cases():
            for rate in rates:
                key = (task, str(seed), arm, head, score, f"{rate:g}")
                if key in done:
                    continue
                cfg = compose([*words, *overrides, f"auc.optimizer.lr={rate}"])
                planned = make_plan(cfg, tools.inputs, run)[1]
                planned = replace(planned, spec=replace(planned.spec, folder=Path(folder) / "auc" / "_".join(key[2:])))
                write(args.out, task, seed, key[2:], train(cfg, run, planned, tools), tools, done)


def write(out: Path, task: str, seed: int, what: tuple[str, ...], stage: Stage, tools: StageTools, done: set) -> None:
    key = (task, str(seed), *what)
    if key in done:
        return
    row = [*key, repr(stage.selection.values[-1]), repr(test_auc(stage, tools))]
    new = not out.exists()
    with open(out, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow([*KEYS, "val_auc", "test_auc"])
        writer.writerow(row)
    print(*row, flush=True)


def table(path: Path) -> str:
    """Markdown: mean validation AUC a task at each arm's best rate, and the paired difference to balanced CE.

    The interval is Student's over (task, seed) pairs; it knows neither that tasks differ nor the choice of three rates.
    """
    import pandas as pd
    from scipy.stats import t as student

    frame = pd.read_csv(path, keep_default_na=False)
    arms = ["arm", "head", "score"]
    mean = frame.groupby([*arms, "task", "lr"], sort=False)["val_auc"].mean().reset_index()
    best = mean.loc[mean.groupby([*arms, "task"], sort=False)["val_auc"].idxmax(), [*arms, "task", "lr"]]
    chosen = frame.merge(best, on=[*arms, "task", "lr"])
    wide = chosen.pivot_table(index=["task", "seed"], columns=arms, values="val_auc")
    tests = chosen.pivot_table(index=["task", "seed"], columns=arms, values="test_auc")
    base = wide[max((c for c in wide.columns if c[0] == "CE, Adam, balanced"), key=lambda c: wide[c].mean())]
    names = list(dict.fromkeys(frame["task"]))
    lines = [f"| arm | head | score | {' | '.join(f'{n}, val' for n in names)} | minus balanced CE | test, all tasks |"]
    lines.append("|---|---|---|" + "---|" * (len(names) + 2))
    for arm in wide.mean().sort_values(ascending=False).index:
        d = (wide[arm] - base).dropna()
        half = student.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
        cells = " | ".join(f"{wide[arm].loc[n].mean():.4f}" for n in names)
        difference = f"{d.mean():+.4f} [{d.mean() - half:+.4f}, {d.mean() + half:+.4f}]" if d.any() else "base"
        lines.append(f"| {' | '.join(arm)} | {cells} | {difference} | {tests[arm].mean():.4f} |")
    return "\n".join(lines)


def write_patch_table(folder: Path) -> None:
    """CRCHistoPhenotypes' own table with a column of image paths."""
    import pandas as pd

    frame = pd.read_csv(folder / "data_labels_mainData.csv")
    names = [f"patch_images/{number}.png" for number in frame["InstanceID"]]
    table = pd.DataFrame({"image": names, "patient": frame["patientID"], "isCancerous": frame["isCancerous"]})
    table[[(folder / name).exists() for name in names]].to_csv(folder / "dam.csv", index=False)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
