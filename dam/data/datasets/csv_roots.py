"""Where the images of a table are: below one or several folders or archives, searched in order.

A root is a folder (``/data/images``), an archive (``/data/images.zip``) or a folder inside one
(``/data/images.zip::train``). A cell names an image below a root, or a member of an archive below a root
(``part1.zip::a/b.png``). No name may lead out of its root.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote

import numpy as np
import pandas as pd

from dam.config import CsvConfig
from dam.data.containers import SEPARATOR, is_archive
from dam.data.containers.archive import open_archive
from dam.data.datasets.tables import IMAGES, root_folder, subfolders
from dam.data.table import Naming, counted, named
from dam.errors import UserError


@dataclass(frozen=True)
class Root:
    """A folder, or an archive and a folder inside it (empty for its top). ``shown`` is as the user wrote it."""

    path: Path
    inner: str
    archive: bool
    shown: str

    @cached_property
    def _prefix(self) -> str:
        return self.path.as_posix().rstrip("/") + "/"

    def locators(self, base: Path) -> Callable[[str], str]:
        """What makes a name below this root a locator, for a table whose root is ``base``."""
        if self.archive:
            start = f"{_relative(self.path, base)}{SEPARATOR}"
            return lambda name: start + posixpath.normpath(f"{self.inner}/{name}").lstrip("/")
        return (lambda name: name) if self.path == base else (lambda name: self._prefix + name)

    @property
    def folder(self) -> Path:
        """The folder itself, or that of the archive."""
        return self.path.parent if self.archive else self.path

    def below(self, name: str) -> str | None:
        """A cleaned name as a path below this root, or ``None`` if it leads elsewhere."""
        if not self.archive and name.startswith(self._prefix):
            name = name[len(self._prefix) :]
        out = name.startswith(("/", "../")) or name == ".." or name[1:3] == ":/"
        return None if out else name

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        if self.archive:
            return posixpath.normpath(f"{self.inner}/{name}").lstrip("/") in open_archive(self.path).names
        return os.path.lexists(self.path / name)


def parse_root(text: str | None, what: str, key: str = "data.root") -> Root:
    """The root that the config names. Raises ``UserError`` if there is none such."""
    name, _, inner = (text or "").partition(SEPARATOR)
    path = Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100 - resolve() would follow links
    if text is not None and is_archive(name) and path.is_file():
        return Root(path, inner.strip("/"), True, text)
    if key != "data.root" and not path.is_dir():
        raise UserError(f"{key}={text} is neither a folder nor an archive (.zip, .tar, .tar.gz): give one that holds "
                        f"{what}.")  # fmt: skip
    return Root(root_folder(text, what), "", False, str(text))


def roots_of(cfg: CsvConfig, column: str, table: Path) -> list[Root]:
    """The roots in which an image column is looked up, first to last; without any, the folder of the table."""
    first = cfg.column_roots.get(column)
    roots = []
    if first is not None:
        roots.append(parse_root(first, "the images", f"data.column_roots.{column}"))
    elif cfg.root is not None:
        roots.append(parse_root(cfg.root, "the images"))
    roots += [parse_root(root, "the images", "data.more_roots") for root in cfg.more_roots]
    return roots or [Root(table.parent, "", False, str(table.parent))]


def locate(cells: pd.Series, roots: list[Root], base: Path, suffix: str | None, table: Path) -> list[str]:
    """Locators of the images that the cells name, relative to ``base`` or absolute; a blank cell gives ``""``.

    An image in none of the roots gets the locator it would have in the first. Raises ``UserError`` for a name that
    leaves all roots.
    """
    located = []
    makers = [root.locators(base) for root in roots]
    alone = len(roots) == 1
    for row, cell in enumerate(cells):
        raw = cell.strip().replace("\\", "/")
        if not raw:
            located.append("")
            continue
        outer, separator, item = raw.partition(SEPARATOR)
        if not outer:
            raise UserError(f"{table}, row {row + 2}: {cell} names no archive before '{SEPARATOR}'.")
        name = outer if separator else outer + (suffix or "")
        if "./" in name or "//" in name or name.endswith(("/", ".")):
            name = posixpath.normpath(name)
        elif alone and name[0] != "/" and name[1:2] != ":" and not separator:  # nearly every cell of nearly every table
            located.append(makers[0](name))
            continue
        found = [(root, below) for root in roots if (below := root.below(name)) is not None]
        if not found or (separator and (item.startswith("/") or ".." in item.split("/"))):
            raise UserError(
                f"{table}, row {row + 2}: {cell} is outside data.root={roots[0].shown}. "
                "Give paths below the root, or set data.root to a folder that holds all images."
            )
        if len(roots) > 1:
            found = [(root, below) for root, below in found if root.has(below)] or found
        root, below = found[0]
        located.append(makers[roots.index(root)](below) + (f"{SEPARATOR}{item}{suffix or ''}" if separator else ""))
    return located


def check_members(frame: pd.DataFrame, base: Path, cfg: CsvConfig, notes: list[str]) -> pd.DataFrame:
    """Rows whose archive has their image; the others are refused or left out, as ``data.on_bad_image`` says.

    Archives that are not there are left to the checks of all tables. Raises ``UserError``.
    """
    images = frame["image"]
    rows = np.flatnonzero(images.str.contains(SEPARATOR, regex=False).to_numpy())
    if not len(rows):
        return frame
    absent = np.zeros(len(frame), bool)
    for row in rows.tolist():
        name, _, item = images.iloc[row].partition(SEPARATOR)
        path = base / name
        if is_archive(name) and path.is_file():
            absent[row] = not _known(path, item)
    if not absent.any():
        return frame
    missing = images[absent].tolist()
    told = f"{counted(len(missing), 'image')} {'is' if len(missing) == 1 else 'are'} not in the archive that should " \
           f"hold {'it' if len(missing) == 1 else 'them'}"  # fmt: skip
    if absent.all() or cfg.on_bad_image == "refuse":
        first = missing[0].partition(SEPARATOR)[0]
        there = named(list(open_archive(base / first).names)[:3]) or "no file"
        raise UserError(
            f"{told}: {named(missing, 5)}. {first} holds {there}, ...; give names as the archive has them (a folder "
            "inside: data.root=ARCHIVE::FOLDER), or leave these rows out with data.on_bad_image=skip."
        )
    notes.append(Naming(f"left out: {told}", f": {named(missing, 5)}"))
    return frame[~absent].reset_index(drop=True)


def _known(path: Path, item: str) -> bool:
    archive = open_archive(path)
    return item in archive.names or item in archive.refused  # what is refused has a reason of its own


def look_around(name: str, root: Path, path: Path) -> None:
    """The first images are not there: say so if one is with an ending, or in a folder below the root."""
    endings = ["", *(ending for suffix in IMAGES for ending in (suffix, suffix.upper()))]
    for folder in [root, *subfolders(root)[:50]]:
        for ending in endings:
            if (folder / (name + ending)).is_file():
                settings = [f"data.root={folder}"] if folder != root else []
                settings += [f"data.image_suffix={ending}"] if ending else []
                raise UserError(
                    f"{path}, row 2: there is no image {name} in {root}, but {folder / (name + ending)} is one. "
                    f"Set {' '.join(map(quote, settings))}."
                )


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
