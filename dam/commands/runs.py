"""``dam runs``: what became of the runs under outputs/; ``dam runs clean``: away with what only a resume needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dam.commands.flags import parse
from dam.errors import UserError

if TYPE_CHECKING:
    from dam.report.leftovers import Leftovers
    from dam.report.overview import RunRow

HELP = """
usage: dam runs [FOLDER ...] [--filter TEXT|key=value ...] [--sort COLUMN] [--csv FILE] [--all]
       dam runs clean [RUN ...] [--yes]

A line a run under outputs/ (or the folders named): experiment, when, state, mean validation AUC, mean test AUC with
95 % interval, the word on its first comparison, time spent in training; then which runs can be resumed, and how.
A sweep is one line with its best job by validation, a cross-validation one line for its folds.

examples:
  dam runs
  dam runs outputs/quickstart --filter state=done --filter auc.loss.margin=1.0 --sort -val
  dam runs clean outputs/quickstart/2026-01-31_12-00-00

options:
  --filter TEXT       TEXT stands anywhere in the line; key=value: a column, or a key of the run's config
  --sort COLUMN       run, experiment, when (default), state, val, test, verdict, seconds...; -COLUMN: the largest first
  --csv FILE          all of it as a table, a line a run, job and fold, in full precision
  --all               every job, fold and directory of `dam evaluate` in a line of its own

