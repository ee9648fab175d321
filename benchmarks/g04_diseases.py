"""Goal 4: the second part for five diseases, one model each over the same images, against five times the bare step."""

from __future__ import annotations

from benchmarks import workload
from benchmarks.measure import Report, Rounds, cpu_seconds, milliseconds, profile_of
from dam.training.device import resolve

BOUND = 1.03


def run(quick: bool) -> Report:
    """ResNet-20 at 32 pixels, each disease with its own sampler; the bare step has the optimizer too."""
    batch, steps = (16, 4) if quick else (32, 20)
    cfg = workload.config(*workload.CIFAR, f"batch_size={batch}", "auc.epochs=1000", "auc.eval_every=1000",
                          "sampler@auc.sampler=two_class")  # fmt: skip
    device = resolve(cfg)
    table = workload.make_table(batch * steps, workload.FIVE)
    store = workload.make_store(len(table), 32, 3)
    began = cpu_seconds()
    stages = workload.make_stages(cfg, workload.inputs_of(cfg, table, store, device), device)
    fixed = (cpu_seconds() - began) / len(stages)
    bare = workload.bare_of(stages[0], with_optimizer=True)

    def five() -> int:
        return sum(workload.train(stage, steps) for stage in stages)

    found = Rounds({"five": five, "bare": lambda: bare(8)}).run(2 if quick else 10)
    note = f"{milliseconds(found.median('five'))} against {milliseconds(found.median('bare'))} an image"
    line = found.line("five", "bare", f"5 diseases, {steps} steps each, an image of a disease", BOUND, note=note)
    report = Report([line], {"fixed cost a disease, CPU seconds (network, plan, stage)": fixed})
    if line.missed:
        report.profile = profile_of(lambda: workload.train(stages[0], min(steps, 8)))
    return report
