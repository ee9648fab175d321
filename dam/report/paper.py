"""Tables for a paper: AUC and comparisons as LaTeX (booktabs) and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from dam.evaluation.predictions import MEAN
from dam.report import markdown
from dam.report.document import plain
from dam.report.sections.results import auc_table
from dam.report.tables import JudgedSplit, p_text, pairs_of, with_interval

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": "$-$",
}


def escape(text: object) -> str:
    """Text as LaTeX takes it."""
    return "".join(_ESCAPES.get(character, character) for character in plain(text))


def latex(judged: Sequence[JudgedSplit]) -> str:
    """tables.tex: one table of AUCs a set, and one of the comparisons of the headline set. Needs booktabs."""
    parts = ["% made by dam; needs \\usepackage{booktabs}"]
    for split in judged:
        table = auc_table(split)
        parts.append(_table(table.header, table.rows, f"{plain(table.caption)}.", f"tab:auc-{split.split}", True))
    rows = _comparisons(judged[0])
    if rows:
        header = ("comparison", "label", "difference [95 % interval]", "p", "p (Holm)")
        text = f"Paired differences in AUC on {judged[0].title}; labels adjusted by Holm within a comparison."
        parts.append(_table(header, rows, text, "tab:comparisons", False))
    return "\n\n".join(parts) + "\n"


def paper_markdown(judged: Sequence[JudgedSplit]) -> str:
    """tables.md: the same tables as Markdown."""
    parts = []
    for split in judged:
        table = auc_table(split)
        parts.append(f"{plain(table.caption)}:\n\n{markdown.table(table.header, table.rows)}")
    rows = _comparisons(judged[0])
    if rows:
        header = ("comparison", "label", "difference [95 % interval]", "p", "p (Holm)")
        parts.append(f"Paired differences on {judged[0].title}:\n\n{markdown.table(header, rows)}")
    return "\n\n".join(parts) + "\n"


def _comparisons(split: JudgedSplit) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for pair in pairs_of(split.models):
        for label in (*split.units.labels, MEAN):
            c = split.comparison(label, pair)
            text = with_interval(c.difference, c.ci_low, c.ci_high, sign=True)
            holm = "" if label == MEAN else p_text(c.p_holm)
            rows.append((f"{c.a} - {c.b}", label, text, p_text(c.p_value), holm))
    return rows


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, name: str, rule_before_last: bool
) -> str:
    body = [" & ".join(escape(cell) for cell in row) + r" \\" for row in rows]
    if rule_before_last and len(body) > 1:
        body.insert(len(body) - 1, r"\midrule")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{{name}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(escape(cell) for cell in header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
