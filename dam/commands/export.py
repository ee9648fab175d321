"""``dam export``: a run's model as one file for other programs, checked against the run before it is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote

from dam.commands.flags import choice, parse
from dam.errors import UserError

HELP = """
usage: dam export RUN --format onnx|pt2|safetensors [options]

Writes all diseases of a model into one file. Input: uint8 images (N, size, size, channels), any N; normalization is
in the graph, decoding and resizing are not. Outputs: logits (N, K) and calibrated probabilities (N, K). Labels,
thresholds, calibration and what the input must be lie in the file's metadata. Beside an ONNX file comes NAME_run.py,
which scores image files with onnxruntime, numpy and Pillow alone. The fold runs of a cross-validation become one file:
the mean of their logits.

The file is compared with the run's own networks on 100 images before it is kept: a float32 file that differs by more
than 1e-4 is removed, exit code 1. For --half and --int8 the difference is told, and the AUC it costs on validation.

examples:
  dam export outputs/quickstart/2026-01-31_12-00-00 --format onnx
  dam export outputs/quickstart/2026-01-31_12-00-00 --format onnx --model blend --int8 --val-images images

options:
  --format F          onnx (needs pip install "dam[export]"), pt2 (torch.export.load(FILE).module()), or safetensors
                      (bare weights of timm networks, described in a .json beside them)
  --model NAME        auc (default), ce, focal, warm_start or blend: a score column of the run's predictions
  --out FILE          default: RUN/export/EXPERIMENT_MODEL.FORMAT; a file that is there is replaced
  --half fp16         float16 weights and features (half the size); heads stay in float32
  --int8              8-bit integers (a quarter of the size), onnx only; ranges are taken from the images compared on
  --images FOLDER     compare on these images (at most 100), instead of validation images or generated ones
  --val-images FOLDER where the run's validation images are now, if no longer where they were

A .pt2 file of others may execute code when torch loads it (dam's holds plain tensors, but torch.export.load runs the
pickle that a file brings); ONNX and safetensors files cannot.
"""
_FLAGS = ("--format", "--model", "--out", "--half", "--images", "--val-images")


def run(arguments: list[str]) -> int:
    """Export what the words name; returns the exit code."""
    parsed = parse(arguments, _FLAGS, ("--int8",), "export")
    if len(parsed.items) + len(parsed.words) != 1:
        raise UserError("`dam export` takes one run directory, such as outputs/NAME/DATE_TIME; see `dam export --help`")
    path = Path([*parsed.items, *parsed.words][0]).expanduser()
    form = parsed.one("--format")
    if form is None:
        raise UserError(f"say what file it shall be: dam export {quote(str(path))} --format onnx|pt2|safetensors")
    choice(form, ("onnx", "pt2", "safetensors"), "--format")
    half, int8 = parsed.one("--half"), "--int8" in parsed.switches
    choice(half, ("fp16",), "--half")
    if half and int8:
        raise UserError("--half and --int8 exclude one another: choose one")
    if int8 and form != "onnx":
        raise UserError(f"--int8 is for --format onnx, not {form}")
    if not path.is_dir():
        raise UserError(f"there is no run directory {path}; `dam runs` lists those under outputs/")
    from dam.inference.export import ExportDiffers, Wish, export

    out, images = parsed.one("--out"), parsed.one("--images")
    wish = Wish(
        form,
        parsed.one("--model"),
        "int8" if int8 else half or "fp32",
        Path(out).expanduser() if out else None,
        Path(images).expanduser() if images else None,
        parsed.one("--val-images"),
    )
    try:
        done = export(path, wish)
    except ExportDiffers as error:
        print(f"dam: failed: {error}", file=sys.stderr)
        return 1
    for file in done.files:
        print(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
    print(f"{done.model} of {', '.join(done.labels)} ({done.networks} networks, {wish.precision})")
    checked = done.checked
    print(
        f"largest difference to PyTorch on {checked.source}: {checked.difference:.2g}\n"
        f"seconds per image, this CPU: {form} {checked.seconds:.4f}, PyTorch {checked.torch_seconds:.4f}"
    )
    if done.lines:
        print("\n".join(done.lines))
    return 0
