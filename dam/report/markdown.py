"""report.md: a ``Document`` as Markdown, its figures as links to PNG files; and tables for a paper."""

from __future__ import annotations

from collections.abc import Sequence

from dam.report.document import (
    CODE,
    CODE_END,
    STRONG,
    STRONG_END,
    Block,
    Callout,
    Code,
    Details,
    Document,
    Figures,
    Gallery,
    Items,
    Section,
    Table,
    Text,
    plain,
)

MARKS = {STRONG: "**", STRONG_END: "**", CODE: "`", CODE_END: "`"}


def render(document: Document) -> str:
    """The whole report.md."""
    parts = [f"# {_text(document.title)}", _text(document.subtitle)]
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left aligned, the others centred."""
    lines = [header, [":--", *[":-:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _section(section: Section) -> list[str]:
    return [f"{'#' * section.level} {_text(section.title)}", *(part for b in section.blocks for part in _block(b))]


def _block(block: Block) -> list[str]:
    match block:
        case Text(text):
            return [_text(text)]
        case Callout(text):
            return [f"> {_text(text)}"]
        case Items(items):
            return ["\n".join(f"- {_text(i)}" for i in items)]
        case Code(text, language):
            return [f"```{language}\n{text.rstrip()}\n```"]
        case Table():
            caption = [f"{_text(block.caption)}:"] if block.caption else []
            return [*caption, table(block.header, block.rows)]
        case Figures(figures):
            return [f"![{_alt(f.caption)}](figures/{f.name}.png)" for f in figures]
        case Gallery(pictures):
            header = [_text(" / ".join(p.lines)) for p in pictures]
            return [
                "\n".join(
                    f"- {' '.join(f'![{_alt(a)}](../predictions/examples/{f})' for f, a in p.sources)} {h}"
                    for p, h in zip(pictures, header, strict=True)
                )
            ]
        case Details(summary, blocks):
            return [f"{_text(summary)}:", *(part for inner in blocks for part in _block(inner))]


def _text(text: str) -> str:
    """Plain text with its marks; what a Markdown viewer would take for HTML is escaped, but not inside of code."""
    result, inside = [], False
    for character in text:
        inside = character == CODE or (inside and character != CODE_END)
        if character == "<" and not inside:
            result.append("&lt;")
        else:
            result.append(MARKS.get(character, character))
    return "".join(result)


def _cell(text: object) -> str:
    return _text(str(text)).replace("|", "\\|").replace("\n", " ")


def _alt(text: str) -> str:
    return plain(text).replace("[", "(").replace("]", ")").replace("<", "&lt;").replace("\n", " ")
