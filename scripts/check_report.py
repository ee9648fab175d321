"""Which of the 23 points of a publishable report a run passes: ``python scripts/check_report.py RUN [RUN ...]``.

Builds the report again from the run's files, figures too, and prints a line a point with where it is found or what is
missing. Exit code 1 where a point fails (points that only a person can fill do not count), so that CI can ask.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dam.errors import UserError
from dam.report import build_report
from dam.report.points import FAIL, lines


def main(arguments: list[str]) -> int:
    """Check each run; returns the exit code."""
    if not arguments:
        print(__doc__)
        return 2
    failed = False
    for number, name in enumerate(arguments):
        try:
            points = build_report(Path(name)).points
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print("\n" * bool(number) + f"{name}")
        print("\n".join(lines(points)))
        failed |= any(point.state == FAIL for point in points)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
