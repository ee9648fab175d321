"""More than AUC: curves, performance, calibration, operating points, decision curve, trust, readers, subgroups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dam.evaluation.rows import Assessment, CalibrationRow, OperatingRow, SubgroupRow, TrustRow
from dam.report.content import Content
from dam.report.document import Block, Callout, Details, Figures, Items, Section, Table, Text, code
from dam.report.tables import main_models, number, p_text, plural, rounded, share, with_interval

NAMES = {"platt": "Platt's method", "temperature": "temperature", "none": "no calibration"}
TRUST_CAUTION = (
    "Read trust beside Brier: with confidence the probability of the given answer, NetTrustScore is 1 − "
    "the mean absolute "
    "error, which any sharpening of the scores raises, so more trust alone shows no better model and must "
    "not choose one."
)


def curves(content: Content) -> list[Section]:
    """ROC, precision-recall and score histograms."""
    sections = []
    for heading, name in (("ROC curves", "roc"), ("Precision-recall curves", "pr"), ("Score distributions", "scores")):
        figures = content.figures(heading)
        if figures:
            sections.append(Section(name, heading, (Figures(figures),)))
    return sections


def _notes(rows: Sequence[object]) -> list[Block]:
    """The rows' notes, each once, with the labels it is about."""
    found: dict[str, list[str]] = {}
    for row in rows:
        note, who = getattr(row, "note", ""), f"{getattr(row, 'label', '')} {getattr(row, 'model', '')}".strip()
        for part in [note] if note else []:
            found.setdefault(part, []).append(who)
    lines = []
    for note, names in found.items():
        unique = list(dict.fromkeys(n for n in names if n))
        who = ", ".join(unique) if len(unique) <= 4 else f"{len(unique)} rows, as {unique[0]}"
        lines.append(f"{who}: {note}" if who else note)
    return [Items(tuple(lines))] if lines else []


def _missing(name: str, title: str, why: str) -> list[Section]:
    return [Section(name, title, (Callout(why, "missing"),))]


def performance(content: Content) -> list[Section]:
    """Average precision with its baseline, partial AUC, sensitivity at fixed specificity and the reverse."""
    found = content.assessment
    if found is None or not found.performance:
        return []
    first = found.performance[0]
    header = (
        "label",
        "model",
        "prevalence",
        "AP",
        f"pAUC, FPR ≤ {number(first.pauc_fpr)[:-1]}",
        f"sens. at spec. ≥ {first.spec_target:g}",
        f"spec. at sens. ≥ {first.sens_target:g}",
    )
    rows = [
        (
            r.label,
            r.model,
            share(r.prevalence),
            with_interval(r.ap, r.ap_low, r.ap_high),
            with_interval(r.pauc, r.pauc_low, r.pauc_high),
            f"{with_interval(r.sens_at_spec, r.sens_low, r.sens_high)} (at {number(r.spec_attained)})",
            f"{with_interval(r.spec_at_sens, r.spec_low, r.spec_high)} (at {number(r.sens_attained)})",
        )
        for r in found.performance
    ]
    text = (
        "Average precision depends on prevalence, which is what chance scores. The partial AUC is standardized: chance "
    )
    text += (
        ".5, perfect 1. Sensitivity and specificity here are read off the curve of this set and choose no threshold; "
    )
    text += "the attained partner is in brackets."
    boot = f"Intervals: patient bootstrap, {first.replicates} replicates, seed {content.settings.get('seed', 0)}"
    dropped = sorted({r.dropped for r in found.performance if r.dropped})
    boot += f", {dropped[0]} to {dropped[-1]} of them dropped for lack of a class." if dropped else ", none dropped."
    caption = f"Beyond the whole area, {content.headline.title}"
    tables = _of_models(content, Table(header, tuple(rows), caption, "performance.csv"))
    blocks = (Text(text), Text(boot), *tables, *_notes(found.performance))
    return [Section("performance", "Average precision and partial areas", blocks)]


