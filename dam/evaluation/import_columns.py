"""Which column of a foreign table is what: as the flags say, or guessed from names and values, with a word about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dam.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

LAYOUTS = ("auto", "long", "wide")
LABEL = "{label}"  # stands for the label in a pattern of column names

_LABELS = ("label", "disease", "finding", "class", "pathology")
_TARGETS = ("target", "y_true", "truth", "ground_truth", "reference", "gt", "y", "label")
_IMAGES = ("image", "image_id", "path", "filename", "file", "image_name", "img", "dicom_id", "id")
_PATIENTS = ("patient", "patient_id", "patientid", "subject", "subject_id")
_STUDIES = ("study", "study_id", "exam", "exam_id", "accession")
_PATTERNS = ("{label}_target", "{label}_true", "{label}_label", "{label}_gt", "target_{label}", "true_{label}",
             "gt_{label}", "y_{label}")  # fmt: skip
_ABOUT = ("sex", "gender", "age", "view", "projection", "site", "hospital", "source", "scanner", "manufacturer", "race",
          "ethnicity", "split", "fold", "weight", "index", "unnamed: 0", "")  # fmt: skip
_COMMA = re.compile(r"-?\d+,\d+")
_SAMPLE = 2000  # rows that decide whether a column holds numbers; the whole column is checked when it is read


@dataclass(frozen=True)
class TableForm:
    """What the user said about a table; empty or None = guess.

    ``targets`` and ``scores`` may hold the pattern ``{label}``; a score may be renamed by ``NAME=COLUMN``.
    """

    layout: str = "auto"
    label: str | None = None
    targets: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    image: str | None = None
    patient: str | None = None
    study: str | None = None
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """The columns found. Long: ``label`` and one target; wide: a target a label, and a score column a model and label.

    ``targets``: label -> column (long: {"": column}). ``scores``: model -> {label -> column} (long: {model: {"": c}}).
    """

    layout: str
    label: str | None
    targets: dict[str, str]
    scores: dict[str, dict[str, str]]
    image: str | None
    patient: str | None
    study: str | None
    metadata: tuple[str, ...]
    guessed: tuple[str, ...]  # what was not said by a flag


def find_columns(frame: pd.DataFrame, form: TableForm, source: str) -> Columns:
    """Find the columns of ``frame`` (all of text). Raises ``UserError`` for a column that is not there, naming the
    nearest, and where targets or scores cannot be told."""
    finder = _Finder(frame, form, source)
    owners = {
        "image": finder.one(form.image, _IMAGES, "--image"),
        "patient": finder.one(form.patient, _PATIENTS, "--patient"),
        "study": finder.one(form.study, _STUDIES, "--study"),
    }
    for name in form.metadata:
        finder.need(name, "--metadata")
    finder.taken |= {c for c in owners.values() if c} | set(form.metadata)
    label = finder.label_column()
    if finder.is_long(label):
        if label is None:
            raise UserError(
                f"{source} has no column that names the label ({', '.join(_LABELS[:3])}, ...): say which with --label "
                f"NAME, or --layout wide if every label has a column of its own (found: {finder.listed()})"
            )
        targets, scores = finder.long(label)
        layout = "long"
    else:
        label, layout = None, "wide"
        targets, scores = finder.wide()
    finder.taken |= {*targets.values(), *(c for one in scores.values() for c in one.values()), label or ""}
    others = tuple(c for c in frame.columns if c not in finder.taken and c.lower() not in ("", "unnamed: 0", "split"))
    return Columns(
        layout, label, targets, scores, owners["image"], owners["patient"], owners["study"],
        tuple(dict.fromkeys((*form.metadata, *others))), tuple(finder.guessed),
    )  # fmt: skip


class _Finder:
    def __init__(self, frame: pd.DataFrame, form: TableForm, source: str) -> None:
        self.frame, self.form, self.source = frame, form, source
        self.header: tuple[str, ...] = tuple(frame.columns)
        self.taken: set[str] = set()
        self.guessed: list[str] = []

    def listed(self) -> str:
        shown = ", ".join(self.header[:12])
        return shown if len(self.header) <= 12 else f"{shown} and {len(self.header) - 12} more"

    def need(self, name: str, flag: str) -> str:
        if name in self.header:
            return name
        near = difflib.get_close_matches(name, self.header, n=1, cutoff=0.5)
        near = near or [c for c in self.header if c.lower() == name.lower()]
        hint = f"; did you mean {near[0]}?" if near else f" (found: {self.listed()})"
        raise UserError(f"{self.source} has no column {name}, which {flag} names{hint}")

    def one(self, given: str | None, names: Sequence[str], flag: str) -> str | None:
        """The column a flag names, or the first one of the usual names."""
        if given is not None:
            return self.need(given, flag)
        lower = {c.lower(): c for c in reversed(self.header)}
        return next((lower[name] for name in names if name in lower), None)

    # ------------------------------------------------------------ layout

    def label_column(self) -> str | None:
        """The column that names the label of a row; one of 0 and 1 is a target, whatever it is called."""
        if self.form.label is not None:
            return self.need(self.form.label, "--label")
        found = self.one(None, _LABELS, "--label")
        return None if found is None or found in self.form.targets or self.is_binary(found) else found

    def is_long(self, label: str | None) -> bool:
        if self.form.layout != "auto":
            return self.form.layout == "long"
        if self.form.label is not None:
            return True
        if len(self.form.targets) > 1 or any(LABEL in c for c in (*self.form.targets, *self.form.scores)):
            return False
        return label is not None and (bool(self.form.targets) or self.target_column(label) is not None)

    def target_column(self, label: str | None) -> str | None:
        found = self.one(None, [name for name in _TARGETS if label is None or name != label.lower()], "--target")
        return found if found is not None and found != label else None

    # ------------------------------------------------------------ long

    def long(self, label: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        if len(self.form.targets) > 1:
            raise UserError(
                f"{self.source}: a long table has one target column, --target names {len(self.form.targets)}; "
                "say --layout wide if every label has its own"
            )
        target = self.need(self.form.targets[0], "--target") if self.form.targets else self.target_column(label)
        if target is None:
            raise UserError(f"{self.source} has no column target: name the one of 0 and 1 with --target "
                            f"(found: {self.listed()})")  # fmt: skip
        self.taken |= {label, target}
        return {"": target}, {model: {"": c} for model, c in self.plain_scores().items()}

    def plain_scores(self) -> dict[str, str]:
        """Score columns that are named whole: those of the flags, or every other column of numbers."""
        if self.form.scores:
            return self._renamed([(name, self.need(c, "--score")) for name, c in map(_split_name, self.form.scores)])
        free = [c for c in self.header if c not in self.taken and c.lower() not in _ABOUT]
        found = [c for c in free if self.is_numeric(c)]
        if not found:
            commas = [c for c in free if any(_COMMA.fullmatch(v) for v in self.sample(c))]
            hint = f"; {commas[0]} has decimal commas: write them as points" if commas else ""
            raise UserError(
                f"{self.source} has no score column left (found: {self.listed()}): name it with --score NAME{hint}"
            )
        self.guessed.append(f"score column{'s' * (len(found) > 1)} {', '.join(found)}")
        return {c: c for c in found}

    def _renamed(self, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"--score: two columns would be called {twice}; name them apart with --score NAME=COLUMN")
        return dict(pairs)

    # ------------------------------------------------------------ wide

    def wide(self) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        targets = self.wide_targets()
        self.taken |= set(targets.values())
        patterns = [s for s in self.form.scores if LABEL in s]
        if self.form.scores and len(patterns) != len(self.form.scores) and len(targets) > 1:
            plain = next(s for s in self.form.scores if LABEL not in s)
            raise UserError(
                f"--score {plain}: with {len(targets)} targets say how the score columns are named by a pattern, "
                f"such as --score '{LABEL}_{plain}'"
            )
        if patterns:
            named = [(name or "score", pattern) for name, pattern in map(_split_name, patterns)]
            scores = {name: self.by_pattern(p, targets) for name, p in self._renamed(named).items()}
        elif len(targets) == 1:
            label = next(iter(targets))
            scores = {model: {label: c} for model, c in self.plain_scores().items()}
        else:
            scores = self.guess_scores(targets)
        return targets, scores

    def wide_targets(self) -> dict[str, str]:
        given = self.form.targets
        if given:
            found: dict[str, str] = {}
            for name in given:
                found |= self.matching(name, "--target") if LABEL in name else {name: self.need(name, "--target")}
            return found
        single = self.target_column(None)
        if single is not None and self.is_binary(single):
            self.guessed.append(f"targets in {single}")
            return {single: single}
        binary = [c for c in self.header if c not in self.taken and c.lower() not in _ABOUT and self.is_binary(c)]
        for pattern in _PATTERNS:
            found = {k: c for k, c in self._match(pattern).items() if c in binary}
            if found:
                self.guessed.append(f"targets in columns like {pattern}")
                return found
        named = [t for t in binary if any(t != c and t in c for c in self.header if c not in self.taken)]
        found_names = named or (binary if len(binary) == 1 else [])
        if not found_names:
            raise UserError(
                f"{self.source}: which columns are targets cannot be told (found: {self.listed()}); name them with "
                f"--target NAME and the scores with --score NAME or --score '{LABEL}_score'"
            )
        self.guessed.append(f"targets in {', '.join(found_names)}")
        return {name: name for name in found_names}

    def by_pattern(self, pattern: str, targets: dict[str, str]) -> dict[str, str]:
        """Score column of each label by a pattern of the flags. At least one must be there."""
        found = {label: pattern.replace(LABEL, label) for label in targets}
        found = {label: c for label, c in found.items() if c in self.header}
        if not found:
            first = pattern.replace(LABEL, next(iter(targets)))
            self.need(first, f"--score '{pattern}'")
        return found

    def matching(self, pattern: str, flag: str) -> dict[str, str]:
        found = self._match(pattern)
        if not found:
            raise UserError(f"{self.source}: {flag} '{pattern}' fits no column (found: {self.listed()})")
        return found

    def _match(self, pattern: str) -> dict[str, str]:
        head, _, tail = pattern.partition(LABEL)
        regex = re.compile(re.escape(head) + "(.+)" + re.escape(tail))
        return {m[1]: c for c in self.header if (m := regex.fullmatch(c))}

    def guess_scores(self, targets: dict[str, str]) -> dict[str, dict[str, str]]:
        """Columns of numbers whose name holds a label's: what is left of the name is the model."""
        found: dict[str, dict[str, str]] = {}
        for column in self.header:
            if column in self.taken:
                continue
            inside = [label for label in targets if label in column]
            if inside and self.is_numeric(column):
                label = max(inside, key=len)  # "Lung Opacity" before "Lung"
                model = column.replace(label, "", 1).strip(" _-.:/") or "score"
                found.setdefault(model, {})[label] = column
        if not found:
            raise UserError(
                f"{self.source}: no score column is named after the targets {', '.join(list(targets)[:5])}; say how "
                f"they are named, such as --score '{LABEL}_score' (found: {self.listed()})"
            )
        example = next(iter(next(iter(found.values())).values()))
        self.guessed.append(f"scores {', '.join(found)} in columns like {example}")
        return found

    # ------------------------------------------------------------ values

    def sample(self, column: str) -> list[str]:
        values = self.frame[column].iloc[:_SAMPLE]
        return [v for v in dict.fromkeys(values.tolist()) if v != ""]

    def is_binary(self, column: str) -> bool:
        values = self.sample(column)
        words = ("0", "1", "0.0", "1.0", "true", "false", "nan", "-1", "-1.0")
        return bool(values) and all(v.strip().lower() in words for v in values)

    def is_numeric(self, column: str) -> bool:
        """Whether most of it is numbers: a single word among them is a mistake to be told, no other kind of column."""
        values = self.sample(column)
        return bool(values) and sum(map(_is_number, values)) >= len(values) / 2


def _split_name(text: str) -> tuple[str, str]:
    """ "NAME=COLUMN" -> (name, column); without a name a plain column keeps its own, a pattern what is left of it."""
    name, equals, column = text.partition("=")
    if equals and name and column:
        return name, column
    return (text.replace(LABEL, "").strip(" _-.:/") if LABEL in text else text), text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
