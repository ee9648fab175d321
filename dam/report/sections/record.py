"""What was done: training, data, config, environment, and how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dam.report.content import Content, words
from dam.report.document import Block, Code, Details, Figures, Items, Section, Table, Text, code
from dam.report.run_files import RunFiles, Stage
from dam.report.tables import plural, share

FACTS = ("objective", "optimizer", "lr", "form", "head", "steps", "select", "chosen_step", "val_auc")  # of stages
CUTS = 10  # images named that could not be read


def training(content: Content) -> list[Section]:
    """Stages, training curves, and a, b, alpha and margin over time."""
    run = content.run
    blocks: list[Block] = [_stages(run.stages)] if run.stages else []
    if run.stages_from:
        blocks.insert(0, Text(f"Stages and curves are those of {code(run.stages_from)}; every fold has its own."))
    figures = content.figures("Training curves")
    if figures:
        blocks.append(Figures(figures))
    sections = [Section("training", "Training", tuple(blocks))] if blocks else []
    inner = content.figures("Loss parameters")
    if inner:
        text = "a and b are the mean scores of positives and negatives as the loss sees them, alpha is "
        text += "the multiplier of the "
        text += "margin, and the margin reached is the distance of the two class means."
        sections.append(Section("inner", "a, b, alpha and margin over time", (Text(text), Figures(inner)), 3))
    return sections


def _stages(stages: Sequence[Stage]) -> Table:
    facts = [_facts(stage) for stage in stages]
    names = [name for name in FACTS if any(f.get(name) not in (None, "") for f in facts)]
    rows = tuple(
        (stage.part.replace("_", " "), stage.label or "all", *(words(f.get(name)) for name in names))
        for stage, f in zip(stages, facts, strict=True)
    )
    return Table(("stage", "label", *(name.replace("_", " ") for name in names)), rows, "What was trained")


def _facts(stage: Stage) -> dict[str, object]:
    """A stage's facts with its steps, and with name and rate of its optimizer apart."""
    facts: dict[str, object] = {**stage.facts, "steps": stage.steps}
    optimizer = facts.get("optimizer")
    if isinstance(optimizer, dict):
        facts |= {"optimizer": optimizer.get("name"), "lr": optimizer.get("lr")}
    return facts


# ---------------------------------------------------------------- data


def data(content: Content) -> list[Section]:
    """Sizes, counts a split and label, policies, exclusions, characteristics, fingerprint."""
    run = content.run
    blocks: list[Block] = []
    sizes = run.data.get("sizes")
    if isinstance(sizes, dict) and sizes:
        kinds = list(dict.fromkeys(key for size in sizes.values() if isinstance(size, dict) for key in size))
        rows = tuple((str(split), *(str(size.get(k, "–")) for k in kinds)) for split, size in sizes.items())
        blocks.append(Table(("split", *kinds), rows, "Images, patients and studies"))
    blocks += _characteristics(run)
    counts = run.data.get("counts")
    if isinstance(counts, list) and counts and all(isinstance(c, dict) for c in counts):
        blocks.append(_counts(counts))
    blocks += _policies(run)
    notes = _notes(run)
    if notes:
        blocks += [Text("Steps on the table and exclusions, in order:"), Items(tuple(notes))]
    leakage = _leakage(run)
    if leakage:
        blocks.append(Text(leakage))
    prints = [f"{key}: {code(run.data[key])}" for key in _fingerprints(run)]
    if prints:
        blocks += [Text("Fingerprint of the data:"), Items(tuple(prints))]
    return [Section("data", "Data", tuple(blocks))] if blocks else []


def _fingerprints(run: RunFiles) -> list[str]:
    return [key for key in ("images_sha256", "labels_sha256", "pixels_sha256") if run.data.get(key)]


def _counts(counts: Sequence[dict[str, Any]]) -> Table:
    header = ("label", "split", "n", "positives", "negatives", "unknown", "prevalence")
    rows = tuple(
        (
            str(c.get("label", "")),
            str(c.get("split", "")),
            *(words(c.get(name)) for name in header[2:6]),
            share(float(c["imratio"])) if isinstance(c.get("imratio"), int | float) else "–",
        )
        for c in sorted(counts, key=_label_order(counts))
    )
    return Table(header, rows, "Images by label and split, after the label policy")


def _label_order(counts: Sequence[dict[str, Any]]) -> Any:
    order = {label: i for i, label in enumerate(dict.fromkeys(str(c.get("label")) for c in counts))}
    return lambda c: order[str(c.get("label"))]


def _policies(run: RunFiles) -> list[Block]:
    """The rule for uncertain and blank labels, one row a label."""
    found = {name: run.setting("data", name) for name in ("uncertain", "blank", "smooth")}
    found = {name: rule for name, rule in found.items() if isinstance(rule, dict)}
    if not found:
        return []
    rows = tuple(
        (label, *(words(rule.get(label, rule.get("default"))) for rule in found.values())) for label in run.labels
    )
    header = ("label", *(f"{name} labels" if name != "smooth" else "range if smoothed" for name in found))
    return [Table(header, rows, "Label policy: what uncertain and blank entries become")]


