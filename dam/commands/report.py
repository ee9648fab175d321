"""``dam report``: a run's report, built again from its files alone."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from dam.commands.flags import parse
from dam.errors import UserError

HELP = """
usage: dam report RUN [RUN ...] [--no-figures] [--explain]

Builds report/ of a run (or of a directory of `dam evaluate --out`) again from the files it holds: nothing is trained,
no image is read. Prints the table, the verdict, where the page is, and which of the 23 points of a publishable report
pass. Of a run of `dam pretrain` it draws the curves and prints their table.

options:
  --no-figures  leave the figures out
  --explain     first draw, over the example images, where the report's model looked (Grad-CAM, or attention rollout
                for plain vision transformers), from the original images where they lay in training; the overlays stay
                in predictions/examples, so later reports show them too; needs pip install "dam[explain]"

examples:
  dam report outputs/quickstart/2026-01-31_12-00-00
  dam report judged --no-figures
  dam report outputs/melanoma/2026-01-31_12-00-00 --explain
"""

FLAGS: tuple[str, ...] = ()
SWITCHES = ("--no-figures", "--explain")


def run(arguments: list[str]) -> int:
    """Build the reports of the runs that are named; returns the exit code."""
    parsed = parse(arguments, FLAGS, SWITCHES, "report")
    if parsed.words:
        raise UserError(f"{parsed.words[0]}: `dam report` changes no setting; judge otherwise with `dam evaluate RUN "
                        f"{parsed.words[0]}`")  # fmt: skip
    if not parsed.items:
        raise UserError("`dam report` takes a run directory, such as outputs/NAME/DATE_TIME; see `dam report --help`")
    paths = [Path(item).expanduser() for item in parsed.items]
    for path in paths:
        if not path.is_dir():
            hint = (f"for a table of predictions: dam evaluate {quote(str(path))} --out DIR" if path.is_file() else
                    "`dam runs` lists those under outputs/")  # fmt: skip
            raise UserError(f"there is no run directory {path}; {hint}")
    explain = "--explain" in parsed.switches
    if explain:
        from dam.inference.explain_maps import check_installed

        check_installed()
    from dam.report import build_report
    from dam.report.points import lines
    from dam.report.pretraining import build_pretraining_report
    from dam.report.run_files import is_pretraining

    figures = "--no-figures" not in parsed.switches
    for number, path in enumerate(paths):
        if is_pretraining(path):
            print(("\n" if number else "") + "\n".join(build_pretraining_report(path, figures)))
            continue
        drawn = _explain(path) if explain else ()
        result = build_report(path, figures=figures)
        print(("\n" if number else "") + "\n".join((*result.lines, *drawn)))
        print("\n" + "\n".join(lines(result.points)))
    return 0


def _explain(path: Path) -> tuple[str, ...]:
    """Draw the overlays of a run's example images; what is to be said of them."""
    from dam.inference.explain_examples import explain_examples

    return explain_examples(path).lines
