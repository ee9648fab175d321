"""What an ensemble is made of: its members, how they are mixed, and with which weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dam.report.content import Content
from dam.report.document import Block, Items, Section, Table, Text, code, strong
from dam.report.tables import number, rounded

MEANS = {
    "logits": "the weighted mean of logits, each calibrated on validation by Platt's method",
    "ranks": "the logit of the weighted mean of ranks, a score's rank being that among the member's validation scores",
    "scores": "the logit of the weighted mean of sigmoids of the members' raw logits",
}
WEIGHTS = {
    "equal": "All members of a label have the same weight.",
    "greedy": "The weights of each label were chosen on validation, by greedy selection with replacement for the AUC: "
    "the validation AUC of the ensemble is optimistic by that, the test AUC is not.",
}


def members(content: Content) -> list[Section]:
    """Members, weights a label, and what was left out; nothing for a run that is no ensemble."""
    stored = content.run.ensemble
    if not stored:
        return []
    text = f"{strong('ensemble')} is {MEANS.get(str(stored.get('mean')), 'a mean')} "
    text += f"of the models below. {WEIGHTS.get(str(stored.get('weights')), '')} "
    text += (
        "The other columns are the members' own scores, the best on validation first: the first comparison is with it."
    )
    found = [member for member in stored.get("members", ()) if isinstance(member, dict)]
    blocks: list[Block] = [Text(text), _members(found), *_weights(content, found)]
    notes = [str(note) for note in stored.get("notes") or ()]
    if notes:
        blocks += [Text("When it was made:"), Items(tuple(notes))]
    text = "Nothing was trained here: stages and training curves are in the members' own reports, "
    text += f"{code('report/report.html')} in each folder."
    return [Section("ensemble", "Ensemble", (*blocks, Text(text)))]


def _members(found: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            str(member.get("column")),
            str(member.get("network", "")),
            str(member.get("image_size", "")),
            str(member.get("seed", "")),
            number(_float(member.get("val_auc"))),
            str(member.get("path")),
        )
        for member in found
    )
    header = ("column", "network", "pixels", "seed", "mean AUC on val", "run")
    return Table(header, rows, "Members, best on validation first", "", words=True)


def _weights(content: Content, found: list[dict[str, Any]]) -> list[Block]:
    mixture = content.run.ensemble.get("mixture")
    if not isinstance(mixture, Mapping):
        return []
    columns = [str(member.get("column")) for member in found]
    rows = []
    for label in content.run.labels:
        weights = (mixture.get(label) or {}).get("weights") or {}
        rows.append((label, *(rounded(_float(weights.get(column, 0.0)), 2) for column in columns)))
    return [Table(("label", *columns), tuple(rows), "Weights by label", "")]


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
