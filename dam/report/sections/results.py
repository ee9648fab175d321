"""What was found: the verdict, the AUCs of every set, the comparisons, external sets and folds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dam.evaluation.predictions import MEAN
from dam.report.content import Content
from dam.report.document import Block, Callout, Details, Figures, Items, Section, Table, Text, code, strong
from dam.report.tables import (
    JudgedSplit,
    is_fair,
    judged_on,
    number,
    p_text,
    pairs_of,
    primary_pair,
    share,
    verdict,
    with_interval,
    without_interval,
)

METHOD_TEXT = {
    "logit-t": "DeLong's variance on the logit scale with a t quantile (smaller class − 1 degrees of freedom)",
    "clustered logit-t": "Obuchowski's variance, clustered by patient, logit scale, t quantile (fewer patients − 1)",
    "influence logit-t": "for the mean: each patient's influence on all labels' AUCs together, logit scale, t quantile",
    "delong": "DeLong's variance",
    "logit": "DeLong's variance on the logit scale",
    "clustered": "Obuchowski's variance, clustered by patient",
    "bootstrap": "percentiles of a bootstrap over patients",
}
HOLM = (
    "Paired tests on the same cases. The mean is the primary test of a comparison; labels are adjusted by "
    "Holm over all "
    "labels tested in that comparison. A tie is an interval that holds 0."
)


def summary(content: Content) -> list[Section]:
    """The verdict and the headline table."""
    judged = content.headline
    where = f"{judged.title}, {judged_on(judged)}"
    if judged.split == "val":
        where += "; there is no test split, and validation AUC was used for choice and is optimistic"
    blocks: list[Block] = [
        Text(f"Dataset {code(content.run.setting('data', 'name', default='unknown'))}, judged on {where}.")
    ]
    found = content.assessment.verdict if content.assessment is not None else None
    if found is not None:
        blocks.append(Callout(f"{strong('Verdict')}: {found.text}", "verdict"))
    blocks += _in_short(content)
    blocks.append(auc_table(judged))
    return [Section("summary", "In short", tuple(blocks))]


def _in_short(content: Content) -> list[Block]:
    judged = content.headline
    pair = primary_pair(judged.models)
    if pair is None:
        row = judged.row(MEAN, judged.models[0])
        text = f"Mean AUC of {judged.models[0]}: {strong(with_interval(row.auc, row.ci_low, row.ci_high))}."
        return [Text(text), Text("There is one model and no control in this run, so nothing is compared.")]
    if pair[1] != "warm_start" and content.assessment is not None and content.assessment.verdict is not None:
        return []
    found = judged.comparison(MEAN, pair)
    text = strong(with_interval(found.difference, found.ci_low, found.ci_high, sign=True))
    line = f"Mean AUC, {pair[0]} − {pair[1]}: {text}, p {p_text(found.p_value)}: {strong(verdict(found))}."
    if pair[1] == "warm_start":
        line += (
            f" {_further(pair[0], content)} There is no control in this run: {code('control=ce')} adds the fair one."
        )
    return [Text(line)]


def _further(model: str, content: Content) -> str:
    return f"This {content.further_steps[model]}." if model in content.further_steps else ""


def auc_table(judged: JudgedSplit) -> Table:
    """AUC of every label and model with intervals, counts and prevalence beside."""
    header = ["label", "positives / n", "prevalence", *judged.models]
    rows = []
    labels = (*judged.units.labels, MEAN) if len(judged.units.labels) > 1 else judged.units.labels
    for label in labels:
        found = [judged.row(label, model) for model in judged.models]
        first = found[0]
        mean = label == MEAN
        name = f"mean of {len(judged.judgement.mean_labels)}" if mean else label
        prevalence = "" if mean or not first.n else share(first.n_pos / first.n)
        count = "" if mean else f"{first.n_pos} / {first.n}"
        rows.append((name, count, prevalence, *(with_interval(r.auc, r.ci_low, r.ci_high) for r in found)))
    caption = f"AUC [95 % interval] on {judged.title}, {judged_on(judged)}"
    return Table(tuple(header), tuple(rows), caption, "auc.csv", last_is_total=len(rows) > 1)


def aucs(content: Content) -> list[Section]:
    """How the AUCs were judged, the bars, and the validation set."""
    blocks: list[Block] = [*_footnotes(content.headline)]
    bars = content.figures("AUC by label")
    if bars:
        blocks.append(Figures(bars))
    sections = [Section("auc", f"AUC on {content.headline.title}", tuple(blocks))]
    for judged in content.judged[1:]:
        if not judged.external:
            text = "Validation AUC was used for choice and is optimistic: it is shown for the record."
            inner = (Callout(text), auc_table(judged), *_footnotes(judged, headline=False))
            title = "AUC on val (used for choice, optimistic)"
            sections.append(Section(f"auc-{judged.split}", title, inner, 3))
    return sections


def _footnotes(judged: JudgedSplit, headline: bool = True) -> list[Block]:
    used = dict.fromkeys(r.interval for r in judged.judgement.aucs if not math.isnan(r.ci_low))
    said = "; ".join(f"{code(name)}: {METHOD_TEXT[name]}" if name in METHOD_TEXT else code(name) for name in used)
    text = f"Intervals are 95 %. {said}." if said else "No interval could be estimated."
    notes = [*without_interval(judged), *judged.judgement.notes, *judged.units.notes]
    if headline and judged.assessment is not None:
        notes += [note for note in judged.assessment.notes if note not in notes]
    mean = judged.judgement.mean_labels
    left_out = [label for label in judged.units.labels if label not in mean]
    if left_out and mean:
        notes.append(f"the mean is over {', '.join(mean)}; left out: {', '.join(left_out)}")
    return [Text(text), Items(tuple(notes))] if notes else [Text(text)]


def comparisons(content: Content) -> list[Section]:
    """Paired differences, the fair comparison first."""
    parts: list[Section] = []
    differs = content.control_differs()
    judged = content.headline
    for pair in pairs_of(judged.models):
        title, blocks = _comparison(content, judged, pair, differs)
        parts.append(Section(f"compare-{pair[0]}-{pair[1]}", title, blocks, 3))
    folded = tuple(
        Details(*_comparison(content, other, pair, differs))
        for other in content.judged[1:]
        for pair in pairs_of(other.models)
    )
    if folded:
        parts.append(Section("compare-others", "On the other sets", folded, 3))
    if not parts:
        return []
    return [Section("comparisons", "Comparisons", (Text(HOLM),)), *parts]


def _comparison(
    content: Content, judged: JudgedSplit, pair: tuple[str, str], differs: str
) -> tuple[str, tuple[Block, ...]]:
    """Title and blocks."""
    a, b = pair
    rows = []
    for label in (*judged.units.labels, MEAN):
        c = judged.comparison(label, pair)
        text = with_interval(c.difference, c.ci_low, c.ci_high, sign=True)
        name, holm = ("mean", "") if label == MEAN else (label, p_text(c.p_holm))
        rows.append((name, text, p_text(c.p_value), holm, verdict(c)))
    title = f"{judged.title}: {a} - {b}"
    if is_fair(pair):
        title += " (the comparison that counts: same steps, other objective)"
    blocks: list[Block] = []
    if is_fair(pair) and differs:
        blocks.append(Text(differs))
    if b == "warm_start":
        text = "It shows what training on reached, not what the objective did."
        blocks.append(Text(f"{_further(a, content)} {text}".strip()))
    header = ("label", f"{a} − {b}", "p", "p (Holm)", "verdict")
    blocks.append(Table(header, tuple(rows), f"{a} − {b} on {judged.title}", "comparisons.csv", last_is_total=True))
    return title, tuple(blocks)


# ---------------------------------------------------------------- external sets, folds


def external(content: Content) -> list[Section]:
    """Each set from elsewhere, with the drop from the internal test."""
    if not content.externals:
        text = f"No external set was scored. {code('dam evaluate RUN --data ...')} adds one; a model "
        text += "that was tested on its "
        text += "own dataset only may do worse elsewhere."
        return [Section("external", "External testing", (Callout(text, "missing"),))]
    sections = [
        Section("external", "External testing", (Text("The same models on sets from elsewhere, nothing refitted."),))
    ]
    for judged in content.externals:
        blocks = (auc_table(judged), _drop(content.headline, judged), *_footnotes(judged))
        sections.append(Section(f"auc-{judged.split}", judged.title, blocks, 3))
    return sections


def _drop(internal: JudgedSplit, judged: JudgedSplit) -> Table:
    models = [m for m in judged.models if m in internal.models]
    rows = []
    for label in (*judged.units.labels, MEAN):
        if label not in (*internal.units.labels, MEAN):
            continue
        cells = []
        for model in models:
            there, here = judged.row(label, model).auc, internal.row(label, model).auc
            cells.append(f"{number(there - here, sign=True)} ({number(here)} to {number(there)})")
        rows.append(("mean" if label == MEAN else label, *cells))
    caption = f"Change of the AUC from internal {internal.title} to {judged.title}: other patients, so no paired test"
    if judged.judgement.mean_labels != internal.judgement.mean_labels:
        caption += "; the means are over different labels"
    return Table(("label", *models), tuple(rows), caption, "auc.csv", last_is_total=True)


def folds(content: Content) -> list[Section]:
    """Mean and standard deviation of the AUC over the folds' own models."""
    frame = content.run.folds
    if frame is None or not len(frame):
        return []
    rows = []
    for (split, label, model), part in frame.groupby(["split", "label", "model"], sort=False):
        values = part["auc"].dropna()
        spread = number(float(values.std(ddof=1))) if len(values) > 1 else "–"
        mean = number(float(values.mean())) if len(values) else "–"
        rows.append((str(label), str(model), str(split), str(len(values)), mean, spread))
    header = ("label", "model", "split", "folds", "mean AUC", "SD over folds")
    text = "The SD over folds says how much the training varies; it is no interval for the test set, "
    text += "which the tables have."
    return [
        Section("folds", "Cross-validation", (Text(text), Table(header, tuple(rows), "AUC over folds", "folds.csv")))
    ]


def sets_named(judged: Sequence[JudgedSplit]) -> str:
    """ "test, val, external set a"."""
    return ", ".join(s.title for s in judged)
