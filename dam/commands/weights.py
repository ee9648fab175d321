"""``dam weights inspect``: what a checkpoint holds and what ``model.weights=`` would make of it, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dam.commands.flags import choice, parse
from dam.errors import UserError

if TYPE_CHECKING:
    from dam.models.weights_fit import Opened, Report

HELP = """
usage: dam weights inspect FILE|RUN [--model NAME] [--channels 1|3] [--image-size N]

Says what lies in a checkpoint (layout, prefix, epoch, tensors, sha256), which network it looks like, what input it was
trained on, and what model.weights=FILE would load, draw anew and leave out. Nothing in the file is executed. FILE may
be FILE::PREFIX where it holds several networks.

examples:
  dam weights inspect mimic_lr_0.1_bs_128_fd_128_qs_65536.pt
  dam weights inspect r8w-00001.pth.tar --model resnet18 --channels 1

options:
  --model NAME        timm's name of the network to match (default: the one the file looks like)
  --channels 1|3      channels of your images: the first convolution is adapted (default 3)
  --image-size N      side of your images in pixels, for networks with position embeddings (default 224)
"""

FLAGS = ("--model", "--channels", "--image-size")
_WIDTH = 11


def run(arguments: list[str]) -> int:
    """Inspect one file; returns the exit code."""
    parsed = parse(arguments, FLAGS, (), "weights")
    words = [*parsed.items, *parsed.words]
    if not words or words[0] != "inspect":
        said = f", not {words[0]}" if words else ""
        raise UserError(f"`dam weights` has one verb{said}: dam weights inspect FILE")
    if len(words) != 2:
        raise UserError(f"`dam weights inspect` takes one file or run, not {len(words) - 1}; see `dam weights --help`")
    channels = int(choice(parsed.one("--channels") or "3", ("3", "1"), "--channels"))
    size = _size(parsed.one("--image-size") or "224")
    from dam.models.backbones import check_name, fit_report
    from dam.models.weights_fit import open_weights

    given = parsed.one("--model")
    if given is not None:
        check_name(given)
    opened = open_weights(words[1])
    _print(_file_rows(opened))
    name = given or _known(opened.name)
    if name is None:
        print("\nwhich network it belongs to is not to be seen: name it, --model NAME (`dam list models PATTERN`)")
        return 0
    report = fit_report(name, words[1], channels, size)
    print(f"\nmodel.name={name} model.weights={words[1]}, images of {channels} channel{'s' * (channels > 1)}:")
    _print(_fit_rows(report))
    return 0


def _size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise UserError(f"--image-size {text}: give the side in pixels, 1 to 4096")
    return int(text)


def _known(name: str | None) -> str | None:
    """timm's name, or None if a file says something else of itself."""
    from dam.models.backbones import check_name

    try:
        check_name(name or "")
    except UserError:
        return None
    return name


def _file_rows(opened: Opened) -> list[tuple[str, str]]:
    from dam.models.weights_layouts import layout_words

    layout, content = opened.layout, opened.layout.content
    numbers = sum(tensor.numel() for tensor in layout.state.values())
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in layout.state.values()})
    rows = [
        ("file", f"{content.path} ({content.size / 1e6:.1f} MB, {content.form})"),
        ("sha256", content.sha256),
        ("layout", layout_words(layout, opened.prefix or "")),
        ("container", layout.container),
        ("prefix", (f"'{opened.prefix}'" if opened.prefix else "none") if opened.prefix is not None else "see --model"),
        ("tensors", f"{len(layout.state)} of {numbers / 1e6:.2f} million numbers ({', '.join(kinds)})"),
        ("says", ", ".join(f"{key} {value}" for key, value in layout.facts.items())),
        ("looks like", opened.look.words if opened.look else ""),
        ("expects", opened.expected.words if opened.expected else "the file does not say; most take ImageNet's"),
        ("not loaded", f"objects of {', '.join(content.stood_in[:6])}" if content.stood_in else ""),
    ]
    return [row for row in rows if row[1]]


def _fit_rows(report: Report) -> list[tuple[str, str]]:
    loaded, drawn, left_out, *notes = report.lines()
    under = f", under '{report.prefix}'" if report.prefix else ""
    return [
        ("loaded", loaded.partition(" from ")[0] + under),
        ("newly drawn", drawn.partition(": ")[2]),
        ("left out", left_out.partition(": ")[2]),
        *(("", note) for note in notes),
    ]


def _print(rows: list[tuple[str, str]]) -> None:
    for left, right in rows:
        print(f"  {left:<{_WIDTH}}  {right}")
