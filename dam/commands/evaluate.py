"""``dam evaluate``: a report for a table of any tool, a run judged with other settings, or an external test set."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from dam.commands.flags import KEYS, Parsed, choice, parse
from dam.errors import UserError

if TYPE_CHECKING:
    from dam.evaluation.import_columns import TableForm
    from dam.evaluation.import_table import Imported
    from dam.report.build import ReportResult

HELP = """
usage: dam evaluate TABLE.csv --out DIR [options]                 the report of any tool's predictions
       dam evaluate RUN [options] [--out DIR]                     a run judged with other settings
       dam evaluate RUN --data NAME data.root=FOLDER [data.key=value ...] [--name NAME]
                                                                  a run on an external test set, the drop shown

TABLE.csv is long (a row an image and label: columns label, target and one or more scores) or wide (a row an image, a
target column and a score column a label). Columns image, patient, study are used where they are; what was guessed is
said. Scores are probabilities or raw scores (logits). Nothing is trained.

examples:
  dam evaluate predictions.csv --out judged --val validation.csv --patient PatientID
  dam evaluate wide.csv --out judged --target Edema --target Atelectasis --score 'ours={label}_prob'
  dam evaluate outputs/quickstart/2026-01-31_12-00-00 --interval bootstrap --threshold f1 --prevalence 0.02
  dam evaluate outputs/quickstart/2026-01-31_12-00-00 --data csv data.csv=other.csv data.root=images --name hospital_b

how the table is read:
  --layout long|wide       else guessed
  --label NAME             long: the column that names the label
  --target NAME            the column of 0, 1 or blank; wide: repeat it, or a pattern such as '{label}_true'
  --score NAME             a score column, repeat for several models; NEW=NAME renames; wide: a pattern with {label}
  --image, --patient, --study NAME
  --scores probability|logit    else guessed, a model at a time
  --val TABLE              the same models on validation: thresholds and calibration are fitted there
  --metadata TABLE|NAME,...     more columns of each image, for subgroups: a table, or columns of this one
  --rebalanced             training changed the share of positives (then calibration=temperature is refused)

how it is judged (also as evaluation.key=value; defaults in configs/evaluation/default.yaml or in the run):
  --unit image|study|patient    --merge mean|max
  --interval auto|delong|logit|clustered|bootstrap    --replicates N    --seed N
  --threshold youden|f1|sensitivity|cost    --sensitivity S    --specificity S    --cost C
  --calibration platt|temperature|none      --prevalence P
  --readers TABLE[,TABLE...]|FOLDER      --subgroups sex,age,...    --min-group N

  --device auto|cpu|cuda   --workers N      for --data
  --out DIR                where the report goes; a second evaluation into the same DIR replaces the first
