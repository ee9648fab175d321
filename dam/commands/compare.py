"""``dam compare``: models of several runs or prediction files, paired on the same images."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from dam.commands.flags import parse
from dam.errors import UserError

HELP = """
usage: dam compare A B [C ...] [--model NAME] [options]

A, B, C are run directories or prediction files (of dam or of any tool). The first is what the others are compared with:
differences of AUC on the same images, other - first, with 95 % intervals, Holm over labels and over comparisons, and a
verdict. Several seeds of one side are joined by commas: A1,A2,A3 B1,B2,B3; then means over seeds are compared and the
spread over seeds is shown.

examples:
  dam compare outputs/ce/2026-01-31_12-00-00 outputs/auc/2026-01-31_14-00-00
  dam compare outputs/run --model ce outputs/run --model auc --out compared
  dam compare ours.csv theirs.csv --common --unit study
  dam compare s0_ce,s1_ce,s2_ce s0_auc,s1_auc,s2_auc --model auc

options:
  --model NAME             score column: once for all sides, or once a side; default auc where it is, else the last
  --split test|val|external_NAME     else test where all runs have it
  --common                 compare on the images that all have (else different images are refused)
  --unit image|study|patient   --merge mean|max        else as in the first run
  --interval auto|delong|logit|clustered|bootstrap   --replicates N   --seed N
  --out DIR                also write compare.csv, compare.json, compare.md and a figure
  of a table of another tool: --layout, --label, --target, --score, --image, --patient, --study as for `dam evaluate`
"""

_TABLE = ("--layout", "--label", "--target", "--score", "--image", "--patient", "--study")
_JUDGED = ("--unit", "--merge", "--interval", "--replicates", "--seed")
FLAGS = ("--model", "--split", "--out", *_TABLE, *_JUDGED)
SWITCHES = ("--common",)


def run(arguments: list[str]) -> int:
    """Compare what the words name; returns the exit code."""
    parsed = parse(arguments, FLAGS, SWITCHES, "compare")
    if len(parsed.items) < 2:
        said = f"`dam compare` takes two or more runs or prediction files, not {len(parsed.items)}"
        if not parsed.items:
            raise UserError(f"{said}; see `dam compare --help`")
        path = quote(parsed.items[0])
        raise UserError(f"{said}; two models of one run: dam compare {path} {path} --model ce --model auc")
    from dam.commands.evaluate import table_form
    from dam.commands.judging import settings
    from dam.report.compare import compare
    from dam.report.compare_files import check_out, lines, write
    from dam.report.compare_sources import common_split, contestants, judging_of, seed_notes, sides

    given = sides(parsed.items)
    out = parsed.one("--out")
    folder = check_out(Path(out).expanduser()) if out is not None else None
    judged = settings(parsed.words, judging_of(given[0][0]))
    split = common_split([path for paths in given for path in paths], parsed.one("--split"))
    notes: list[str] = seed_notes(given)
    found_sides = contestants(given, split, parsed.many("--model"), table_form(parsed), notes)
    evaluation = judged["evaluation"]
    found = compare(
        found_sides, split, judged["data"]["unit"], judged["data"]["merge"], evaluation["interval"],
        evaluation["replicates"], evaluation["seed"], "--common" in parsed.switches,
    )  # fmt: skip
    for note in notes:
        print(note)
    print("\n".join(lines(found)))
    if folder is not None:
        write(found, folder, [side.sources for side in found_sides])
        print(f"written: {folder / 'compare.md'}")
    return 0
