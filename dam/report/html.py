"""report.html: one file that needs no network, no script and no other file, from a ``Document``."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

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
    Figure,
    Figures,
    Gallery,
    Items,
    Section,
    Table,
    Text,
    plain,
)
from dam.report.svg import for_page, uri

TAGS = {STRONG: "<strong>", STRONG_END: "</strong>", CODE: "<code>", CODE_END: "</code>"}
LIMIT = 4_900_000  # bytes of report.html


def render(document: Document, figures: Path, pictures: Path) -> str:
    """The page. ``figures``: the folder with NAME.svg and NAME.png; ``pictures``: that of the example images.

    Where all figures as SVG would make the page larger than ``LIMIT`` bytes, the largest ones are taken as PNG if that
    is smaller, and what is still too much is left out with a word.
    """
    images = _images(document, figures, pictures)
    blocks = _Blocks(images)
    style = (files("dam.report") / "style.css").read_text(encoding="utf-8")
    body = "\n".join(blocks.section(section) for section in document.sections)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(plain(document.title))}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#main">Skip to the report</a>',
            f'<header><h1>{inline(document.title)}</h1><p class="sub">{inline(document.subtitle)}</p></header>',
            _contents(document.sections),
            f'<main id="main">\n{body}\n</main>',
            "</body>",
            "</html>",
            "",
        ]
    )


def escape(text: object) -> str:
    """Text as HTML, also inside of attributes."""
    return html.escape(str(text), quote=True)


def inline(text: str) -> str:
    """Escaped text with the marks of ``document`` as tags. Marks that do not pair are dropped."""
    result, opened = [], ""
    for character in text:
        if character in (STRONG, CODE) and not opened:
            opened = STRONG_END if character == STRONG else CODE_END
            result.append(TAGS[character])
        elif character == opened and opened:
            result.append(TAGS[character])
            opened = ""
        elif character not in TAGS:
            result.append(character if character not in "&<>\"'" else html.escape(character, quote=True))
    return "".join(result) + (TAGS[opened] if opened else "")


def _contents(sections: Sequence[Section]) -> str:
    links = "".join(
        f'<li><a href="#{escape(s.id)}">{escape(plain(s.title))}</a></li>' for s in sections if s.level == 2
    )
    return f'<nav aria-label="Contents"><ol>{links}</ol></nav>'


class _Blocks:
    """Renders blocks; knows the data URI of every image."""

    def __init__(self, images: dict[str, str]) -> None:
        self.images = images
        self._by_type: dict[type, Callable[[Block], str]] = {
            Text: lambda b: f"<p>{inline(b.text)}</p>",  # type: ignore[union-attr]
            Callout: lambda b: f'<p class="callout {escape(b.kind)}">{inline(b.text)}</p>',  # type: ignore[union-attr]
            Items: lambda b: "<ul>" + "".join(f"<li>{inline(i)}</li>" for i in b.items) + "</ul>",  # type: ignore[union-attr]
            Code: lambda b: f'<pre tabindex="0"><code>{escape(b.text)}</code></pre>',  # type: ignore[union-attr]
            Table: table,  # type: ignore[dict-item]
            Figures: self._figures,  # type: ignore[dict-item]
            Gallery: self._gallery,  # type: ignore[dict-item]
            Details: self._details,  # type: ignore[dict-item]
        }

    def section(self, section: Section) -> str:
        level, name = section.level, escape(section.id)
        inner = "\n".join(self.block(block) for block in section.blocks)
        heading = f'<h{level} id="{name}">{inline(section.title)}</h{level}>'
        return f'<section aria-labelledby="{name}">\n{heading}\n{inner}\n</section>'

    def block(self, block: Block) -> str:
        return self._by_type[type(block)](block)

    def _details(self, block: Details) -> str:
        inner = "\n".join(self.block(b) for b in block.blocks)
        return f"<details><summary>{inline(block.summary)}</summary>\n{inner}\n</details>"

    def _figures(self, block: Figures) -> str:
        return '<div class="figures">' + "".join(self._figure(f) for f in block.figures) + "</div>"

    def _figure(self, figure: Figure) -> str:
        source = self.images.get(f"figure {figure.name}", "")
        picture = (
            f'<img src="{source}" alt="{escape(plain(figure.alt))}">' if source else "<p>left out: page too large</p>"
        )
        kind = ' class="wide"' if figure.wide else ""
        data = f'<span class="file">figures/data/{escape(figure.name)}.csv</span>'
        return f"<figure{kind}>{picture}<figcaption>{inline(figure.caption)} {data}</figcaption></figure>"

    def _gallery(self, block: Gallery) -> str:
        cells = []
        for picture in block.pictures:
            image = "".join(self._picture(file, alt) for file, alt in picture.sources)
            lines = "".join(f"<span>{inline(line)}</span>" for line in picture.lines)
            image = f'<div class="pair">{image}</div>' if picture.beside else image
            cells.append(f"<figure>{image}<figcaption>{lines}</figcaption></figure>")
        kind = "gallery pairs" if any(picture.beside for picture in block.pictures) else "gallery"
        return f'<div class="{kind}">' + "".join(cells) + "</div>"

    def _picture(self, file: str, alt: str) -> str:
        source = self.images.get(f"picture {file}", "")
        return f'<img src="{source}" alt="{escape(plain(alt))}">' if source else "<p>left out</p>"


def table(block: Table) -> str:
    """A table in a box of its own that scrolls sideways; headers have a scope."""
    head = "".join(f'<th scope="col">{inline(c)}</th>' for c in block.header)
    lines = []
    for i, row in enumerate(block.rows):
        total = ' class="total"' if block.last_is_total and i == len(block.rows) - 1 else ""
        cells = "".join(f"<td>{inline(c)}</td>" for c in row[1:])
        lines.append(f'<tr{total}><th scope="row">{inline(row[0])}</th>{cells}</tr>')
    caption = inline(block.caption) + (f' <span class="file">{escape(block.file)}</span>' if block.file else "")
    said = f"<caption>{caption}</caption>" if caption else ""
    kind = ' class="words"' if block.words else ""
    label = escape(plain(block.caption) or "Table")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table{kind}>{said}'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


# ---------------------------------------------------------------- images


def _images(document: Document, figures: Path, pictures: Path) -> dict[str, str]:
    """Data URIs: "figure NAME" and "picture FILE", together below the limit."""
    found: dict[str, str] = {}
    for block in document.blocks():
        if isinstance(block, Gallery):
            for file, _ in (source for picture in block.pictures for source in picture.sources):
                if (pictures / file).is_file():
                    found[f"picture {file}"] = _uri((pictures / file).read_bytes())
    left = LIMIT - 400_000 - sum(map(len, found.values()))
    vector = {
        f.name: uri(for_page((figures / f"{f.name}.svg").read_text(encoding="utf-8")))
        for f in document.figures
        if (figures / f"{f.name}.svg").is_file()
    }
    for name in sorted(vector, key=lambda n: -len(vector[n])):
        if sum(map(len, vector.values())) <= left:
            break
        raster = _uri((figures / f"{name}.png").read_bytes())
        vector[name] = min(vector[name], raster, key=len)
    for name in list(vector)[::-1]:  # still too much: the last figures of the page go first
        if sum(map(len, vector.values())) <= left:
            break
        del vector[name]
    return found | {f"figure {name}": uri for name, uri in vector.items()}


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
