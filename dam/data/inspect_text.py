"""The findings of ``dam data check`` as text for a terminal of 80 columns and more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dam.data.table import counted, named


def as_text(findings: dict[str, Any]) -> str:
    """The whole report; findings as ``dam.data.inspect`` gives them."""
    parts = [
        [f"{findings['dataset']}: {counted(findings['files']['rows'], 'image')}, root {findings['root']}"],
        _splits(findings["splits"]),
        _labels(findings["counts"]),
        _raw_labels(findings["before_policy"]),
        _images(findings["files"], findings["sample"]),
        _shared(findings["patients_across_splits"], findings["equal_images"]),
        ["steps", *(f"  {note}" for note in findings["notes"])] if findings["notes"] else [],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _splits(rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = ("images", "patients", "studies")
    return _table(["split", *columns], [[row["split"] or "(none)", *(f"{row[c]:,}" for c in columns)] for row in rows])


def _labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    cells = []
    for row in rows:
        if row["n"]:
            ratio = "-" if row["imratio"] is None else f"{100 * row['imratio']:.3g} %"
            numbers = [f"{row[key]:,}" for key in ("positives", "negatives", "unknown")]
            cells.append([row["label"], row["split"] or "(none)", *numbers, ratio])
    cells.sort(key=lambda cell: [row["label"] for row in rows].index(cell[0]))
    return _table(["label as trained", "split", "positives", "negatives", "unknown", "imratio"], cells, 2)


def _raw_labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    kinds = ("positives", "negatives", "soft", "uncertain", "blank")
    return _table(["label on disk", *kinds], [[row["label"], *(f"{row[kind]:,}" for kind in kinds)] for row in rows])


def _images(files: dict[str, Any], sample: dict[str, Any]) -> list[str]:
    lines = ["images"]
    missing = f": {named(files['examples'], 3)}" if files["missing"] else ""
    lines.append(f"  missing files: {files['missing']:,} of {files['rows']:,}{missing}")
    unreadable = sample["unreadable"]
    if "decoded" in sample:
        lines.append(f"  unreadable: {len(unreadable)} of all {sample['decoded']:,}, every one decoded")
    else:
        lines.append(f"  unreadable: {len(unreadable)} of a sample of {sample['images']:,} (--images decodes all "
                     f"{sample['of']:,})")  # fmt: skip
    lines += [f"    {name}: {reason}" for name, reason in list(unreadable.items())[:5]]
    if sample["common"]:
        sizes = ", ".join(f"{size} ({count})" for size, count in sample["common"])
        lines.append(f"  sizes of {sample['gray'] + sample['colour']} (height x width): {sizes}")
        ends = "; ".join(f"{side} {low} to {high}, median {middle}" for side in ("height", "width")
                         for low, middle, high in [sample[side]])  # fmt: skip
        lines.append(f"    {ends}")
        lines.append(f"  colours: {sample['gray']} gray, {sample['colour']} colour")
    lines += [f"  {count} x {remark}" for remark, count in sorted(sample["remarks"].items())]
    return lines


def _shared(patients: dict[str, Any], equal: dict[str, Any]) -> list[str]:
    who = f": {named(patients['examples'], 3)}" if patients["patients"] else ""
    lines = ["between splits", f"  patients in more than one: {patients['patients']:,}{who}"]
    looked = "all" if equal["exact"] else f"a sample of {equal['checked']:,} of"
    scope = f"{looked} {equal['total']:,} images compared{'' if equal['exact'] else '; --images compares all'}"
    pairs = [pair for pair in equal["found"] if len(set(pair["splits"])) == 2]
    within = [pair for pair in equal["found"] if len(set(pair["splits"])) == 1]
    lines.append(f"  byte-equal images: {sum(pair['images'] for pair in pairs):,} ({scope})")
    for pair in (*pairs, *within):
        one, other = pair["examples"][0]
        place = " and ".join(word or "(none)" for word in dict.fromkeys(pair["splits"]))
        kind = "in" if pair in pairs else "twice within"
        lines.append(f"    {pair['images']:,} {kind} {place}, such as {one} = {other}")
    return lines


def _table(head: list[str], rows: list[list[str]], words: int = 1) -> list[str]:
    """Columns two blanks apart; the first ``words`` to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(w) if i < words else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *rows]
    ]
