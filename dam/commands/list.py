"""``dam list``: the names that a config can use."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable

from dam.config_files import choices, summary
from dam.errors import UserError

HELP = """
usage: dam list [datasets|models|objectives|experiments] [PATTERN]

Prints the names that a config can use, each with one line about it; without a word, all of them.
`dam list datasets` also says where to get each, and its licence.
`dam list models PATTERN` also searches timm's names (any of them works as model=timm model.name=NAME).
Experiments called moco_* are for `dam pretrain`; `dam study list` has the studies.

examples:
  dam list experiments
  dam list models 'convnext*'
"""


def run(arguments: list[str]) -> int:
    """Print the lists that are asked for; returns the exit code."""
    kind, pattern = (*arguments[:2], "", "")[:2]
    if len(arguments) > 2 or (pattern and kind != "models"):
        raise UserError("`dam list` takes one of " + ", ".join(LISTS) + "; only models takes a pattern")
    if kind and kind not in LISTS:
        near = difflib.get_close_matches(kind, LISTS, n=1)
        raise UserError(
            f"`dam list {kind}`: choose one of {', '.join(LISTS)}" + (f"; did you mean {near[0]}?" if near else "")
        )
    if pattern:
        return _search(pattern)
    for number, name in enumerate([kind] if kind else LISTS):
        print(("\n" if number else "") + f"{name}:")
        if name == "datasets" and kind:
            _print_datasets()
            continue
        rows = LISTS[name]()
        width = max((len(row[0]) for row in rows), default=0)
        for left, right in rows:
            print(f"  {left:<{width}}   {right}")
    return 0


def _datasets() -> list[tuple[str, str]]:
    from dam.data.datasets import DATASETS

    return [(f"data={name}", record.summary) for name, record in DATASETS.items()]


def _print_datasets() -> None:
    """Each dataset with where to get it and its licence, on 80 columns."""
    from dam.data.datasets import DATASETS

    for name, record in DATASETS.items():
        print(f"  data={name}")
        for word, text in (("", record.summary), ("from: ", record.where), ("licence: ", record.licence)):
            lines = textwrap.wrap(word + text, 76, break_long_words=False, break_on_hyphens=False)
            print(textwrap.indent("\n".join(lines), "    "))


def _models() -> list[tuple[str, str]]:
    return [(f"model={name}", summary("model", name)) for name in choices("model")]


def _objectives() -> list[tuple[str, str]]:
    from dam.objectives import OBJECTIVES

    return [(name, f"{record.summary} (optimizers: {', '.join(record.optimizers)})")
            for name, record in OBJECTIVES.items()]  # fmt: skip


def _experiments() -> list[tuple[str, str]]:
    return [(f"+experiment={name}", summary("experiment", name)) for name in choices("experiment")]


LISTS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "datasets": _datasets,
    "models": _models,
    "objectives": _objectives,
    "experiments": _experiments,
}


def _search(pattern: str) -> int:
    import timm

    import dam.models  # noqa: F401 - registers the networks of this project

    names = timm.list_models(pattern if "*" in pattern else f"*{pattern}*")
    if not names:
        near = difflib.get_close_matches(pattern.strip("*"), timm.list_models(), n=3)
        raise UserError(
            f"timm has no model like '{pattern}'"
            + (f"; near it: {', '.join(near)}" if near else "; `dam list models` shows all")
        )
    print("\n".join(names))
    return 0
