"""``dam study``: a paper's whole matrix of runs in one command, its tables with our numbers beside the paper's."""

from __future__ import annotations

from dam.errors import UserError
from dam.studies import STUDIES

HELP = """
usage: dam study list
       dam study NAME [study.KEY=VALUE ...] [key=value ...] ['CELLS:key=value' ...]
       dam study NAME --help

Runs every cell of the study that is not finished, each a run directory of its own, and writes the paper's tables and
figures with our numbers beside the paper's. Started again, the same command goes on: finished cells are never run
again, one that was stopped is resumed, one that failed is tried again. Another setting in the same folder is refused.

studies:
{studies}

examples:
  dam study covid_trust data.root=/data/COVIDx8B study.self_supervised=outputs/moco_chest/2026-01-31_12-00-00
  dam study covid_trust data.root=COVIDx8B study.cells='supervised-*' hydra/launcher=joblib hydra.launcher.n_jobs=2

words:
  study.cells=GLOBS      only these cells, by name, with commas between; the report is of all that are finished
  study.KEY=VALUE        a key of the study: `dam study NAME --help` lists them
  key=value              an override of `dam train`, for every cell: model.name=resnet10t image_size=64 auc.epochs=3
  'CELLS:key=value'      the same for some cells: '*-ce-*:auc.optimizer.lr=0.01'
  run_dir=FOLDER         where it lies; else outputs/studies/NAME, with a folder a cell, and report/
  dry_run=true           check everything, say what is left to run and stop
  hydra/launcher=joblib|submitit_local|submitit_slurm    cells in parallel or on a cluster, as in sweeps

Exit codes: 0 done, 1 a cell failed, 2 your mistake (one sentence), 130 interrupted and saved.
""".replace("{studies}", "\n".join(f"  {name:<19} {summary}" for name, summary in STUDIES.items()))


def help_text(arguments: list[str]) -> str:
    """What ``--help`` prints: of one study where it is named, else of the command."""
    names = [word for word in arguments if word in STUDIES]
    if not names:
        return HELP
    from dam.studies.study import find

    study = find(names[0])
    lines = [f"usage: dam study {study.name} [study.KEY=VALUE ...] [key=value ...]", "", study.source, study.about]
    if study.keys:
        width = max(len(key.name) for key in study.keys)
        lines.append("keys:")
        lines += [
            f"  study.{key.name:<{width}}   {key.meaning} ({'not set' if key.default is None else key.default})"
            for key in study.keys
        ]
    found = [cell.name for cell in study.cells({key.name: key.default for key in study.keys})]
    lines += ["", f"{len(found)} cells: {', '.join(found)}"]
    return "\n".join(lines)


def run(arguments: list[str]) -> int:
    """Run the study that the words name, or list the studies; returns the exit code."""
    if not arguments:
        raise UserError(f"`dam study` needs the name of a study: {', '.join(STUDIES)}; `dam study --help` says more")
    name, words = arguments[0], arguments[1:]
    if name == "list":
        if words:
            raise UserError("`dam study list` takes no further words")
        width = max(map(len, STUDIES))
        print("\n".join(f"{study:<{width}}   {summary}" for study, summary in STUDIES.items()))
        return 0
    from dam.studies.study import find

    study = find(name)
    from dam.studies.run import run_study

    return run_study(study, words)