def _of_models(content: Content, table: Table) -> list[Block]:
    """The rows of the headline model and its control open, those of all models folded away."""
    main = main_models(content.headline.models)
    few = tuple(row for row in table.rows if row[1] in main)
    if not few or len(few) == len(table.rows):
        return [table]
    everything = replace(table, caption=f"{table.caption}: all models")
    return [replace(table, rows=few), Details(f"{table.caption}: all {plural(_models(table), 'model')}", (everything,))]


def _models(table: Table) -> int:
    return len({row[1] for row in table.rows})


# ---------------------------------------------------------------- calibration


def calibration(content: Content) -> list[Section]:
    """Before and after, numbers and figures."""
    found = content.assessment
    title = "Calibration"
    if found is None or not found.calibration:
        return _missing("calibration", title, "No calibration: the run has no second set to fit it on.")
    header = ("label", "model", "calibration", "slope", "intercept", "O/E", "Brier", "skill", "ECE", "log loss")
    rows = tuple(_calibration_row(r) for r in found.calibration)
    fitted = {
        f"{NAMES.get(r.method, r.method)}, fitted on {r.fitted_on}"
        for r in found.calibration
        if r.stage == "after" and r.fitted_on
    }
    bins = found.calibration[0].ece_bins
    text = "Scores trained for AUC are ranks, not probabilities. Before: the sigmoid of the score. After: calibrated ("
    text += f"{'; '.join(sorted(fitted)) or 'not fitted'}). Slope 1, intercept 0 and O/E (observed over "
    text += "expected positives) "
    text += f"1 are right; ECE over {bins} bins of equal mass; skill is 1 − Brier / its value for the prevalence alone."
    blocks: list[Block] = [Text(text), *_notes(found.calibration)]
    figures = content.figures("Calibration")
    if figures:
        blocks.append(Figures(figures))
    blocks += _of_models(content, Table(header, rows, f"Calibration on {content.headline.title}", "calibration.csv"))
    return [Section("calibration", title, tuple(blocks))]


def _calibration_row(r: CalibrationRow) -> tuple[str, ...]:
    brier = with_interval(r.brier, r.brier_low, r.brier_high)
    ece = with_interval(r.ece, r.ece_low, r.ece_high)
    numbers = rounded(r.cal_slope, 2), rounded(r.cal_intercept, 2), rounded(r.o_over_e, 2)
    return (r.label, r.model, r.stage, *numbers, brier, rounded(r.skill, 2), ece, rounded(r.nll))


# ---------------------------------------------------------------- operating points, decisions


def operating(content: Content) -> list[Section]:
    """Thresholds from validation, what they do on the headline set."""
    found = content.assessment
    title = "Operating points"
    if found is None or not any(r.chosen_on for r in found.operating):
        return _missing("operating", title, "No thresholds: there is no validation set to choose them on.")
    main = [r for r in found.operating if r.main]
    others = [r for r in found.operating if not r.main]
    rules = ", ".join(dict.fromkeys(r.rule for r in main))
    text = f"Thresholds were chosen on validation only (rule: {rules}) and never on this set; positive means score ≥ "
    text += f"threshold. Intervals: {', '.join(dict.fromkeys(r.interval for r in main if r.interval)) or 'none'}."
    if not any(math.isfinite(r.prevalence_at) for r in main):
        text += (
            f" PPV and NPV are at this set's prevalence; {code('evaluation.prevalence=')} gives them at another one."
        )
    blocks: list[Block] = [Text(text)]
    blocks += _of_models(content, _points(main, f"At the threshold of the config, {content.headline.title}"))
    blocks += [*_of_models(content, _crosstab(main)), *_notes(main)]
    if others:
        blocks.append(Details("Further thresholds", (_points(others, "Other rules, all chosen on validation"),)))
    return [Section("operating", title, tuple(blocks))]


