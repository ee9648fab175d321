"""A figure's SVG as the page shows it: shorter, and with colours that follow light and dark."""

from __future__ import annotations

import re
from urllib.parse import quote

# Ink, grid and the palette on a dark page. The left side is what ``style`` draws with.
DARK = {
    "#222222": "#e8e8e6",
    "#6b6b6b": "#a9a9a6",
    "#e4e4e4": "#3a3d40",
    "#ffffff": "#1b1d1f",
    "#7a7a7a": "#a3a3a3",
    "#0072b2": "#4aa8e0",
    "#d55e00": "#f0803c",
    "#009e73": "#2fc298",
    "#cc79a7": "#e09cc2",
    "#e69f00": "#f0b429",
    "#56b4e9": "#8fd0f5",
    "#8c6d1f": "#cbb05a",
    "#5e4fa2": "#a79be0",
}
_COLOUR = re.compile("|".join(DARK), re.IGNORECASE)
_PATH = re.compile(r'(\sd=")([^"]*)(")')
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_LINE_TO = re.compile(r"(?<=[\d.]) L (?=[-\d])")  # after M and L, more points are lines anyhow
_FONT = re.compile(r"font-family: [^;\"]*;? ?")
_UNTURNED = re.compile(r' transform="rotate\(-?0 [^"]*\)"')
_GROUP = re.compile(r'<g id="[^"]*"')
_BETWEEN = re.compile(r">\s+<")
_TAG = re.compile(r"<[^<>]+>")
_QUOTED = re.compile(r"""="([^"']*)\"""")
FAMILY = "text{font-family:'DejaVu Sans',Verdana,system-ui,sans-serif}"
_DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)


def for_page(text: str) -> str:
    """Drop what a browser does not need, round path coordinates to 1/10 pt, make colours variables.

    Written for matplotlib's SVG; a figure becomes about a third as long.
    """
    text = _DROPPED.sub("", text)
    text = _PATH.sub(lambda m: m[1] + _short_path(m[2]) + m[3], text)
    for pattern, instead in ((_FONT, ""), (_UNTURNED, ""), (_GROUP, "<g"), (_BETWEEN, "><")):
        text = pattern.sub(instead, text)
    used = {match.lower() for match in _COLOUR.findall(text)}
    text = _COLOUR.sub(lambda m: f"var(--{m[0][1:].lower()})", text)
    light = "".join(f"--{c[1:]}:{c};" for c in sorted(used))
    dark = "".join(f"--{c[1:]}:{DARK[c]};" for c in sorted(used))
    style = f"<style>{FAMILY}:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    start = text.index(">", text.index("<svg")) + 1
    return (text[:start] + style + text[start:]).strip()


def uri(text: str) -> str:
    """A data URI of an SVG, a quarter shorter than base64; fit for a double-quoted attribute of HTML.

    Quotes of attributes become single ones, what a URL or the attribute could not hold is percent-encoded.
    """
    text = _TAG.sub(lambda m: _QUOTED.sub(r"='\1'", m[0]), text)
    encoded = quote(text, safe=" <>='/:;,.()!*{}@+-_?$")
    for told in ("://", "url("):  # no word of it may look like a reference to the outside
        encoded = encoded.replace(told, quote(told, safe="url:"))
    return f"data:image/svg+xml,{encoded}"


def _short_path(path: str) -> str:
    """Lines to 1/10 pt; curves, which are markers of few points, to 1/100."""
    path = " ".join(path.split())
    if re.search("[CQ]", path):
        return _NUMBER.sub(lambda m: _rounded(m, 2), path)
    return _LINE_TO.sub(" ", _NUMBER.sub(lambda m: _rounded(m, 1), path))


def _rounded(match: re.Match[str], digits: int) -> str:
    return f"{float(match[0]):.{digits}f}".rstrip("0").rstrip(".")
