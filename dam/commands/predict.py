"""``dam predict``: a finished run on new images: scores, calibrated probabilities, decisions, and where it looked."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dam import memory
from dam.commands.flags import Parsed, choice, parse
from dam.errors import UserError, printable

if TYPE_CHECKING:
    from dam.inference.explain import Explain
    from dam.inference.predict import Predicted, Wish
    from dam.inference.run import LoadedRun

HELP = """
usage: dam predict RUN PATH ... --out FILE.csv [options]
       dam predict RUN --csv LIST.csv --out FILE.csv [options]

Scores images with a finished run, as the run scored its own test images: its preprocessing, test-time augmentation,
blend, calibration and thresholds. RUN is a run, a cross-validation (the mean of its folds) or an ensemble. PATH is an
image, a folder (with all folders in it), a glob in quotes, a zip or tar archive, or container::item.

FILE.csv has a row an image and label: image, label, one column a model (logits), probability (calibrated on
validation), decision (1 where the score reaches the threshold chosen on validation). Labels that were never trained are
left out and named. Images that cannot be read are named on screen and listed with the reason in FILE_failed.csv, as are
files in a folder that are no images by their name, and links to folders, which are not followed.

Stopped (Ctrl-C, kill, power cut), the same command goes on where it stood. Memory does not grow with the images.

examples:
  dam predict outputs/quickstart/2026-01-31_12-00-00 new_images --out predictions.csv
  dam predict outputs/melanoma/2026-01-31_12-00-00 --csv patients.csv --root images --out predictions.csv --explain

options:
  --csv FILE            a table of images, no labels needed; the run's metadata columns in it are used
  --image-column NAME   of --csv; else the column called image, path, file or filename
  --root FOLDER         what the paths in --csv are relative to; else the folder of the CSV
  --model NAME          whose probability and decision are given; else ensemble, auc, or the report's first model
  --columns A,B         only these score columns (fewer networks are run); else all that the run has
  --tta N               augmented copies an image; 0 off; else as in the run's config
  --batch-size N        images at a time; else twice that of training
  --device auto|cpu|cuda    --precision auto|fp32|bf16|fp16    --workers N
  data.window=W         for images of more than 8 bits: full, stretch, [low,high] or file; else as in the run's config
  --restart             begin anew where the unfinished work of another command is in the way
  --explain[=FOLDER]    overlays that show where the network looked, in FILE_explain or FOLDER; needs
                        pip install "dam[explain]"
  --explain-label NAME  the label to explain; else each image's most probable one
  --explain-max N       of the first N images (default 20)

Grad-CAM for networks with feature maps (also those with attention in windows: Swin, DaViT), attention rollout for plain
vision transformers.

