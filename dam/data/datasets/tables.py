"""What readers share: finding files, turning cells into labels, keeping paths inside the root."""

from __future__ import annotations

import difflib
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dam.data.datasets.text_tables import SEPARATOR_WORDS
from dam.data.table import counted, named
from dam.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".dcm")
BLANK = frozenset({"", "nan", "na", "n/a", "null", "none"})
WORDS = {"true": "1", "false": "0"}
TABLES = (".csv", ".tsv", ".txt", ".gz")


def is_debris(name: str) -> bool:
    """Files and folders that operating systems leave behind."""
    return name.startswith("._") or name in {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"}


def root_folder(root: str | None, name: str) -> Path:
    """``data.root`` as an existing, absolute folder. Raises ``UserError``."""
    if root is None:
        raise UserError(f"data.root is not set: give the folder that holds {name} with data.root=PATH.")
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is a file, not a folder" if path.is_file() else "does not exist"
        raise UserError(f"data.root={root} {what}: give the folder that holds {name} with data.root=PATH.")
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links out of the root


def folders(root: Path, depth: int) -> Iterator[Path]:
    """``root`` and the folders below it to ``depth`` levels, breadth first, by name."""
    level = [root]
    for _ in range(depth + 1):
        following: list[Path] = []
        for folder in level:
            yield folder
            following += subfolders(folder)
        level = following


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, without debris and hidden ones."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not is_debris(e.name) and not e.name.startswith("."))
    return [folder / name for name in names]


def find_table(path: str, root: Path | None, key: str) -> Path:
    """The file that the config names: absolute, below the root, or below the working folder. Raises ``UserError``."""
    given = Path(path).expanduser()
    places = [given] if root is None or given.is_absolute() else [root / given, given]
    for candidate in places:
        if candidate.is_file():
            return Path(os.path.abspath(candidate))  # noqa: PTH100
    folder = next((candidate for candidate in places if candidate.is_dir()), None)
    if folder is not None:
        tables = sorted(
            entry.name for entry in folder.iterdir() if entry.suffix in TABLES and not is_debris(entry.name)
        )
        inside = f", such as {folder / tables[0]}" if tables else ""
        raise UserError(f"{key}={path} is a folder, not a file: name the table in it{inside}.")
    where = "" if given.is_absolute() else f" (looked in {root} and in the working folder)"
    near = _like(given)
    raise UserError(f"{key}={path} does not exist{where}{f'; did you mean {near}?' if near else ': correct the path.'}")


def _like(path: Path) -> str:
    """A table beside ``path`` with a similar name, or nothing."""
    if not path.parent.is_dir():
        return ""
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in TABLES]
    near = difflib.get_close_matches(path.name, names, 1, 0.6)
    return str(path.parent / near[0]) if near else ""


def need_column(frame: pd.DataFrame, column: str, path: Path, key: str) -> str:
    """The column, or a ``UserError`` that lists the columns present and the nearest one."""
    if column in frame.columns:
        return column
    names = [str(name) for name in frame.columns]
    told = f"{path} has no column {column!r}"
    if len(names) == 1 and len(names[0]) > len(column):
        raise UserError(
            f"{told}; its header was read as one column, {names[0]!r}: columns are separated by {SEPARATOR_WORDS}, "
            "so save the table with one of these."
        )
    if any(name.lower().endswith(IMAGES) for name in names):
        raise UserError(
            f"{told}; its first row, {named(names, 5)}, looks like data: put a header above it, such as "
            f"{column},patient,label."
        )
    near = difflib.get_close_matches(column, names, 1, 0.6)
    hint = f" (nearest: {near[0]!r})" if near else ""
    setting = f"data.labels=[{near[0] if near else 'NAME'}]" if key == "data.labels" else f"{key} to one"
    raise UserError(f"{told}{hint}; its columns are {named(names, 30)}. Set {setting}.")


def label_values(cells: pd.Series, path: Path) -> np.ndarray:
    """Cells as float64: blank -> NaN, true and false -> 1 and 0. Raises ``UserError`` naming row and column."""
    text = cells.str.strip().str.lower().replace(WORDS)
    blank = text.isin(BLANK)
    values = pd.to_numeric(text.mask(blank), errors="coerce")
    bad = np.flatnonzero((values.isna() & ~blank).to_numpy() | np.isinf(values.to_numpy(dtype=float)))
    if len(bad):
        raise UserError(
            f"{path}, row {bad[0] + 2}, column {cells.name!r}: {cells.iloc[int(bad[0])]!r} is no label "
            f"({counted(len(bad), 'such cell')}); a label is 1, 0, a fraction between, -1 for uncertain, or blank."
        )
    return values.to_numpy(dtype=np.float64)


def inside(locators: Sequence[str], root: Path, path: Path) -> list[str]:
    """Locators relative to the root, with forward slashes. Raises ``UserError`` for one that leaves the root."""
    prefix = root.as_posix().rstrip("/") + "/"
    relative = []
    for row, locator in enumerate(locators):
        clean = locator.strip().replace("\\", "/")
        if not clean:
            raise UserError(f"{path}, row {row + 2}: the image path is blank.")
        normal = posixpath.normpath(clean)
        if normal.startswith(prefix):
            normal = normal[len(prefix) :]
        if normal.startswith(("/", "../")) or normal == ".." or normal[1:3] == ":/":
            raise UserError(
                f"{path}, row {row + 2}: {locator} is outside data.root={root}. "
                "Give paths below the root, or set data.root to a folder that holds all images."
            )
        relative.append(normal)
    return relative
