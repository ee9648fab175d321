"""``dam train``: one run, a resumed run, the composed config, or a sweep."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from dam.config_files import GROUPS, LAYERS, choices
from dam.errors import UserError
from dam.processes import place

HELP = """
usage: dam train [+experiment=NAME] [group=choice] [key=value] ...
       dam train resume=RUN [device=... workers=... tracking.* checkpoint.* auc.epochs=...]
       dam train -m ...           one run for each combination of comma-separated values
       dam train --cfg job ...    print the composed config and stop

Trains the two stages (a warm start on all labels, then one AUC model a disease), writes predictions and a report.

examples:
  dam train +experiment=quickstart
  dam train +experiment=chexpert_densenet121 data.root=/data/CheXpert-v1.0-small auc.optimizer.gamma=0.00125

more:
  dam train +experiment=quickstart dry_run=true          check everything, train nothing
  dam train data=csv data.csv=labels.csv data.root=images 'data.labels=[Edema]' model=densenet121
  dam train auc=auc_margin                               the papers' min-max form with PESG
  dam train auc.optimizer=sgd auc.optimizer.lr=0.01      another optimizer for the AUC stage
  dam train -m +experiment=quickstart auc.loss.margin=0.3,1.0
  dam train -m +experiment=quickstart +sweep=margin hydra/launcher=joblib hydra.launcher.n_jobs=2
  dam train resume=outputs/quickstart/2026-01-31_12-00-00

choices:
{choices}

Within a stage: auc.loss, auc.optimizer, auc.schedule, auc.sampler (also warm_start. and control.).
A choice of yours in a group replaces what the experiment set inside that group.
Every key: `dam train --cfg job`; completion: `dam completion bash`.
Exit codes: 0 done, 1 failed, 2 your mistake (one sentence), 130 interrupted and saved.
""".replace("{choices}", "\n".join(f"  {group:<11} {', '.join(choices(group))}" for group in (*LAYERS, *GROUPS)))


def run(arguments: list[str]) -> int:
    """Train as the words say; returns the exit code."""
    words, options = options_of(arguments)
    _check_resume_form(words)
    runs = [word.partition("=")[2] for word in words if word.startswith("resume=")]
    if len(runs) > 1:
        raise UserError(f"resume={runs[0]} and resume={runs[1]}: one command resumes one run")
    words = [word for word in words if not word.startswith("resume=")]
    if runs:
        if options:
            raise UserError(f"resume= goes on with one run and takes no {' '.join(options)}")
        return _resume(runs[0], words, arguments)
    if "--cfg" in options:
        if "-m" in options:
            raise UserError("--cfg prints one config: leave out -m and give each key one value")
        return _print_config(words)
    if "-m" in options:
        if place().world > 1:
            raise UserError("-m sweeps in one process: start it without torchrun or srun, or each of its runs with it")
        from dam.sweep import run_sweep

        return run_sweep(words)
    from dam.compose import compose

    config = compose(words)
    if config.pretrain is not None:
        raise UserError(f"pretrain=moco learns no labels: start it by `dam pretrain {' '.join(map(quote, words))}`")
    from dam.training.run import start

    result = start(config, ["dam", "train", *arguments])
    if place().rank == 0:
        print(result.table)
    return result.exit_code


def options_of(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split ``-m`` and ``--cfg job`` from the overrides."""
    words, options = [], []
    rest = iter(arguments)
    for word in rest:
        if word in ("-m", "--multirun"):
            options.append("-m")
        elif word in ("-c", "--cfg") or word.startswith("--cfg="):
            kind = word.partition("=")[2] or next(rest, "")
            if kind != "job":
                said = f"--cfg {kind}".strip()
                raise UserError(f"`{said}`: write `--cfg job`, which prints the config of the run and stops")
            options.append("--cfg")
        else:
            words.append(word)
    return words, options


def _print_config(words: list[str]) -> int:
    from dam.compose import compose, to_yaml

    config = to_yaml(compose(words))
    if place().rank == 0:
        print(config, end="")
    return 0


def _check_resume_form(words: list[str]) -> None:
    """``--resume r1`` and the like are told the one form there is."""
    for word, after in zip(words, [*words[1:], ""], strict=False):
        name, equals, run = word.partition("=")
        if name.lstrip("+-") == "resume" and (name != "resume" or not equals):
            run = run or (after if after and "=" not in after else "RUN")
            raise UserError(f"'{word}' is not how a run is resumed: write {quote(f'resume={run}')}")


def _resume(given: str, words: list[str], arguments: list[str]) -> int:
    folder = Path(given.strip("'\"")).expanduser()
    if not given or not folder.is_dir():
        what = "is a file" if folder.is_file() else "there is no such directory"
        raise UserError(f"resume={given}: {what}; give the directory of a run, such as outputs/NAME/DATE_TIME")
    if not (folder / "config.yaml").is_file():
        raise UserError(f"resume={given} is no run: it holds no config.yaml; give outputs/NAME/DATE_TIME")
    if (folder / "ensemble.json").is_file():
        raise UserError(f"resume={given} is an ensemble of other runs: nothing is trained in it, nothing to resume")
    from dam.compose import read_config, resume_changes

    config, _ = resume_changes(read_config(folder / "config.yaml"), words)
    if config.pretrain is not None:
        from dam.pretraining.run import resume
    else:
        from dam.training.run import resume
    result = resume(folder, words, ["dam", "train", *arguments])
    if place().rank == 0:
        print(result.table)
    return result.exit_code
