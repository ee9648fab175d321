"""The 23 points a report must satisfy (facts: Van Calster 2025, TRIPOD+AI, CLAIM 2024, Metrics Reloaded), checked.

Each check reads what the report holds (``Content``, ``Document``), not what the code could do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dam.report.content import Content
from dam.report.document import Document, Table, plain
from dam.report.sections.checklists import OPEN
from dam.report.sections.record import command, shared_patients
from dam.report.tables import CONTROLS, pairs_of, verdict

PASS, FAIL, HUMAN = "pass", "fail", "needs a human"


@dataclass(frozen=True)
class Point:
    """One point: its number, what it asks, ``state`` (PASS, FAIL, HUMAN), and where it is found or what is missing."""

    number: int
    asks: str
    state: str
    where: str


Found = tuple[str, str]


def check(content: Content, document: Document, directory: Path) -> tuple[Point, ...]:
    """All 23 points of one report; ``directory`` is its folder (report/)."""
    return tuple(
        Point(number, asks, *test(_Report(content, document, directory)))
        for number, (asks, test) in enumerate(CHECKS, start=1)
    )


def lines(points: Sequence[Point]) -> list[str]:
    """One line a point, then the sums."""
    width = max(len(p.asks) for p in points)
    found = [f"{p.number:>2}  {p.state:<13}  {p.asks:<{width}}  {p.where}" for p in points]
    count = {state: sum(p.state == state for p in points) for state in (PASS, FAIL, HUMAN)}
    return [*found, ", ".join(f"{n} {state}" for state, n in count.items())]


class _Report:
    def __init__(self, content: Content, document: Document, directory: Path) -> None:
        self.content, self.document, self.directory = content, document, directory
        self.run, self.split, self.assessment = content.run, content.headline, content.assessment
        self.titles = {s.id: plain(s.title) for s in document.sections}

    def tables(self, caption: str) -> list[Table]:
        return [b for b in self.document.blocks() if isinstance(b, Table) and plain(b.caption).startswith(caption)]

    def figures(self, prefix: str) -> list[str]:
        return [f.name for f in self.document.figures if f.name.startswith(prefix)]

    def defined(self) -> list[str]:
        """Labels with an AUC."""
        models = self.split.models
        return [k for k in self.split.units.labels if not all(math.isnan(self.split.row(k, m).auc) for m in models)]


def _need(found: Sequence[tuple[bool, str]], where: str) -> Found:
    """PASS where everything is there, else FAIL with what is not."""
    missing = [what for there, what in found if not there]
    return (FAIL, f"missing: {', '.join(missing)}") if missing else (PASS, where)


def _1(r: _Report) -> Found:
    found = [
        (bool(r.tables("Images by label")), "counts a label and split"),
        (bool(r.tables("Images, patients")), "patients"),
    ]
    return _need(found, "Data; prevalence in every results table")


def _2(r: _Report) -> Found:
    shared, rule = shared_patients(r.run), r.run.setting("data", "leakage")
    if shared:
        return FAIL, f"{shared} patients are in more than one split (Data)"
    if shared is None:
        return FAIL, "no patient is known in predictions/images.csv, so splits cannot be told apart"
    if rule != "refuse":
        return FAIL, "duplicates across splits were not refused (data.leakage)"
    return PASS, "Data: patients counted, byte-equal images refused"


def _3(r: _Report) -> Found:
    return _need([(bool(r.tables("Label policy") or r.run.data.get("notes")), "label policy")], "Data, label policy")


def _4(r: _Report) -> Found:
    methods = {row.interval for row in r.split.judgement.aucs if not math.isnan(row.ci_low)}
    repeated = r.split.patients < len(r.split.units.targets)
    clustered = any("clustered" in m or "influence" in m or "bootstrap" in m for m in methods)
    found = [(bool(methods), "any interval"), (clustered or not repeated, "an interval that knows patients")]
    return _need(found, f"AUC; methods: {', '.join(sorted(methods))}")


def _5(r: _Report) -> Found:
    drawn = {d.name: d for d in r.content.drawn}
    rocs = r.figures("roc_")
    band = all(any(row.get("what") == "band" for row in drawn[n].data) for n in rocs) and bool(rocs)
    every = len(r.defined())
    found = [(len(rocs) == every and every > 0, "ROC of every label"), (band, "confidence band")]
    found += [(bool(r.tables("Beyond the whole area")), "AP table"), (len(r.figures("pr_")) == every, "PR curves")]
    return _need(found, "ROC curves; Precision-recall curves (dashed: prevalence)")


def _6(r: _Report) -> Found:
    return _need([(0 < len(r.figures("scores_")) == len(r.defined()), "histograms")], "Score distributions")


def _7(r: _Report) -> Found:
    rows = r.assessment.calibration if r.assessment else ()
    stages = {row.stage for row in rows}
    drawn = [d for d in r.content.drawn if d.section == "Calibration"]
    smooth = bool(drawn) and all(any(row.get("what") == "smoothed" for row in d.data) for d in drawn)
    found = [(stages >= {"before", "after"}, "before and after"), (smooth, "smoothed plot")]
    found.append((any(row.fitted_on for row in rows), "where it was fitted"))
    return _need(found, "Calibration")


def _8(r: _Report) -> Found:
    rows = [row for row in r.assessment.operating if row.main] if r.assessment else []
    chosen = [row for row in rows if row.chosen_on == "val"]
    known = any(math.isfinite(row.sensitivity_low) for row in chosen)
    stated = any(math.isfinite(row.prevalence_at) or math.isfinite(row.prevalence) for row in chosen)
    found = [
        (bool(chosen), "thresholds from validation"),
        (known, "intervals"),
        (stated, "PPV, NPV at a stated prevalence"),
    ]
    return _need(found, "Operating points")


def _9(r: _Report) -> Found:
    there = bool(r.assessment and r.assessment.net_benefit) and bool(r.figures("decision_"))
    return _need([(there, "decision curve (needs probabilities fitted on validation)")], "Decision curves")


def _10(r: _Report) -> Found:
    rows = r.assessment.operating if r.assessment else ()
    there = any(math.isfinite(row.mcc) or math.isfinite(row.balanced_accuracy) for row in rows)
    return _need([(there, "balanced accuracy and MCC")], "Operating points; F1 among the counts")


def _11(r: _Report) -> Found:
    rows = r.assessment.subgroups if r.assessment else ()
    if not rows:
        return FAIL, "no subgroups: no metadata column"
    return PASS, f"Subgroups: {', '.join(dict.fromkeys(row.column for row in rows))}; small groups marked, not tested"


def _12(r: _Report) -> Found:
    found = r.assessment.verdict if r.assessment else None
    seeds = found.seeds if found is not None else 1
    if r.run.foreign:
        return FAIL, "seeds unknown: a table of predictions was judged"
    return PASS, "How this was chosen: one seed, said so" if seeds < 2 else f"verdict: {seeds} seeds with their SD"


def _13(r: _Report) -> Found:
    pairs = [p for p in pairs_of(r.split.models) if p[0] == "auc" and p[1] in CONTROLS]
    if not pairs and r.run.ensemble:
        return FAIL, "an ensemble is compared with its members, which cost less: no control at equal budget"
    if not pairs:
        return FAIL, "no control at equal budget: control=ce adds it"
    rows = [c for c in r.split.judgement.comparisons if (c.a, c.b) in pairs]
    wrong = [c.label for c in rows if (c.ci_low <= 0 <= c.ci_high) != (verdict(c) == "tie")]
    if wrong:
        return FAIL, f"not called a tie: {', '.join(wrong)}"
    return PASS, "Comparisons; number of comparisons under How this was chosen"


def _14(r: _Report) -> Found:
    return _need(
        [("choice" in r.titles and r.run.setting("select") is not None, "selection rule")], "How this was chosen"
    )


def _15(r: _Report) -> Found:
    judgement = r.split.judgement
    lost = [
        k
        for k in r.split.units.labels
        if k not in r.defined() and not any(n.startswith(f"{k}:") for n in judgement.notes)
    ]
    return _need([(not lost, f"a word about {', '.join(lost)}")], "AUC table and its notes")


def _16(r: _Report) -> Found:
    run = r.run
    weights = run.setting("model", "weights")
    hashed = weights is None or "sha256" in str(run.environment) + str([s.facts for s in run.stages])
    found = [
        (run.setting("image_size") is not None, "preprocessing"),
        (run.setting("augment") is not None, "augmentation"),
    ]
    head = run.setting("auc", "head") is not None or any("head" in s.facts for s in run.stages)
    found += [(hashed, "hash of the initial weights"), (head, "head rule")]
    return _need(found, "config; TRIPOD+AI 7; Training" + ("" if weights else " (random initial weights, by seed)"))


def _17(r: _Report) -> Found:
    env = r.run.environment
    found = [
        (bool(r.run.config), "config"),
        (bool(env.get("packages")), "environment"),
        (bool(command(r.run)), "command"),
    ]
    found += [(bool((env.get("git") or {}).get("commit")), "commit"), (bool(env.get("device")), "hardware")]
    found.append((r.run.seconds > 0, "training time"))
    return _need(found, "How to repeat this")


def _18(r: _Report) -> Found:
    return _need([(bool(r.run.data.get("images_sha256")), "fingerprint")], "Data, fingerprint")


def _19(r: _Report) -> Found:
    if not r.content.externals:
        return FAIL, "no external set was scored: dam evaluate RUN --data ... adds one"
    return PASS, f"External testing: {', '.join(s.title for s in r.content.externals)}"


def _20(r: _Report) -> Found:
    kinds = {row.get("kind") for row in r.run.examples}
    return _need([(bool(kinds & {"missed", "false alarm"}), "example images")], "Examples")


def _21(r: _Report) -> Found:
    text = " ".join(plain(str(b)) for b in r.document.blocks()).lower()
    found = [("ground truth" not in text, "the word 'reference standard' instead of 'ground truth'")]
    found.append(("reference standard" in text, "reference standard"))
    found.append(("internal testing" in text or "no internal test" in text, "internal / external testing"))
    return _need(found, "throughout; testing named under External testing, CLAIM 32, 33")


def _22(r: _Report) -> Found:
    if not {"tripod", "claim", "card"} <= set(r.titles):
        return FAIL, "tables are missing"
    rows = [row for name in ("TRIPOD+AI", "CLAIM 2024") for table in r.tables(name) for row in table.rows]
    left = sum(OPEN in row[2] for row in rows)
    return (
        HUMAN if left else PASS
    ), f"TRIPOD+AI, CLAIM 2024: {len(rows) - left} rows filled, {left} left open for a person"


def _23(r: _Report) -> Found:
    data = r.directory / "figures" / "data"
    lost = [d.name for d in r.content.drawn if not (data / f"{d.name}.csv").is_file()]
    found = [((r.directory / name).is_file(), name) for name in ("auc.csv", "auc.json")]
    found += [(bool(r.content.drawn), "figures"), (not lost, f"numbers of {', '.join(lost)}")]
    return _need(found, "report.json, *.csv, figures/data/*.csv, from predictions/*.csv")


CHECKS: tuple[tuple[str, Callable[[_Report], Found]], ...] = (
    ("patients, images, positives, unknown, per label and split; prevalence", _1),
    ("splits share no patient; duplicates", _2),
    ("label policy per label", _3),
    ("AUC per label and macro, interval that knows patients, named", _4),
    ("ROC with band; AP with baseline", _5),
    ("score distributions per class", _6),
    ("calibration before and after, smoothed, where fitted", _7),
    ("operating points from validation, intervals, PPV and NPV", _8),
    ("net benefit", _9),
    ("balanced accuracy or MCC; F1 on request", _10),
    ("subgroups with intervals and n", _11),
    ("seeds: how many, spread, or one seed", _12),
    ("control at equal budget, paired difference, ties called so", _13),
    ("selection rule, trials, how often test was scored", _14),
    ("one-class or tiny labels marked", _15),
    ("preprocessing, augmentation, initial weights with hash, head rule", _16),
    ("config, commit, environment, hardware, time", _17),
    ("data fingerprint", _18),
    ("external test, the drop shown", _19),
    ("gallery of worst cases", _20),
    ("terms of CLAIM", _21),
    ("TRIPOD+AI and CLAIM tables, open items left open", _22),
    ("all as JSON and CSV; figures traceable", _23),
)
