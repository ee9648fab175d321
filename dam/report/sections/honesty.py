"""Which number chose what, how many comparisons, how often the test set was seen."""

from __future__ import annotations

from dam.report.content import Content
from dam.report.document import Items, Section, code
from dam.report.tables import pairs_of, plural


def choice(content: Content) -> list[Section]:
    """Selection, multiplicity, seeds, units."""
    items = [*_selection(content), *_multiplicity(content), *_units(content), seeds(content)]
    return [Section("choice", "How this was chosen", (Items(tuple(items)),))]


def _selection(content: Content) -> list[str]:
    run = content.run
    if run.foreign:
        said = "A table of predictions was judged: how its scores were trained and chosen, and with "
        said += "which seeds, is not "
        return [f"{said}known here.", *([scored(content)] if "test" in [s.split for s in content.judged] else [])]
    splits = [s.split for s in content.judged]
    if run.ensemble:
        said = "The members were calibrated and ranked on validation"
        chosen = ", and their weights chosen there" if run.ensemble.get("weights") == "greedy" else ""
        lines = [f"{said}{chosen}: its AUC there is optimistic. Each member was selected on the same validation set."]
        if "test" in splits:
            lines.append(f"Test chose nothing here, but each member's own report had scored it before: which runs were "
                         f"put together must not have been decided on those. {scored(content)}")  # fmt: skip
        return lines
    select = run.setting("select", default="unknown")
    lines = [f"Weights were chosen by {code(f'select={select}')} on validation."]
    evaluations = [len(s.metrics) for s in run.stages if s.metrics is not None]
    if evaluations:
        low, high = min(evaluations), max(evaluations)
        count = f"{low}" if low == high else f"{low} to {high}"
        lines.append(f"Validation was evaluated {count} times in each of {plural(len(run.stages), 'stage')}.")
    lines.append("One trial: this run tried no other settings; trials of a sweep before it are not in here.")
    if "val" in splits:
        lines.append("Validation AUC was used for choice and is optimistic.")
    if "test" in splits:
        lines.append("Test was only reported; it chose nothing.")
        lines.append(scored(content))
    if any("blend" in s.models for s in content.judged):
        lines.append(f"{code('blend')} was fitted on validation, so its validation AUC is optimistic twice.")
    return lines


def scored(content: Content) -> str:
    """How often the test set was scored."""
    times = content.test_scorings()
    if times == 1:
        return "The test set was scored once."
    return (
        f"The test set was scored {times} times, after changes in between: read its numbers as optimistic accordingly."
    )


def _multiplicity(content: Content) -> list[str]:
    pairs = pairs_of(content.headline.models)
    labels = len(content.headline.judgement.mean_labels)
    if not pairs:
        return ["Nothing was compared."]
    first = f"{pairs[0][0]} − {pairs[0][1]}"
    return [
        f"{plural(len(pairs), 'comparison')} of models were made; the mean of {first} is the primary test, "
        f"the others are not "
        f"adjusted for one another. Within each, {plural(labels, 'label')} are adjusted by Holm."
    ]


def _units(content: Content) -> list[str]:
    units = content.headline.units
    if units.unit == "image":
        return [f"Every image is judged by itself ({code('data.unit=image')})."]
    return [
        f"Scores of the images of a {units.unit} are merged by their {units.merge} ({code(f'data.unit={units.unit}')})."
    ]


def seeds(content: Content) -> str:
    """Seeds behind the numbers."""
    if content.run.foreign:
        return "Seeds: unknown, since the training is."
    if content.run.ensemble:
        return "One ensemble of one set of runs: the spread over other runs of the same kind is not in here."
    seed = content.run.setting("seed", default="unknown")
    return f"One seed ({code(f'seed={seed}')}): the spread over seeds is not in here."
