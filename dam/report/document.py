"""What a report says, apart from how it looks: sections of blocks, which ``html`` and ``markdown`` each render.

Text is plain: nothing in it is markup, so labels and file names of a user can hold any character. Only ``strong`` and
``code`` mark words, with private-use characters that the renderers turn into tags after they have escaped the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

STRONG, STRONG_END, CODE, CODE_END = "\ue000", "\ue001", "\ue002", "\ue003"
_MARKS = re.compile("[\ue000-\ue003]")


def plain(text: object) -> str:
    """Text without marks."""
    return _MARKS.sub("", str(text))


def strong(text: object) -> str:
    """Words that stand out."""
    return f"{STRONG}{plain(text)}{STRONG_END}"


def code(text: object) -> str:
    """A name, key, path or command, as typed."""
    return f"{CODE}{plain(text)}{CODE_END}"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Callout:
    """One sentence nobody should miss; ``kind`` is verdict, caution or missing."""

    text: str
    kind: str = "caution"


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Commands or a file, as they are."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row. ``file``: the CSV of report/ with the same rows in full precision."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    file: str = ""
    last_is_total: bool = False
    words: bool = False  # cells are sentences and may wrap


@dataclass(frozen=True)
class Figure:
    """A figure: ``name`` in report/figures (.png, .svg) and figures/data (.csv); ``alt`` says what it shows."""

    name: str
    caption: str
    alt: str
    wide: bool = False


@dataclass(frozen=True)
class Picture:
    """An image of the run directory: its file under predictions/examples and the lines below it. ``beside``: a second
    one that stands next to it, such as an overlay; "" for none."""

    file: str
    alt: str
    lines: tuple[str, ...]
    beside: str = ""
    beside_alt: str = ""

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """File and alternative text of each of its one or two images."""
        both = ((self.file, self.alt), (self.beside, self.beside_alt))
        return tuple(pair for pair in both if pair[0])


@dataclass(frozen=True)
class Gallery:
    """Images side by side."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Figures:
    """Figures side by side where there is room."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until asked for."""

    summary: str
    blocks: tuple[Block, ...]


Block = Text | Callout | Items | Code | Table | Gallery | Figures | Details


@dataclass(frozen=True)
class Section:
    """A heading (level 2, or 3 for a part of the section before) with an ``id`` to link to, and what is under it."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    level: int = 2


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...] = field(default=())

    def blocks(self) -> Iterator[Block]:
        """Every block, those inside of details too."""
        for section in self.sections:
            yield from _inside(section.blocks)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All figures in order."""
        return tuple(f for block in self.blocks() if isinstance(block, Figures) for f in block.figures)


def _inside(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Details):
            yield from _inside(block.blocks)
