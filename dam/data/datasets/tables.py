"""What readers share: finding files, reading text tables, turning cells into labels, keeping paths inside the root."""

from __future__ import annotations

import difflib
import gzip
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dam.data.table import named
from dam.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
BLANK = frozenset({"", "nan", "na", "n/a", "null", "none"})
WORDS = {"true": "1", "false": "0"}
SEPARATORS = (",", ";", "\t", "|")


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


def find_table(path: str, root: Path, key: str) -> Path:
    """The file that the config names: absolute, below the root, or below the working folder. Raises ``UserError``."""
    given = Path(path).expanduser()
    for candidate in (root / given, given):
        if candidate.is_file():
            return Path(os.path.abspath(candidate))  # noqa: PTH100
    raise UserError(f"{key}={path} does not exist (looked in {root} and in the working folder).")


def read_text_table(path: Path) -> pd.DataFrame:
    """A table of text cells, blank cells as empty strings; the separator (comma, semicolon, tab, bar) is that which
    the header holds most of. UTF-8 with or without mark; ``.gz`` too. Raises ``UserError``."""
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(SEPARATORS, key=header.count)
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} cannot be read as a table: {error}.") from error
    frame.columns = [str(c).strip() for c in frame.columns]
    if len(frame) == 0:
        raise UserError(f"{path} holds a header but no rows.")
    return frame


def need_column(frame: pd.DataFrame, column: str, path: Path, key: str) -> str:
    """The column, or a ``UserError`` that lists the columns present and the nearest one."""
    if column in frame.columns:
        return column
    near = difflib.get_close_matches(column, list(frame.columns), 1, 0.6)
    hint = f" (nearest: {near[0]!r})" if near else ""
    raise UserError(
        f"{path} has no column {column!r}{hint}; its columns are {named(list(frame.columns), 30)}. Set {key} to one."
    )


def label_values(cells: pd.Series, path: Path) -> np.ndarray:
    """Cells as float64: blank -> NaN, true and false -> 1 and 0. Raises ``UserError`` naming row and column."""
    text = cells.str.strip().str.lower().replace(WORDS)
    blank = text.isin(BLANK)
    values = pd.to_numeric(text.mask(blank), errors="coerce")
    bad = np.flatnonzero((values.isna() & ~blank).to_numpy() | np.isinf(values.to_numpy(dtype=float)))
    if len(bad):
        raise UserError(
            f"{path}, row {bad[0] + 2}, column {cells.name!r}: {cells.iloc[int(bad[0])]!r} is no label "
            f"({len(bad)} such cells); a label is 1, 0, a fraction between, -1 for uncertain, or blank."
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