"""

_TABLE = ("--layout", "--label", "--target", "--score", "--image", "--patient", "--study", "--scores", "--val",
          "--metadata")  # fmt: skip
_EXTERNAL = ("--name", "--device", "--workers")
FLAGS = (*_TABLE, *_EXTERNAL, "--data", "--out", *KEYS)
SWITCHES = ("--rebalanced",)


def run(arguments: list[str]) -> int:
    """Judge what the words name; returns the exit code."""
    parsed = parse(arguments, FLAGS, SWITCHES, "evaluate")
    if len(parsed.items) != 1:
        several = f"{len(parsed.items)} ({', '.join(parsed.items[:3])})" if parsed.items else "nothing"
        more = "; to compare runs or tables: dam compare A B" if parsed.items else "; see `dam evaluate --help`"
        raise UserError(f"`dam evaluate` takes one table or run and was given {several}{more}")
    path = Path(parsed.items[0]).expanduser()
    if path.is_dir():
        _only(parsed, _TABLE, f"{path} is a directory, whose predictions are in dam's own form")
        if parsed.one("--data") is not None:
            return _external(path, parsed)
        _only(parsed, _EXTERNAL, "no external set is named: add --data NAME")
        return _run(path, parsed)
    _only(parsed, ("--data", *_EXTERNAL), f"{path} is no run directory, and only a run can score images")
    return _table(path, parsed, ["dam", "evaluate", *arguments])


def _only(parsed: Parsed, flags: tuple[str, ...], why: str) -> None:
    found = [flag for flag in flags if flag in parsed.values]
    if found:
        raise UserError(f"{', '.join(found)} has no use here: {why}")


def _show(result: ReportResult) -> None:
    print("\n".join(result.lines))


# ---------------------------------------------------------------- a table


def _table(path: Path, parsed: Parsed, command: list[str]) -> int:
    out = parsed.one("--out")
    if out is None:
        raise UserError(f"say where the report goes: dam evaluate {quote(str(path))} --out DIR")
    from dam.commands.judging import settings
    from dam.evaluation.import_table import add_metadata, read_table
    from dam.report.evaluated import check_out, put_back_on_error, write_command, write_table_directory

    judged = settings(parsed.words)
    folder = check_out(Path(out).expanduser())
    form = table_form(parsed)
    if form.metadata and not any(word.lstrip("+").startswith("evaluation.subgroups") for word in parsed.words):
        judged["evaluation"]["subgroups"] = list(form.metadata)  # columns are named to be reported by
    kind = choice(parsed.one("--scores"), ("auto", "probability", "logit"), "--scores")
    table = read_table(path, form, kind)
    more = _metadata_file(parsed)
    if more is not None:
        table = add_metadata(table, more)
    for note in table.notes:
        print(f"{path.name}: {note}")
    validation, notes = None, list(table.notes)
    if (val := parsed.one("--val")) is not None:
        validation = read_table(Path(val).expanduser(), form, table.probabilities if kind == "auto" else kind)
        _check_same_models(path, table.predictions, Path(val), validation.predictions)
        if seen := _seen_in_validation(table, validation, val):
            print(f"{path.name}: {seen}")
            notes.append(seen)
    facts = {
        **judged,
        "name": path.stem,
        "rebalanced": "--rebalanced" in parsed.switches,
        "source": {"file": str(path.absolute()), "val": str(Path(val).expanduser().absolute()) if val else None},
        "notes": notes,
    }
    facts["data"]["name"] = path.name
    with put_back_on_error(folder, renewed=True):
        write_table_directory(folder, table, validation, facts)
        write_command(folder, command)
        return _report(folder)


def table_form(parsed: Parsed) -> TableForm:
    from dam.evaluation.import_columns import LAYOUTS, TableForm

    listed = "" if _metadata_file(parsed) is not None else parsed.one("--metadata") or ""
    return TableForm(
        layout=choice(parsed.one("--layout"), LAYOUTS, "--layout"),
        label=parsed.one("--label"),
        targets=parsed.many("--target"),
        scores=parsed.many("--score"),
        image=parsed.one("--image"),
        patient=parsed.one("--patient"),
        study=parsed.one("--study"),
        metadata=tuple(name.strip() for name in listed.split(",") if name.strip()),
    )


def _metadata_file(parsed: Parsed) -> Path | None:
    """The table that --metadata names, or None where it lists columns."""
    given = parsed.one("--metadata")
    if given is None:
        return None
    path = Path(given).expanduser()
    if path.is_file():
        return path
    if path.suffix.lower() in (".csv", ".tsv", ".txt", ".gz"):
        raise UserError(f"there is no file {path}, which --metadata names")
    return None


def _check_same_models(path: Path, test: Any, val_path: Path, val: Any) -> None:
    missing = [model for model in test.models if model not in val.models]
    labels = [label for label in test.labels if label not in val.labels]
    if missing or labels:
        what = f"scores of {', '.join(missing)}" if missing else f"rows of {', '.join(labels[:3])}"
        raise UserError(f"{val_path} has no {what}, which {path} has; validation needs the same models and labels")


def _seen_in_validation(test: Imported, val: Imported, source: str) -> str:
    """What must be said where images, by name, are in both tables; "" where none is, or they have no names."""
    if test.columns.image is None or val.columns.image is None:
        return ""
    shared = len(set(test.predictions.images) & set(val.predictions.images))
    if not shared:
        return ""
    return (
        f"{shared} of {len(test.predictions.images)} images are also in {source}, by name: thresholds and calibration "
        "that were chosen on the images they are judged on look better than they are"
    )


def _report(folder: Path) -> int:
    from dam.report import build_report

    _show(build_report(folder))
    return 0


# ---------------------------------------------------------------- a run


def _run(path: Path, parsed: Parsed) -> int:
    from dam.commands.judging import settings
    from dam.report.evaluated import check_out, copy_run, put_back_on_error, read_own_settings, write_settings

    stored = read_own_settings(path)
    judged = settings(parsed.words, stored)
    out = parsed.one("--out")
    folder = path if out is None else check_out(Path(out).expanduser())
    with put_back_on_error(folder, renewed=out is not None):
        if out is not None:
            copy_run(path, folder)
            judged["source"] = {"run": str(path.absolute())}
        if "--rebalanced" in parsed.switches:
            judged["rebalanced"] = True
        write_settings(folder, judged if parsed.words or parsed.switches or out else None, stored)
        code = _report(folder)
    if out is not None:
        from dam.report.history import merge

        merge(folder, path)
    return code


# ---------------------------------------------------------------- an external set


def _external(path: Path, parsed: Parsed) -> int:
    dataset = parsed.one("--data") or ""
    name = parsed.one("--name") or dataset
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise UserError(f"--name {name} names a file: small letters, digits, '_' and '-' only, as in --name site_b")
    if parsed.one("--out") is not None:
        raise UserError("--out has no use with --data: the external set becomes part of the run and of its report")
    ruled = ("evaluation.", "data.unit", "data.merge")
    judging = [word.partition("=")[0] for word in parsed.words if word.lstrip("+").startswith(ruled)]
    if judging:
        raise UserError(
            f"{', '.join(judging)}: an external set is judged as the run is; change that afterwards with "
            f"`dam evaluate {quote(str(path))} {judging[0]}=...`"
        )
    workers = parsed.one("--workers") or "4"
    if not workers.isdigit():
        raise UserError(f"--workers {workers}: a whole number >= 0")
    from dam.compose import compose

    config = compose([f"data={dataset}", *parsed.words])
    from dam.inference.external import score_external
    from dam.inference.run import load_run

    run = load_run(path, parsed.one("--device") or "auto")
    found = score_external(run, config.data, name, int(workers))
    for note in found.notes:
        print(f"{name}: {note}")
    if found.replaced:
        print(f"{name}: an external set of this name was there before and is replaced")
    from dam.report import build_report

    result = build_report(path)
    _show(result)
    print("\n".join(["", *_drop(result, found.split, name)]))
    return 0


def _drop(result: ReportResult, split: str, name: str) -> list[str]:
    """Mean AUC of every model inside and outside, over the labels that the external set has."""
    import numpy as np

    inside, outside = result.aucs(result.headline.split), result.aucs(split)
    known = {(r.label, r.model): r.auc for r in outside if r.label != "mean" and not np.isnan(r.auc)}
    home = {(r.label, r.model): r.auc for r in inside}
    lines = [f"mean AUC on {result.headline.split} -> {name}, over the labels of both"]
    width = max(len(r.model) for r in outside)
    for model in dict.fromkeys(r.model for r in outside):
        labels = [label for label, m in known if m == model and not np.isnan(home.get((label, m), np.nan))]
        if not labels:
            continue
        here = float(np.mean([home[label, model] for label in labels]))
        there = float(np.mean([known[label, model] for label in labels]))
        lines.append(f"  {model:<{width}}  {here:.3f} -> {there:.3f}  ({there - here:+.3f}, {len(labels)} labels)")
    return lines
