"""``dam ensemble``: several finished runs as one directory that is used like a run."""

from __future__ import annotations

from pathlib import Path

from dam.commands.flags import choice, parse
from dam.errors import UserError

HELP = """
usage: dam ensemble RUN RUN ... --out DIR [--mean logits|ranks|scores] [--weights equal|greedy] [--model NAME]

Puts finished runs (other networks, seeds, image sizes) together into DIR, which `dam predict`, `dam evaluate`,
`dam compare`, `dam report` and `dam export` take as they take a run. Nothing is trained and no image is read:
calibration, ranks and weights are fitted on the validation predictions, then applied to test. DIR/report compares the
ensemble with every member; the first comparison, with the best one on validation, gives the verdict. The runs stay
where they are and are needed to score new images: DIR/ensemble.json names them.

A RUN may be the folder of a sweep: then all its jobs. All runs must have been validated and tested on the same images
and targets, and none trained on those. The folds of a cross-validation were not: data.fold=all trains them together,
and that run is the mean of its folds already.

examples:
  dam train -m +experiment=chexpert_densenet121 +sweep=chexpert_five data.root=chexpert     # the paper's five networks
  dam ensemble outputs/chexpert_densenet121/sweeps/2026-01-31_12-00-00 --out outputs/chexpert_five
  dam ensemble outputs/densenet/2026-01-31_12-00-00 outputs/swin/2026-02-01_09-30-00 --out outputs/both --weights greedy

options:
  --out DIR            a new or empty directory
  --mean logits        the mean of logits, calibrated on validation by Platt's method (default)
  --mean ranks         of ranks: where a score stands among the member's validation scores
  --mean scores        of sigmoids of the raw logits, as the papers do
  --weights equal      every member the same (default)
  --weights greedy     for each label, chosen on validation: members are added, the best one each time and with
                       replacement, while the AUC gains (Caruana et al. 2004); then validation AUC is optimistic
  --model NAME         the runs' score column: once for all, or once a run; default auc, else ce, focal, warm_start
  --labels A,B         only these labels; needed where the runs have different ones
"""

FLAGS = ("--out", "--mean", "--weights", "--model", "--labels")
SWITCHES: tuple[str, ...] = ()


def run(arguments: list[str]) -> int:
    """Make the ensemble that the words describe, and its report; returns the exit code."""
    parsed = parse(arguments, FLAGS, SWITCHES, "ensemble")
    names = [*parsed.items, *parsed.words]
    if not names:
        raise UserError("`dam ensemble` takes two or more run directories, such as outputs/NAME/DATE_TIME; see `dam "
                        "ensemble --help`")  # fmt: skip
    out = parsed.one("--out")
    if out is None:
        raise UserError("say where the ensemble goes: dam ensemble RUN RUN ... --out DIR")
    mean = choice(parsed.one("--mean"), ("logits", "ranks", "scores"), "--mean")
    weighting = choice(parsed.one("--weights"), ("equal", "greedy"), "--weights")
    labels = tuple(name.strip() for name in (parsed.one("--labels") or "").split(",") if name.strip())
    from dam.inference.ensemble_make import Wish, make_ensemble

    paths = [path for name in names for path in _runs(Path(name).expanduser())]
    wish = Wish(mean, weighting, parsed.many("--model"), labels)
    made = make_ensemble(paths, Path(out).expanduser(), wish, ["dam", "ensemble", *arguments])
    width = max(len(member.column) for member in made.members)
    for member in made.members:
        print(f"member {member.column:<{width}}  {member.path}")
    for note in made.notes:
        print(f"note: {note}")
    if weighting == "greedy":
        print("weights, chosen on validation:")
        for label, found in made.mixture.labels.items():
            print(f"  {label}: {', '.join(f'{weight:.2f} {name}' for name, weight in found.weights.items())}")
    from dam.report import build_report

    print("\n".join(["", *build_report(made.path).lines]))
    return 0


def _runs(path: Path) -> list[Path]:
    """The path itself, or the jobs of a sweep."""
    if not (path / "sweep.json").is_file() or (path / "config.yaml").is_file():
        return [path]
    from dam.report.overview import find_runs

    jobs = [found for found, kind, _ in find_runs(path) if kind == "job"]
    if not jobs:
        raise UserError(f"{path} is a sweep without a job that began: there is nothing to put together")
    return jobs
