"""``lr=probe``: a short look at three learning rates on training data, judged by validation AUC."""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import replace

from dam.files import atomic_write_text
from dam.report.run_files import read_mapping
from dam.training.distributed import is_main
from dam.training.loop import StageTools
from dam.training.networks import disease_network
from dam.training.plan import PlannedStage, probe_rates
from dam.training.stage import Stage
from dam.training.tracking import Trackers

log = logging.getLogger("dam")

_SHARE, _LEAST_STEPS = 0.1, 30


def probe_rate(planned: PlannedStage, tools: StageTools) -> float:
    """The rate with the best validation AUC after a tenth of the stage's steps each (at least 30).

    What was seen is logged and kept in ``probe.json`` beside the stage's metrics; a resume reads it from there.
    """
    found = planned.spec.folder / "probe.json"
    if found.exists():
        return float(read_mapping(found)["lr"])
    steps = min(planned.spec.steps, max(_LEAST_STEPS, round(_SHARE * planned.spec.steps)))
    seen = {}
    for rate in probe_rates(planned.spec.objective):
        spec = replace(
            planned.spec,
            title=f"{planned.spec.title}, probing lr {rate:g}",
            lr=rate,
            steps=steps,
            eval_every=steps,
            folder=planned.spec.folder / f"probe_{rate:g}",
        )
        quiet = replace(tools, trackers=Trackers([]))
        stage = Stage(spec, quiet, disease_network(replace(planned, spec=spec), quiet))
        stage.run()
        seen[rate] = stage.selection.values[-1]
        if is_main():
            shutil.rmtree(spec.folder)  # what was seen is kept below; these weights serve nothing
    best = max(seen, key=lambda rate: -math.inf if math.isnan(seen[rate]) else seen[rate])
    words = ", ".join(f"{rate:g}: {auc:.4f}" for rate, auc in seen.items())
    log.info("%s: lr %g of {%s} (validation AUC after %d steps)", planned.spec.title, best, words, steps)
    content = {"lr": best, "steps": steps, "val_auc": {f"{rate:g}": auc for rate, auc in seen.items()}}
    if is_main():
        atomic_write_text(found, json.dumps(content, indent=2) + "\n")
    return best
