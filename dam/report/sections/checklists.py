"""Model card, TRIPOD+AI and CLAIM 2024: filled where the run knows, open where only a person can."""

from __future__ import annotations

from dam.evaluation.predictions import MEAN
from dam.report.content import Content, words
from dam.report.document import STRONG, Section, Table, Text, code, strong
from dam.report.sections.honesty import scored, seeds
from dam.report.sections.results import sets_named
from dam.report.tables import judged_on, with_interval

OPEN = strong("to be completed")
# Item of TRIPOD+AI (Collins, BMJ 2024;385:e078378), what it asks in our words, and what answers it.
TRIPOD: tuple[tuple[str, str, str], ...] = (
    ("1, 2", "Title and abstract", ""),
    ("3, 4", "Clinical background, intended use and users, objectives", ""),
    ("5a", "Source of data", "source"),
    ("5b, 6", "Dates, setting, eligibility, treatments", ""),
    ("7", "Data preparation", "preparation"),
    ("8a, 11", "Outcome (reference standard), uncertain and missing values", "labels"),
    ("8b, 9", "Who set the reference standard, predictors available then", ""),
    ("10", "Sample size", "events"),
    ("12a, 20a, 21", "Partition, numbers in each part", "partition"),
    ("12b", "Handling of images", "preparation"),
    ("12c, 22", "Type of model, how it was built, the final model", "model"),
    ("12e", "Measures of performance, comparisons", "measures"),
    ("12g, 18f", "Software, hardware, code", "software"),
    ("13", "Class imbalance", "imbalance"),
    ("14", "Fairness", "subgroups"),
    ("15", "Output of the model, threshold", "output"),
    ("16", "Development and evaluation data compared", "testing"),
    ("17", "Ethics approval", ""),
    ("18a–d", "Funding, conflicts of interest, protocol, registration", ""),
    ("18e", "Availability of data", ""),
    ("19", "Patient and public involvement", ""),
    ("20b, 20c", "Characteristics of participants", "characteristics"),
    ("23a, 23b", "Performance with intervals, subgroups, differences between sites", "performance"),
    ("24", "Updating of the model", "updating"),
    ("25, 26, 27", "Interpretation, limitations, usability", ""),
)
# Item of CLAIM 2024 (Tejani, Radiol AI 2024;6:e240300), likewise.
CLAIM: tuple[tuple[str, str, str], ...] = (
    ("1–6", "Title, abstract, background, objectives, study design", ""),
    ("7", "Data sources", "source"),
    ("8, 10, 11", "Eligibility, selection of subsets, de-identification", ""),
    ("9", "Preprocessing", "preparation"),
    ("12, 14", "Missing data, definition of the reference standard", "labels"),
    ("13, 15–18", "Image protocol, annotators, tools, variability", ""),
    ("19, 20", "Partition and the level at which parts are disjoint", "partition"),
    ("21", "Intended sample size", "events"),
    ("22, 24–27", "Model, initialization, training, selection, ensemble", "model"),
    ("23", "Software", "software"),
    ("28", "Measures of performance, threshold", "measures"),
    ("29", "Uncertainty and robustness", "uncertainty"),
    ("30", "Explainability, error analysis", "errors"),
    ("31", "Comparison with readers", "readers"),
    ("32, 33", "Internal and external testing", "testing"),
    ("34", "Flow of participants", "flow"),
    ("35", "Numbers in each partition", "partition"),
    ("36", "Demographic and clinical characteristics", "characteristics"),
    ("37", "Performance with intervals", "performance"),
    ("38", "Subgroups", "subgroups"),
    ("39", "Failure analysis", "errors"),
    ("40, 41", "Limitations, implications", ""),
    ("42, 44", "Registration, protocol, funding", ""),
    ("43", "Availability of code, weights and data", ""),
)


def answers(content: Content) -> dict[str, str]:
    """What the run can say to each kind of item; "" where it cannot."""
    run, split = content.run, content.headline
    sizes = run.data.get("sizes")
    parts = ", ".join(f"{s} {v.get('images', '?')} images" for s, v in sizes.items()) if isinstance(sizes, dict) else ""
    loss = run.setting("auc", "loss", "name")
    found = content.assessment
    method = ", ".join(dict.fromkeys(r.interval for r in split.judgement.aucs if r.label == MEAN))
    packages = run.environment.get("packages")
    return {
        "source": f"dataset {run.setting('data', 'name', default='unknown')}; fingerprint under Data"
        if run.data
        else "",
        "preparation": _preparation(content),
        "labels": "label policy and counts of unknown entries under Data" if run.setting("data", "uncertain") else "",
        "events": f"{_events(content)}; the width of the intervals is the honest summary",
        "partition": f"{parts}; see Data" if parts else "",
        "model": f"{run.setting('model', 'name')}, initial weights "
        f"{run.setting('model', 'weights', default='random')}, "
        f"second part {loss or 'none'}; see Training and the config"
        if run.setting("model", "name")
        else "",
        **_of_ensemble(content),
        "measures": f"AUC ({method} intervals), average precision, calibration, net benefit; paired tests, "
        f"Holm over labels",
        "uncertainty": f"95 % intervals ({method}); {seeds(content)}",
        "software": f"dam {run.environment.get('dam', '?')}, packages, hardware and commit under How to repeat this"
        if packages
        else "",
        "imbalance": _imbalance(content),
        "subgroups": "see Subgroups" if found is not None and found.subgroups else "",
        "output": "a score for each label; probabilities and thresholds fitted on validation, see "
        "Calibration and Operating points"
        if found is not None and any(row.chosen_on for row in found.operating)
        else "",
        "testing": f"{_testing(content)} {scored(content)}",
        "characteristics": "see Data" if run.metadata is not None and len(run.metadata.columns) > 4 else "",
        "performance": "see AUC, Comparisons, Operating points",
        "errors": "most confident wrong answers under Examples" if run.examples else "",
        "readers": "see Readers" if found is not None and found.readers else "",
        "flow": "exclusions in order under Data" if run.data.get("notes") else "",
        "updating": "none: the models were not refitted after testing",
    }


