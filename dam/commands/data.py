"""``dam data``: what a run would find in its data (``check``), and its images made ready ahead (``prepare``)."""

from __future__ import annotations

import difflib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dam.errors import UserError

if TYPE_CHECKING:
    from dam.config import Config

OPTIONS = {"check": ("--images", "--out"), "prepare": ()}
HELP = """
usage: dam data check [--images] [--out DIR] [data=NAME] [data.key=value] ...
       dam data prepare [data=NAME] [data.key=value] [image_size=...] [workers=...] ...

Both take the words of `dam train`. Neither trains anything.

check reads the dataset and tells: images, patients and labels of each split, imratio, uncertain and blank labels,
missing and unreadable files, sizes and colours, patients and byte-equal images in more than one split, and what
`dam train` would refuse (then the exit code is 2). Writes check.json and contact_sheet.png (look at it) into
outputs/data_check/NAME, or DIR. A sample of 300 images is decoded; --images decodes all, into the image store.

prepare decodes and resizes all images into the image store that runs share, in parallel by `workers`; a killed
prepare goes on where it was.

examples:
  dam data check data=chexpert data.root=/data/CheXpert-v1.0-small
  dam data check --images data=csv data.csv=labels.csv data.root=images 'data.labels=[Edema]'
  dam data prepare +experiment=chexpert_densenet121 data.root=/data/CheXpert-v1.0-small
"""


def run(arguments: list[str]) -> int:
    """Check or prepare the data that the words describe; returns the exit code."""
    if not arguments or arguments[0] not in OPTIONS:
        said = f"'{arguments[0]}'" if arguments else "nothing"
        raise UserError(f"`dam data` was given {said}: write `dam data check` or `dam data prepare`, "
                        "see `dam data --help`")  # fmt: skip
    verb = arguments[0]
    words, images, out = _options(verb, arguments[1:])
    from dam.compose import compose

    config = compose(words)
    return _check(config, images, out) if verb == "check" else _prepare(config)


def _options(verb: str, arguments: list[str]) -> tuple[list[str], bool, str | None]:
    """Split ``--images`` and ``--out DIR`` from the words of the config."""
    words: list[str] = []
    images, out = False, None
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == "--images" and "--images" in OPTIONS[verb] and not equals:
            images = True
        elif name == "--out" and "--out" in OPTIONS[verb]:
            out = value if equals else next(rest, "")
            if not out or out.startswith("-"):
                raise UserError("--out needs a folder: dam data check --out DIR")
        elif word.startswith("-"):
            known = OPTIONS[verb]
            near = difflib.get_close_matches(word, known, 1)
            has = f"which has only {' and '.join(known)}" if known else "which has none"
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{word} is no option of `dam data {verb}`, {has}{hint}")
        else:
            words.append(word)
    return words, images, out


def _check(config: Config, images: bool, out: str | None) -> int:
    from dam.data.augment import check_augment
    from dam.data.contact_sheet import write_contact_sheet
    from dam.data.inspect import inspect
    from dam.data.inspect_text import as_text
    from dam.data.readers import ImageReader
    from dam.data.store import open_store
    from dam.files import atomic_write_text

    check_augment(config.augment)
    data, size, workers = config.data, config.image_size, config.workers
    store = (lambda table, cfg: open_store(table, cfg, size, workers, progress=True)) if images else None
    folder = Path(out).expanduser() if out is not None else Path("outputs", "data_check", data.name)
    seen = inspect(data, workers, store)
    print(as_text(seen.findings))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / "check.json", json.dumps(seen.findings, indent=1, ensure_ascii=False))
        reader = ImageReader(seen.table.root, data.window)
        write_contact_sheet(folder / "contact_sheet.png", seen.table, reader, data.fit, data.split_seed)
    except OSError as error:
        raise UserError(f"Cannot write into {folder} ({error.strerror or error}): give a folder with --out") from error
    print(f"\nwritten: {folder / 'check.json'}\nlook at: {folder / 'contact_sheet.png'}")
    if seen.refused:
        raise UserError("`dam train` would refuse this data: " + "; ".join(told.rstrip(".") for told in seen.refused))
    return 0


def _prepare(config: Config) -> int:
    from dam.data import load_table
    from dam.data.store import open_store

    table = load_table(config.data)
    start = time.perf_counter()
    store, kept = open_store(table, config.data, config.image_size, config.workers, progress=True)
    seconds = time.perf_counter() - start
    built = any(note.startswith("image store built") for note in kept.notes)
    size = sum(file.stat().st_size for file in store.path.iterdir()) / 1e6
    print(f"image store: {store.path}")
    print(f"  {len(store) - len(store.skipped):,} images of {store.size} x {store.size} pixels, "
          f"{store.channels} channel{'s' * (store.channels > 1)}, {size:,.1f} MB")  # fmt: skip
    print(f"  built in {seconds:.1f} s, {len(store) / max(seconds, 1e-9):,.0f} images/s" if built
          else "  was there already")  # fmt: skip
    for note in kept.notes[len(table.notes) :]:
        if not note.startswith("image store built"):
            print(f"  {note}")
    for locator, reason in store.skipped.items():
        print(f"  left out: {locator}: {reason}")
    return 0