Exit codes: 0 done, 1 some images could not be read (the others are written), 2 your mistake, 130 interrupted.
"""
FLAGS = (
    "--csv", "--image-column", "--root", "--out", "--model", "--columns", "--tta", "--batch-size", "--device",
    "--precision", "--workers", "--explain-dir", "--explain-label", "--explain-max",
)  # fmt: skip
SWITCHES = ("--explain", "--restart")
EXPLAINED = 20  # images, where --explain-max is not given


def run(arguments: list[str]) -> int:
    """Score what the words name; returns the exit code."""
    given = [f"--explain-dir={w.partition('=')[2]}" if w.startswith("--explain=") else w for w in arguments]
    parsed = parse(given, FLAGS, SWITCHES, "predict")
    if not parsed.items:
        raise UserError("`dam predict` takes a run and images: dam predict RUN PATH ... --out FILE.csv")
    out = parsed.one("--out")
    if not out:
        raise UserError("say where the predictions go: --out FILE.csv")
    _check_paths(parsed)
    explain = _explain_wish(parsed, _path(out))
    wish = _wish(parsed, _path(out), (explain.folder,) if explain is not None else ())
    memory.keep_freed()
    from dam.inference.predict import predict_files
    from dam.inference.run import load_run
    from dam.training.interrupt import Interrupted

    loaded = load_run(parsed.items[0], parsed.one("--device") or "auto", _precision(parsed))
    if explain is not None:
        from dam.inference.explain import check_wish

        check_wish(loaded, explain)
    try:
        done = predict_files(loaded, wish)
    except (Interrupted, KeyboardInterrupt):
        command = shlex.join(["dam", "predict", *(word for word in arguments if word != "--restart")])
        print(f"dam: interrupted; what is done is kept, go on with: {command}", file=sys.stderr)
        return 130
    _show(done)
    if explain is not None:
        try:
            _explain(loaded, done, explain, wish)
        except KeyboardInterrupt:
            print(f"dam: interrupted; {done.out} is whole, overlays are missing in {explain.folder}", file=sys.stderr)
            return 130
    return 1 if done.summary.failed else 0


# ---------------------------------------------------------------- words


def _path(word: str) -> Path:
    return Path(os.path.expanduser(word))  # noqa: PTH111  Path's own raises for ~ and no user's name


def _check_paths(parsed: Parsed) -> None:
    if len(parsed.items) == 1 and parsed.one("--csv") is None:
        raise UserError("no images are named: give files, folders or globs after the run, or --csv FILE")
    if len(parsed.items) > 1 and parsed.one("--csv") is not None:
        raise UserError("give images as paths or as --csv, not both")
    stray = [flag for flag in ("--image-column", "--root") if parsed.one(flag) is not None]
    if stray and parsed.one("--csv") is None:
        raise UserError(f"{', '.join(stray)} has no use without --csv")
    csv, out = parsed.one("--csv"), parsed.one("--out")
    if csv and out and _path(csv).resolve() == _path(out).resolve():
        raise UserError(f"--out {out} is the table of --csv itself; choose another name")


def _wish(parsed: Parsed, out: Path, ours: tuple[Path, ...]) -> Wish:
    from dam.inference.images import Asked
    from dam.inference.predict import Wish
    from dam.inference.predict_decode import default_workers
    from dam.inference.predict_scores import Wanted

    columns = parsed.one("--columns")
    csv, root = parsed.one("--csv"), parsed.one("--root")
    wanted = Wanted(
        copies=_number(parsed, "--tta", 0),
        columns=tuple(name.strip() for name in columns.split(",") if name.strip()) if columns else None,
        batch_size=_number(parsed, "--batch-size", 1),
        window=_window(parsed.words),
        workers=_number(parsed, "--workers", 1) or default_workers(),
    )
    asked = Asked(
        tuple(parsed.items[1:]),
        _path(csv) if csv else None,
        parsed.one("--image-column"),
        _path(root) if root else None,
        ours,
    )
    return Wish(asked, out, parsed.one("--model"), wanted, "--restart" in parsed.switches)


def _window(words: list[str]) -> Any:
    """The value of ``data.window=``, checked; None where it is not given."""
    import yaml

    from dam.data.window import check_window

    if not words:
        return None
    key, _, value = words[-1].partition("=")
    others = [word for word in words if word.partition("=")[0] != "data.window"]
    if others or len(words) > 1:
        raise UserError(f"`dam predict` takes one key, data.window, not {(others or words)[0]}")
    try:
        window = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"{key}={value}: give full, stretch, file or [low,high]") from error
    if isinstance(window, list) and all(isinstance(end, int | float) for end in window):
        window = [float(end) for end in window]
    elif not isinstance(window, str):
        raise UserError(f"{key}={value}: give full, stretch, file or [low,high]")
    check_window(window)
    return window


def _number(parsed: Parsed, flag: str, least: int) -> int | None:
    text = parsed.one(flag)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise UserError(f"{flag} {text}: a whole number >= {least}")
    return int(text)


def _precision(parsed: Parsed) -> str | None:
    given = parsed.one("--precision")
    return None if given is None else choice(given, ("auto", "fp32", "bf16", "fp16"), "--precision")


def _explain_wish(parsed: Parsed, out: Path) -> Explain | None:
    folder = parsed.one("--explain-dir")
    flags = [flag for flag in ("--explain-label", "--explain-max") if parsed.one(flag) is not None]
    if folder is None and "--explain" not in parsed.switches:
        if flags:
            raise UserError(f"{', '.join(flags)} has no use without --explain")
        return None
    from dam.inference.explain import Explain, check_installed
    from dam.inference.predict_files import explain_name

    check_installed()
    where = _path(folder) if folder else explain_name(out)
    return Explain(where, parsed.one("--explain-label"), _number(parsed, "--explain-max", 1) or EXPLAINED)


# ---------------------------------------------------------------- what is said


def _show(done: Predicted) -> None:
    summary = done.summary
    rate = f", {done.made / done.seconds:.1f} images/s" if done.made else ""
    labels = len(done.judge.labels)
    print(
        f"{done.out}: {summary.scored} images, {labels} label{'s' * (labels != 1)}{rate}\n"
        f"scores: {', '.join(done.judge.columns)}; probability and decision: {done.judge.model}"
    )
    for note in done.notes:
        print(note)
    lost = []
    if summary.failed:
        lost.append(f"{summary.failed} image{'s' * (summary.failed != 1)} could not be read")
    if summary.skipped:
        lost.append(f"{summary.skipped} file{'s' * (summary.skipped != 1)} left out")
    if lost:
        print(f"{', '.join(lost)}, listed in {done.failed}:")
        for name, reason in summary.first or []:
            print(f"  {printable(name)}: {reason}")
        more = summary.failed + summary.skipped - len(summary.first or [])
        if more:
            print(f"  and {more} more")


def _explain(loaded: LoadedRun, done: Predicted, explain: Explain, wish: Wish) -> None:
    from dam.inference.explain import explain_table

    made = explain_table(loaded, done, explain, wish.wanted)
    for note in made.notes:
        print(note)
    print(f"{made.folder}: {made.count} overlays, listed in {made.index.name}")
