"""report.md: the headline table, the comparisons, how it was chosen, the figures, the data, how to repeat it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dam.evaluation.intervals import METHODS
from dam.evaluation.predictions import MEAN
from dam.report.run_files import RunFiles, Stage
from dam.report.tables import (
    CONTROLS,
    JudgedSplit,
    is_fair,
    judged_on,
    p_text,
    pairs_of,
    plural,
    primary_pair,
    verdict,
    with_interval,
    without_interval,
)

METHOD_TEXT = {
    "logit-t": "DeLong's variance on the logit scale with a t quantile (smaller class - 1 degrees of freedom)",
    "clustered logit-t": "Obuchowski's variance, clustered by patient, logit scale, t quantile (fewer patients - 1)",
    "influence logit-t": "for the mean: each patient's influence on all labels' AUCs together, logit scale, t quantile",
}
FACTS = ("objective", "optimizer", "lr", "form", "head", "steps", "select", "chosen_step", "val_auc")  # of stages


@dataclass(frozen=True)
class FigureFile:
    """A figure of the report: its file name in report/figures, the heading it goes under, and what it shows."""

    file: str
    section: str
    caption: str


def markdown(
    run: RunFiles, judged: Sequence[JudgedSplit], further_steps: dict[str, str], figures: Sequence[FigureFile]
) -> str:
    """The whole report.md; ``judged`` starts with the headline split."""
    parts = [f"# {run.setting('name', default=run.path.name)}: AUC report", *_summary(run, judged[0], further_steps)]
    for split in judged:
        heading = f"## AUC on {split.split}"
        if split.split == "val":
            heading += " (used for choice, optimistic)"
        parts += [heading, *_auc_section(split), *_comparison_section(split, further_steps, _control_differs(run))]
    parts += ["## How this was chosen", *_choice(run, judged)]
    parts += _figure_section(figures)
    parts += ["## What was trained", _stage_table(run.stages)] if run.stages else []
    parts += _data_section(run)
    parts += ["## How to repeat this", *_repeat(run)]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left aligned, the others centred."""
    lines = [header, [":--", *[":-:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)


# ---------------------------------------------------------------- results


def _summary(run: RunFiles, judged: JudgedSplit, further_steps: dict[str, str]) -> list[str]:
    where = f"{judged.split}, {judged_on(judged)}"
    if judged.split == "val":
        where += "; there is no test split, and validation AUC was used for choice and is optimistic"
    lines = [f"Dataset `{run.setting('data', 'name', default='unknown')}`, judged on {where}."]
    pair = primary_pair(judged.models)
    if pair is None:
        row = judged.row(MEAN, judged.models[0])
        text = with_interval(row.auc, row.ci_low, row.ci_high)
        return [*lines, f"Mean AUC of {judged.models[0]}: **{text}**."]
    found = judged.comparison(MEAN, pair)
    text = with_interval(found.difference, found.ci_low, found.ci_high, sign=True)
    line = f"Mean AUC, {pair[0]} - {pair[1]}: **{text}**, p {p_text(found.p_value)}: **{verdict(found)}**."
    if pair[1] == "warm_start":
        line += f" {_further(pair[0], further_steps)} There is no control in this run: `control=ce` adds the fair one."
    return [*lines, line]


def _further(model: str, further_steps: dict[str, str]) -> str:
    return f"This {further_steps[model]}." if model in further_steps else ""


def _auc_section(judged: JudgedSplit) -> list[str]:
    header = ["label", "positives / n", *judged.models]
    rows = []
    for label in (*judged.units.labels, MEAN):
        found = [judged.row(label, model) for model in judged.models]
        name = f"**mean of {len(judged.judgement.mean_labels)}**" if label == MEAN else label
        count = "" if label == MEAN else f"{found[0].n_pos} / {found[0].n}"
        rows.append([name, count, *(with_interval(r.auc, r.ci_low, r.ci_high) for r in found)])
    return [f"Judged on {judged_on(judged)}.", table(header, rows), *_auc_footnotes(judged)]


def _auc_footnotes(judged: JudgedSplit) -> list[str]:
    rows = judged.judgement.aucs
    used = dict.fromkeys(r.interval for r in rows if not math.isnan(r.ci_low))
    said = "; ".join(f"*{name}*: {METHOD_TEXT[name]}" if name in METHOD_TEXT else f"*{name}*" for name in used)
    lines = [f"Intervals are 95 %. {said}." if said else "No interval could be estimated."]
    notes = [*without_interval(judged), *judged.judgement.notes, *judged.units.notes]
    left_out = [label for label in judged.units.labels if label not in judged.judgement.mean_labels]
    if left_out and judged.judgement.mean_labels:
        notes.append(f"the mean is over {', '.join(judged.judgement.mean_labels)}; left out: {', '.join(left_out)}")
    return [*lines, "\n".join(f"- {note}" for note in notes)] if notes else lines


def _control_differs(run: RunFiles) -> str:
    """What else than the objective differs between the AUC models and their control, as a sentence; "" if nothing."""
    found = {}
    for stage in run.stages_of("auc"):
        for other in (s for column in CONTROLS for s in run.stages_of(column) if s.label == stage.label):
            for key in ("sampler", "schedule", "ema", "clip_norm", "head", "select"):
                ours, theirs = stage.facts.get(key), other.facts.get(key)
                if ours != theirs:
                    found[key] = f"{key} ({_plain(ours)} against {_plain(theirs)})"
    return f"Beside the objective these differ: {'; '.join(found.values())}." if found else ""


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(str(v) if k == "name" else f"{k} {v}" for k, v in value.items())
    return str(value)


def _comparison_section(judged: JudgedSplit, further_steps: dict[str, str], differs: str) -> list[str]:
    parts = []
    for a, b in pairs_of(judged.models):
        rows = []
        for label in (*judged.units.labels, MEAN):
            c = judged.comparison(label, (a, b))
            text = with_interval(c.difference, c.ci_low, c.ci_high, sign=True)
            name, holm = ("**mean**", "") if label == MEAN else (label, p_text(c.p_holm))
            rows.append([name, text, p_text(c.p_value), holm, verdict(c)])
        heading = f"### {judged.split}: {a} - {b}"
        if is_fair((a, b)):
            heading += " (the comparison that counts: same steps, other objective)"
        parts += [heading, differs] if is_fair((a, b)) and differs else [heading]
        if b == "warm_start":
            parts.append(f"{_further(a, further_steps)} It shows what training on reached, not what the objective did.")
        parts.append(table(["label", f"{a} - {b}", "p", "p (Holm)", "verdict"], rows))
    if parts:
        parts.append(
            "Paired tests on the same cases. The mean is the primary test of a comparison; labels are adjusted by Holm "
            "over all labels tested in that comparison. A tie is an interval that holds 0."
        )
    return parts


def _choice(run: RunFiles, judged: Sequence[JudgedSplit]) -> list[str]:
    select = run.setting("select", default="unknown")
    lines = [f"- Weights were chosen by `select={select}` on validation."]
    splits = [s.split for s in judged]
    if "val" in splits:
        lines.append("- Validation AUC was used for choice and is optimistic.")
    if "test" in splits:
        lines.append("- Test was only reported; it chose nothing.")
    unit, merge = judged[0].units.unit, judged[0].units.merge
    if unit == "image":
        lines.append("- Every image is judged by itself (`data.unit=image`).")
    else:
        lines.append(f"- Scores of the images of a {unit} are merged by their {merge} (`data.unit={unit}`).")
    if any("blend" in s.models for s in judged):
        lines.append("- `blend` was fitted on validation, so its validation AUC is optimistic twice.")
    lines.append(f"- One seed (`seed={run.setting('seed', default='unknown')}`): the spread over seeds is not in here.")
    return ["\n".join(lines)]


# ---------------------------------------------------------------- figures, stages, data, repeating


def _figure_section(figures: Sequence[FigureFile]) -> list[str]:
    parts = ["## Figures"] if figures else []
    for section in dict.fromkeys(f.section for f in figures):
        parts.append(f"### {section}")
        parts += [f"![{f.caption}](figures/{f.file})" for f in figures if f.section == section]
    return parts


def _stage_table(stages: Sequence[Stage]) -> str:
    facts = [_facts(stage) for stage in stages]
    names = [name for name in FACTS if any(f.get(name) not in (None, "") for f in facts)]
    rows = [
        [stage.part.replace("_", " "), stage.label or "all", *(_fact(f.get(name)) for name in names)]
        for stage, f in zip(stages, facts, strict=True)
    ]
    return table(["stage", "label", *(name.replace("_", " ") for name in names)], rows)


def _facts(stage: Stage) -> dict[str, object]:
    """A stage's facts with its steps, and with name and rate of its optimizer apart."""
    facts: dict[str, object] = {**stage.facts, "steps": stage.steps}
    optimizer = facts.get("optimizer")
    if isinstance(optimizer, dict):
        facts |= {"optimizer": optimizer.get("name"), "lr": optimizer.get("lr")}
    return facts


def _fact(value: object) -> str:
    if value is None or value == "":
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _data_section(run: RunFiles) -> list[str]:
    parts = []
    counts = run.data.get("counts")
    if isinstance(counts, list) and counts and all(isinstance(c, dict) for c in counts):
        names = list(dict.fromkeys(key for c in counts for key in c))
        parts.append(table(names, [[_fact(c.get(n)) for n in names] for c in counts]))
    notes = [str(note) for note in run.data.get("notes") or []]
    skipped = run.data.get("skipped")
    if skipped:
        notes.append(f"{plural(len(skipped), 'image')} could not be read and were left out (`data.on_bad_image=skip`)")
        named = skipped.items() if isinstance(skipped, dict) else ((image, "") for image in skipped)
        notes += [f"left out: `{image}` {why}".rstrip() for image, why in list(named)[:10]]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return ["## Data", *parts] if parts else []


def _repeat(run: RunFiles) -> list[str]:
    command = run.environment.get("command")
    lines = []
    if isinstance(command, list) and command:
        name = Path(str(command[0])).name
        words = [name if name != "__main__.py" else "dam", *(str(word) for word in command[1:])]
        lines.append(shlex.join(words))
    lines.append(f"dam train resume={shlex.quote(str(run.path))}")
    text = "The whole resolved config is `config.yaml` of the run directory, versions and hardware `environment.json`."
    where = ", ".join(f"`{m}`" for m in METHODS)
    return [
        "```sh\n" + "\n".join(lines) + "\n```",
        f"{text} A finished run that is resumed says so. Every number above is in `auc.csv` and `auc.json`, made from "
        f"`predictions/*.csv` alone (interval methods: {where}; here `auto`).",
    ]