def _points(rows: Sequence[OperatingRow], caption: str) -> Table:
    header = ["label", "model", "rule", "sensitivity", "specificity", "PPV", "NPV", "prevalence", "bal. acc.", "MCC"]
    stated = any(math.isfinite(r.prevalence_at) for r in rows)
    if stated:
        at = next(r.prevalence_at for r in rows if math.isfinite(r.prevalence_at))
        header += [f"PPV at {share(at)}", f"NPV at {share(at)}"]
    lines = []
    for r in rows:
        line = [r.label, r.model, r.rule, with_interval(r.sensitivity, r.sensitivity_low, r.sensitivity_high)]
        line += [with_interval(r.specificity, r.specificity_low, r.specificity_high)]
        line += [with_interval(r.ppv, r.ppv_low, r.ppv_high), with_interval(r.npv, r.npv_low, r.npv_high)]
        line += [share(r.prevalence), number(r.balanced_accuracy), number(r.mcc)]
        lines.append(tuple(line + ([number(r.ppv_at), number(r.npv_at)] if stated else [])))
    return Table(tuple(header), tuple(lines), caption, "operating_points.csv")


def _crosstab(rows: Sequence[OperatingRow]) -> Table:
    header = ("label", "model", "threshold", "TP", "FP", "FN", "TN", "accuracy", "F1")
    lines = tuple(
        (
            r.label,
            r.model,
            rounded(r.threshold, 4),
            *(str(x) for x in (r.tp, r.fp, r.fn, r.tn)),
            with_interval(r.accuracy, r.accuracy_low, r.accuracy_high),
            number(r.f1),
        )
        for r in rows
        if r.rule != "not chosen"
    )
    return Table(header, lines, "Counts behind it: answers against the reference standard", "operating_points.csv")


def decision(content: Content) -> list[Section]:
    """The decision curve."""
    figures = content.figures("Decision curves")
    if not figures:
        found = content.assessment
        if found is None or not found.net_benefit:
            return []
        return _missing(
            "decision", "Decision curves", "The net benefits are in net_benefit.csv; figures were left out."
        )
    text = "Net benefit at a probability t is TP / n − FP / n · t / (1 − t), from calibrated "
    text += "probabilities: what acting on the "
    text += "model gains over acting on nobody, where a false alarm weighs t / (1 − t) of a found case."
    return [Section("decision", "Decision curves", (Text(text), Figures(figures)))]


# ---------------------------------------------------------------- trust, readers, subgroups


def trust(content: Content) -> list[Section]:
    """Question-answer trust, always beside Brier and with its caution."""
    found = content.assessment
    if found is None or not found.trust:
        return []
    header = (
        "label",
        "model",
        "calibration",
        "T(positive)",
        "T(negative)",
        "NetTrustScore",
        "Brier",
        "trusted less",
        "right",
        "wrong",
    )
    blocks: list[Block] = [
        Callout(TRUST_CAUTION),
        *_of_models(
            content,
            Table(header, tuple(map(_trust_row, found.trust)), f"Trust on {content.headline.title}", "trust.csv"),
        ),
    ]
    figures = content.figures("Trust")
    if figures:
        blocks.append(Figures(figures))
    first = found.trust[0]
    text = f"Question-answer trust with α = {first.alpha:g}, β = {first.beta:g} (Wong, Wang, Hryniowski, "
    text += "arXiv 2009.05835); "
    text += "T: mean trust of the cases whose reference standard is positive (negative); right, wrong: of the answers."
    return [Section("trust", "Trust", (*blocks, Text(text), *_notes(found.trust)))]


def _trust_row(r: TrustRow) -> tuple[str, ...]:
    values = [number(x) for x in (r.trust_positive, r.trust_negative, r.net_trust, r.brier)]
    return (r.label, r.model, r.stage, *values, r.trust_class or "–", number(r.trust_correct), number(r.trust_wrong))


