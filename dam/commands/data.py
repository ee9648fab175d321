"""``dam data check``: what a run would find in its data."""

from __future__ import annotations

import difflib

from dam.errors import UserError

HELP = """
usage: dam data check [--images] [data=NAME] [data.key=value] ...

Reads the dataset as `dam train` would with the same words, applies label policies and splits, checks files, labels and
patients, and prints what each step did and how many images and positives each split has. Trains nothing.
--images decodes every image too and builds the image store that later runs share.

examples:
  dam data check data=chexpert data.root=/data/CheXpert-v1.0-small
  dam data check --images data=csv data.csv=labels.csv data.root=images 'data.labels=[Edema]'
"""


def run(arguments: list[str]) -> int:
    """Check the data that the words describe; returns the exit code."""
    if not arguments or arguments[0] != "check":
        said = f"'{arguments[0]}'" if arguments else "nothing"
        raise UserError(f"`dam data` was given {said}: write `dam data check`, see `dam data --help`")
    words = [word for word in arguments[1:] if word != "--images"]
    for word in words:
        if word.startswith("-"):
            near = "; did you mean --images?" if difflib.get_close_matches(word, ["--images"]) else ""
            raise UserError(f"{word} is no option of `dam data check`, which has only --images{near}")
    from dam.compose import compose

    config = compose(words)
    from dam.data import load_table

    table = load_table(config.data)
    from dam.data.table import counted

    print(f"{table.name}: {counted(len(table), 'image')}, root {table.root}")
    for note in table.notes:
        print(f"  {note}")
    print(table.counts().to_string(index=False))
    if "--images" in arguments:
        from dam.data.augment import check_augment
        from dam.data.store import open_store

        check_augment(config.augment)
        store, _ = open_store(table, config.data, config.image_size, config.workers, progress=True)
        print(f"image store: {store.path} ({store.size} pixels, {store.channels} channel(s))")
        for locator, reason in store.skipped.items():
            print(f"  left out: {locator}: {reason}")
    return 0