clean removes checkpoints (last.ckpt, previous.ckpt) and half-written files, and says what and how many bytes; without
RUN of all finished runs under outputs/. It asks first; --yes answers. Of an unfinished run, which must be named,
checkpoints are all that the open stage has: resumed, that stage begins again. (A folder called clean: ./clean.)
"""


def run(arguments: list[str]) -> int:
    """List or clean the runs that the words name; returns the exit code."""
    if arguments and arguments[0] == "clean":
        return _clean(arguments[1:])
    filters, rest = _filters(arguments)
    parsed = parse(rest, ("--sort", "--csv"), ("--all",), "runs")
    from dam.report.overview import read_runs
    from dam.report.overview_table import collapse, csv_text, order, select, text_lines

    folders = _folders([*parsed.items, *parsed.words])
    every = read_runs(folders)
    rows = order(select(every, filters), parsed.one("--sort"))
    shown = [(row, "") for row in rows] if "--all" in parsed.switches else collapse(rows)
    if parsed.one("--sort") is not None and "--all" not in parsed.switches:
        place = {row.path: i for i, row in enumerate(order([row for row, _ in shown], parsed.one("--sort")))}
        shown.sort(key=lambda pair: place[pair[0].path])
    named = ", ".join(map(str, folders))
    if not rows:
        print(f"no run under {named}" + (f" passes the filter (of {len(every)})" if every else ""))
    else:
        print("\n".join(text_lines(shown)))
        print("\n" + "\n".join(_ending(rows)))
    if (target := parsed.one("--csv")) is not None:
        from dam.files import atomic_write_text

        try:
            atomic_write_text(Path(target).expanduser(), csv_text(rows))
        except OSError as error:
            raise UserError(f"--csv {target} cannot be written: {error.strerror}") from error
        print(f"{target}: {len(rows)} lines")
    return 0


def _filters(arguments: list[str]) -> tuple[list[str], list[str]]:
    """--filter takes a value with `=` in it, and may be repeated."""
    filters, rest, words = [], [], list(arguments)
    while words:
        word = words.pop(0)
        if word == "--filter":
            if not words:
                raise UserError("--filter needs a value after it: a text, or key=value; see `dam runs --help`")
            filters.append(words.pop(0))
        elif word.startswith("--filter="):
            filters.append(word.removeprefix("--filter="))
        else:
            rest.append(word)
    return filters, rest


def _folders(names: list[str]) -> list[Path]:
    folders = [Path(name).expanduser() for name in names or ["outputs"]]
    for folder in folders:
        if not folder.is_dir():
            way = "name the folder of your runs: dam runs FOLDER" if not names else "`dam runs` takes folders"
            raise UserError(f"there is no folder {folder} here; {way}")
    return folders


def _ending(rows: list[RunRow]) -> list[str]:
    from dam.report.overview_table import duration

    runs = [row for row in rows if row.kind in ("run", "job")]
    states = {state: sum(row.state == state for row in runs) for state in dict.fromkeys(row.state for row in runs)}
    seconds = sum(row.seconds for row in runs if row.seconds == row.seconds)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    lines = [f"{len(runs)} run{'s' * (len(runs) != 1)}: {counts}; {duration(seconds)} of training"]
    damaged = [row for row in rows if row.state == "damaged"]
    lines += [f"damaged: {row.path}: {row.reason}" for row in damaged]
    sweeps, known = _open_sweeps(rows)
    again = [row for row in rows if row.resume and row.group not in known]
    if again or sweeps:
        lines.append("to go on:")
        for row in again:
            at = f" at {row.where}" if row.where else ""
            lines.append(f"  {row.resume}  # {row.state}{at}")
    return lines + sweeps


def _open_sweeps(rows: list[RunRow]) -> tuple[list[str], set[Path]]:
    """A line for each sweep that can be completed as a whole, and the sweeps that these are."""
    from dam.sweep import how_to_complete

    lines, known = [], set()
    for sweep in dict.fromkeys(row.group for row in rows if row.kind == "job" and row.group is not None):
        told = how_to_complete(sweep)
        if told is not None:
            known.add(sweep)
            lines += [f"  {told}"] * (told != "")
    return lines, known


# ---------------------------------------------------------------- clean


def _clean(arguments: list[str]) -> int:
    parsed = parse(arguments, (), ("--yes",), "runs clean")
    from dam.report.leftovers import leftovers, remove
    from dam.report.overview import read_row, read_runs

    names = [*parsed.items, *parsed.words]
    if names:
        rows = [read_row(path) for path in _folders(names)]
        for row in rows:
            if not (row.path / "config.yaml").is_file():
                raise UserError(f"{row.path} is no run directory: it has no config.yaml; `dam runs` lists the runs")
    else:
        rows = [row for row in read_runs(_folders([])) if row.kind in ("run", "job")]
    busy = [row for row in rows if row.state == "running" or _busy_fold(row.path)]
    for row in busy:
        print(f"{row.path} is running: left alone")
    rows = [row for row in rows if row not in busy]
    still = [row for row in rows if row.state != "done" and not names]
    rows = [row for row in rows if row not in still]
    found = [(row, left) for row in rows if (left := leftovers(row.path)).paths]
    for row in still:
        if (left := leftovers(row.path)).paths:
            print(f"{row.path} is {row.state}: left alone ({_bytes(left.size)}); name it to clean it")
    if not found:
        print("nothing to remove")
        return 0
    yes = "--yes" in parsed.switches
    if not yes and not sys.stdin.isatty():
        _show([left for _, left in found])
        raise UserError("nothing was removed: there is no terminal to ask on; say --yes")
    freed = 0
    for row, left in found:
        _show([left])
        if yes or _asked(row):
            freed += remove(left)
    print(f"removed {_bytes(freed)}")
    return 0


def _busy_fold(path: Path) -> bool:
    from dam.report.overview import held

    return any(held(fold) for fold in path.glob("fold_*"))


def _show(found: list[Leftovers]) -> None:
    for left in found:
        for path in left.paths:
            print(f"  {path}")
        print(f"{left.run}: {len(left.paths)} files, {_bytes(left.size)}")


def _asked(row: RunRow) -> bool:
    """The question; only a clear yes counts."""
    question = "remove these?"
    if row.state != "done":
        at = f" at {row.where}" if row.where else ""
        question = f"{row.path} is NOT finished ({row.state}{at}): resumed, its open stage begins again. Remove these?"
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _bytes(size: int) -> str:
    unit, scale = next(((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size >= s), ("bytes", 1))
    return f"{size / scale:.3g} {unit}" if scale > 1 else f"{size} bytes"