def readers(content: Content) -> list[Section]:
    """Human readers beside the model."""
    found = content.assessment
    if found is None or not (found.readers or found.nrbc):
        return []
    header = ("model", "curve", "readers below", "strictly below", "readers a label", "labels")
    counts = tuple(
        (r.model, r.curve.upper(), _nrbc(r.nrbc, r.low, r.high), rounded(r.strict, 2), str(r.readers), r.labels)
        for r in found.nrbc
    )
    text = "A reader counts as below where the empirical curve (linear between its points, upper value "
    text += "on vertical parts) at "
    text += "the reader's false positive rate is at least as high as the reader's sensitivity. The number is coarse."
    blocks: list[Block] = [Text(text)]
    if counts:
        blocks.append(Table(header, counts, "Number of readers below the curve, mean over labels", "nrbc.csv"))
    return [Section("readers", "Readers", (*blocks, _reader_points(found), *_notes([*found.readers, *found.nrbc])))]


def _nrbc(value: float, low: float, high: float) -> str:
    return rounded(value, 2) if math.isnan(low) else f"{rounded(value, 2)} [{rounded(low, 2)}, {rounded(high, 2)}]"


def _reader_points(found: Assessment) -> Table:
    header = (
        "label",
        "reader",
        "model",
        "reader sens.",
        "reader spec.",
        "model sens.",
        "model spec.",
        "p (sens.)",
        "p (spec.)",
    )
    rows = tuple(
        (
            r.label,
            r.reader,
            r.model,
            with_interval(r.sensitivity, r.sensitivity_low, r.sensitivity_high),
            with_interval(r.specificity, r.specificity_low, r.specificity_high),
            number(r.model_sensitivity),
            number(r.model_specificity),
            p_text(r.p_sensitivity),
            p_text(r.p_specificity),
        )
        for r in found.readers
    )
    return Table(header, rows, "Reader and model at the same point (McNemar's exact tests)", "readers.csv")


def subgroups(content: Content) -> list[Section]:
    """AUC, sensitivity and specificity by metadata column."""
    found = content.assessment
    if found is None or not found.subgroups:
        why = "No subgroups: the predictions come with no metadata column to group by."
        return _missing("subgroups", "Subgroups", why)
    model = content.model if any(r.model == content.model for r in found.subgroups) else found.subgroups[0].model
    rows = [r for r in found.subgroups if r.model == model]
    smallest = content.settings.get("min_group", 10)
    text = f"Model {code(model)}, all groups at one common threshold. Groups below {smallest} positives or negatives "
    text += "are marked and not "
    text += (
        "tested. The difference is to all other groups of that column, p adjusted by Holm over the table. AUC compares "
    )
    text += "positives and negatives within a group, so a group with easier negatives looks better."
    blocks: list[Block] = [Text(text)]
    figures = content.figures("Subgroups")
    if figures:
        blocks.append(Figures(figures))
    labels = dict.fromkeys(r.label for r in rows)
    tables = [_groups([r for r in rows if r.label == label], label) for label in labels]
    blocks += tables if len(tables) == 1 else [Details(f"{t.caption}", (t,)) for t in tables]
    return [Section("subgroups", "Subgroups", (*blocks, *_notes([r for r in rows if not r.test])))]


def _groups(rows: Sequence[SubgroupRow], label: str) -> Table:
    header = (
        "group",
        "patients",
        "positives / n",
        "prevalence",
        "AUC",
        "difference to rest",
        "p (Holm)",
        "sens.",
        "spec.",
        "O/E",
    )
    lines = tuple(
        (
            f"{r.column}: {r.group}",
            str(r.patients),
            f"{r.n_pos} / {r.n}",
            share(r.prevalence),
            with_interval(r.auc, r.low, r.high),
            with_interval(r.difference_to_rest, r.diff_low, r.diff_high, sign=True),
            p_text(r.p_holm),
            with_interval(r.sensitivity, r.sensitivity_low, r.sensitivity_high),
            with_interval(r.specificity, r.specificity_low, r.specificity_high),
            rounded(r.o_over_e, 2),
        )
        for r in rows
    )
    return Table(header, lines, f"{label} by subgroup", "subgroups.csv")