def _of_ensemble(content: Content) -> dict[str, str]:
    """What an ensemble says of its model instead."""
    stored = content.run.ensemble
    if not stored:
        return {}
    mixed = f"{len(stored.get('members', ()))} models ({content.run.setting('model', 'name')}), mean of"
    return {"model": f"ensemble of {mixed} {stored.get('mean')}, {stored.get('weights')} weights; see Ensemble"}


def _preparation(content: Content) -> str:
    run = content.run
    size = run.setting("image_size")
    names = [str(a.get("name")) for a in run.setting("augment", "train", default=[]) if isinstance(a, dict)]
    if not size:
        return ""
    fit = run.setting("data", "fit", default="squash")
    return f"images resized to {size} × {size} ({fit}); augmentation in training: {', '.join(names) or 'none'}"


def _events(content: Content) -> str:
    split = content.headline
    counts = [split.row(label, split.models[0]).n_pos for label in split.units.labels]
    low, high = min(counts), max(counts)
    said = f"{low}" if low == high else f"{low} to {high}"
    return f"{said} positives a label among {judged_on(split)}"


def _imbalance(content: Content) -> str:
    run = content.run
    sampler, loss = run.setting("auc", "sampler"), run.setting("auc", "loss", "name")
    if not sampler:
        return ""
    ratio = run.setting("data", "imratio")
    text = f"loss {loss}, sampler {words(sampler)}; validation and test keep their prevalence"
    return f"{text}; training thinned to imratio {ratio}" if ratio else text


def _testing(content: Content) -> str:
    internal = [s for s in content.judged if s.split == "test"]
    if not internal:
        return "no internal test set: validation was used for choice and is optimistic."
    text = "internal testing on the test split; "
    if content.externals:
        return f"{text}external testing on {sets_named(content.externals)}."
    return f"{text}no external testing."


def tripod(content: Content) -> list[Section]:
    """TRIPOD+AI."""
    return [Section("tripod", "TRIPOD+AI", (_intro(), _checklist(TRIPOD, content, "TRIPOD+AI")))]


def claim(content: Content) -> list[Section]:
    """CLAIM 2024."""
    return [Section("claim", "CLAIM 2024", (_checklist(CLAIM, content, "CLAIM 2024"),))]


def _intro() -> Text:
    return Text("Items in our own words; what only a person can answer is left open.")


def _checklist(items: tuple[tuple[str, str, str], ...], content: Content, name: str) -> Table:
    known = answers(content)
    rows = tuple((number, what, known.get(key, "") or OPEN) for number, what, key in items)
    done = sum(STRONG not in row[2] for row in rows)
    caption = f"{name}: {done} of {len(rows)} rows filled by the run"
    return Table(("item", "what it asks", "answer"), rows, caption, words=True)


def model_card(content: Content) -> list[Section]:
    """A model card (headings of Mitchell et al. 2019) with what the run knows."""
    run, split = content.run, content.headline
    known = answers(content)
    row = split.row(MEAN, content.model)
    mean = with_interval(row.auc, row.ci_low, row.ci_high)
    mean_std = run.setting("model", "mean") is not None
    details = [
        f"{run.setting('model', 'name', default='unknown backbone')}",
        f"input {run.setting('image_size', default='?')} pixels a side, {'own' if mean_std else 'default'} "
        f"normalisation",
        f"classes: {', '.join(split.units.labels)}",
        f"made with dam {run.environment.get('dam', '?')}"
        + (f" on {str(run.environment['started'])[:10]}" if run.environment.get("started") else ""),
    ]
    rows = (
        ("Model details", "; ".join(details)),
        ("Licence", OPEN),
        ("Intended use, users, out of scope", OPEN),
        ("Factors", known["subgroups"] or "no metadata column to group by"),
        ("Metrics", known["measures"]),
        ("Decision thresholds", known["output"] or OPEN),
        ("Evaluation data", f"{split.title}, {judged_on(split)}"),
        ("Training data", known["partition"] or known["source"] or OPEN),
        ("Quantitative analyses", f"mean AUC of {content.model} on {split.title}: {mean}; by label above"),
        ("Ethical considerations", OPEN),
        ("Caveats and recommendations", f"{known['testing']} Further: {OPEN}"),
        (
            "Machine fields",
            f"{code('library_name: timm')}, {code('pipeline_tag: image-classification')}, {code('metrics: roc_auc')}, "
            f"{code('datasets: ' + str(run.setting('data', 'name', default='unknown')))}",
        ),
    )
    return [
        Section("card", "Model card", (Table(("heading", "entry"), rows, "After Mitchell et al. 2019", words=True),))
    ]
