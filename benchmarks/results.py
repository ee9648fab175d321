"""The results' files: <machine kind>.json with every figure, <machine kind>.md to be read."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.goals import GOALS, Goal

Found = dict[str, dict[str, Any]]


def say(goal: Goal, one: dict[str, Any]) -> None:
    """One goal on the screen."""
    if "failed" in one:
        print(f"{goal.key:>13}  FAILED", flush=True)
        return
    for line in one["lines"]:
        print(f"{goal.key:>13}  {line['what']}: {_number(line['ratio'])} {_judged(line)}", flush=True)


def missed(found: Found) -> list[str]:
    """One text a missed bound."""
    return [
        f"goal {key}: {line['what']}: {_number(line['ratio'])}, bound {line['bound']:g}"
        for key, one in found.items()
        for line in one.get("lines", ())
        if line["missed"]
    ]


def place(kind: str, folder: Path, quick: bool) -> Path:
    """The .json of a machine, a quick run's apart. Raises ``SystemExit`` now for what could not be written later."""
    file = folder / f"{kind}.quick.json" if quick else folder / f"{kind}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.exists():
            json.loads(file.read_text(encoding="utf-8"))["goals"]
        file.touch()
        if not file.stat().st_size:
            file.unlink()
    except OSError as error:
        raise SystemExit(
            f"{error.filename}: {(error.strerror or 'cannot be written').lower()}; give another --out"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{file} holds no results of this command; remove it") from error
    return file


def write(found: Found, file: Path) -> Path:
    """Add what was found to the machine's results, and draw them. What another time measured stays where this one
    measured nothing."""
    before = json.loads(file.read_text(encoding="utf-8"))["goals"] if file.exists() else {}
    stamp = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "versions": machine.versions()}
    goals = dict(before)
    for key, one in found.items():
        if "lines" in one or "lines" not in goals.get(key, {}):
            goals[key] = one | stamp
    order = {goal.key: number for number, goal in enumerate(GOALS)}
    goals = dict(sorted(goals.items(), key=lambda item: order.get(item[0], 99)))
    whole = {"machine": file.stem, "facts": machine.facts(), "goals": goals}
    file.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    shown = file.with_suffix(".md")
    shown.write_text(_drawn(whole), encoding="utf-8")
    return shown


def _drawn(whole: dict[str, Any]) -> str:
    goals: Found = whole["goals"]
    titles = {goal.key: goal.title for goal in GOALS}
    facts = "; ".join(f"{name}: {value}" for name, value in whole["facts"].items() if value)
    lines = [
        f"# Benchmarks on {whole['machine']}",
        "",
        f"{facts}.",
        "Made by `python -m benchmarks` (docs/performance.md says how). One core, one thread; CPU seconds unless a",
        "line says wall; the median of paired ratios, in brackets its quartiles. Lines without a bound are shown only.",
        "",
        "| goal | what | ratio (quartiles) | bound | rounds | note |",
        "|---|---|---|---|---|---|",
    ]
    for key, one in goals.items():
        if "lines" not in one:
            lines.append(f"| {key} | {titles.get(key, '')} | {one.get('skipped') or 'failed'} | | | |")
            continue
        lines += [_row(key, line) for line in one["lines"]]
    lines += ["", "| goal | date | wall seconds |", "|---|---|---|"]
    lines += [f"| {key} | {one.get('date', '')} | {one.get('wall', math.nan):.0f} |" for key, one in goals.items()]
    sets = {json.dumps(one["versions"]) for one in goals.values() if "versions" in one}
    for text in sorted(sets):
        lines += ["", "Versions: " + ", ".join(f"{name} {value}" for name, value in json.loads(text).items()) + "."]
    for key, one in goals.items():
        if one.get("facts"):
            lines += ["", f"## {key}: {titles.get(key, '')}", "", *_facts(one["facts"])]
        if one.get("profile"):
            lines += ["", f"### Where the time of {key} goes", "", "```", one["profile"], "```"]
    return "\n".join(lines) + "\n"


def _row(key: str, line: dict[str, Any]) -> str:
    spread = "" if line["low"] is None else f" ({_number(line['low'])} to {_number(line['high'])})"
    bound = "" if line["bound"] is None else f"{'>=' if line['at_least'] else '<='} {line['bound']:g}"
    verdict = "" if line["bound"] is None else (" **missed**" if line["missed"] else " met")
    cells = (key, line["what"], f"{_number(line['ratio'])}{spread}", f"{bound}{verdict}", line["rounds"], line["note"])
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _facts(facts: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            columns = list(value[0])
            lines += ["", f"{name}:", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in value] + [""]
        else:
            lines.append(f"- {name}: {_cell(value)}")
    return lines


def _cell(value: Any) -> str:
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _judged(line: dict[str, Any]) -> str:
    if line["bound"] is None:
        return ""
    return (
        f"(bound {line['bound']:g}{', at least' if line['at_least'] else ''}: {'MISSED' if line['missed'] else 'met'})"
    )