def _characteristics(run: RunFiles) -> list[Block]:
    """Metadata columns by split: mean and SD of numbers, shares of categories with few values."""
    frame = run.metadata
    if frame is None or "split" not in frame:
        return []
    splits = [str(s) for s in dict.fromkeys(frame["split"].dropna()) if str(s)]
    names = [c for c in frame.columns if c not in ("image", "patient", "study", "split")]
    rows: list[tuple[str, ...]] = []
    for name in names:
        values = frame[name]
        if values.dtype.kind in "if" and values.nunique() > 8:
            cells = [values[frame["split"] == s] for s in splits]
            rows.append((f"{name}, mean (SD)", *(f"{v.mean():.1f} ({v.std():.1f})" for v in cells)))
        elif values.nunique() <= 8:
            for group in sorted(map(str, values.dropna().unique())):
                cells = [values[frame["split"] == s].astype(str) == group for s in splits]
                rows.append((f"{name}: {group}", *(f"{int(v.sum())} ({100 * v.mean():.0f} %)" for v in cells)))
        missing = [int(values[frame["split"] == s].isna().sum()) for s in splits]
        if any(missing):
            rows.append((f"{name}: unknown", *map(str, missing)))
    return [Table(("images", *splits), tuple(rows), "Characteristics by split", "", False)] if rows else []


def _notes(run: RunFiles) -> list[str]:
    notes = [str(note) for note in run.data.get("notes") or []]
    skipped = run.data.get("skipped")
    if skipped:
        said = f"{plural(len(skipped), 'image')} could not be read and were left out"
        notes.append(f"{said} ({code('data.on_bad_image=skip')})")
        named = skipped.items() if isinstance(skipped, dict) else ((image, "") for image in skipped)
        notes += [f"left out: {code(image)} {why}".rstrip() for image, why in list(named)[:CUTS]]
    return notes


def shared_patients(run: RunFiles) -> int | None:
    """Patients that images.csv has in more than one split; None where it cannot be known."""
    frame = run.metadata
    if frame is None or not {"patient", "split"} <= set(frame.columns):
        return None
    known = frame[frame["patient"].notna() & (frame["patient"].astype(str) != "") & frame["split"].notna()]
    if not len(known):
        return None
    return int((known.groupby("patient")["split"].nunique() > 1).sum())


def _leakage(run: RunFiles) -> str:
    shared = shared_patients(run)
    rule = run.setting("data", "leakage")
    parts = []
    if shared is not None:
        parts.append(
            f"Counted in {code('predictions/images.csv')}: {plural(shared, 'patient')} in more than one split."
        )
    if rule == "refuse":
        text = "A run in which splits share a patient or a byte-equal image is refused"
        parts.append(f"{text} ({code('data.leakage=refuse')}), so the number of shared images is 0.")
    elif rule == "allow":
        parts.append(f"{code('data.leakage=allow')}: shared patients and images were not refused; see the notes above.")
    return " ".join(parts)


# ---------------------------------------------------------------- how to do it again


def command(run: RunFiles) -> str:
    """The command of the run in one line, or "" where it is unknown."""
    words_ = run.environment.get("command")
    if not isinstance(words_, list) or not words_:
        return ""
    name = Path(str(words_[0])).name
    return shlex.join([name if name not in ("__main__.py", "") else "dam", *(str(word) for word in words_[1:])])


def reproduce(content: Content) -> list[Section]:
    """Command, config, environment, and where the numbers are."""
    run = content.run
    untrained = run.foreign or bool(run.ensemble)
    again = f"dam {'report ' if untrained else 'train resume='}{shlex.quote(str(run.path))}"
    lines = [line for line in (command(run), again) if line]
    blocks: list[Block] = [Code("\n".join(lines), "sh")]
    if run.foreign:
        text = "The second line builds this page again from the files beside it. What made the scores "
        text += "is not known here; how "
        text += f"they were read and judged is in {code('evaluation.json')}, and every number in "
        text += f"{code('report.json')} and "
        text += f"the CSV files of {code('report/')}, made from {code('predictions/*.csv')} alone."
        return [Section("reproduce", "How to repeat this", (*blocks, Text(text), *_environment(run)))]
    text = f"The second line goes on with this run, or says that it is finished; {code('dam report')} "
    text += "builds this page again "
    text += "from the run's files alone. The config below is the whole resolved one."
    if run.ensemble:
        text = "The second line builds this page again from the files beside it; scoring further images needs the "
        text += f"members' folders, which {code('ensemble.json')} names. The config below is what all members share."
    blocks.append(Text(text))
    blocks += _environment(run)
    config = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    blocks.append(Details("Resolved config (config.yaml)", (Code(config, "yaml"),)))
    text = f"Every number is in {code('report.json')} and the CSV files of {code('report/')}, made from "
    text += f"{code('predictions/*.csv')} alone; figures are in {code('report/figures')} as PNG and SVG, each with its "
    text += f"numbers in {code('report/figures/data')}."
    blocks.append(Text(text))
    return [Section("reproduce", "How to repeat this", tuple(blocks))]


def _environment(run: RunFiles) -> list[Block]:
    found = run.environment
    rows: list[tuple[str, str]] = []
    for key in ("dam", "python", "platform", "processor", "cpu_count", "device", "gpu", "cuda", "seed", "started"):
        if found.get(key) not in (None, "", []):
            rows.append((key.replace("_", " "), words(found[key])))
    git = found.get("git")
    if isinstance(git, dict) and git.get("commit"):
        rows.append(("commit", f"{git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}"))
    packages = found.get("packages")
    if isinstance(packages, dict):
        rows.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    hours = run.seconds
    if hours:
        rows.append(("training time", f"{hours / 60:.1f} minutes in all stages"))
    return (
        [Details("Environment", (Table(("what", "value"), tuple(rows), "environment.json", words=True),))]
        if rows
        else []
    )
