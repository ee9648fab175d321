"""Imports go down the house only, and the command line starts without anything heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "dam"
HEAVY = ("torch", "pandas", "timm", "hydra", "omegaconf", "albumentations", "matplotlib", "sklearn", "scipy", "numpy")
FLOOR = {
    "processes",
    "memory",
    "config",
    "config_data",
    "errors",
    "files",
    "schema",
    "compose",
    "overrides",
    "config_checks",
    "config_files",
}
# Room -> the rooms of dam it may import.
MAY = {
    "evaluation": FLOOR,
    "objectives": FLOOR,
    "data": FLOOR,
    "models": FLOOR,
    "training": FLOOR | {"evaluation", "objectives", "data", "models", "report"},
    "report": FLOOR | {"evaluation"},
    "pretraining": FLOOR | {"evaluation", "objectives", "data", "models", "training", "report"},
    "inference": FLOOR | {"evaluation", "objectives", "data", "models", "training", "report"},
    "studies": FLOOR
    | {"evaluation", "objectives", "data", "models", "training", "pretraining", "inference", "report", "sweep"}
    | {"sweep_resume"},
    "commands": FLOOR
    | {"evaluation", "objectives", "data", "models", "training", "inference", "report", "sweep", "cli"}
    | {"pretraining", "studies"},
}


def imported_rooms(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dam"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dam.")}
    return names - {"__version__"}


@pytest.mark.parametrize("room", MAY)
def test_imports_only_go_down(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        foreign = imported_rooms(path) - MAY[room] - {room}
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_evaluation_and_report_know_no_torch() -> None:
    for room in ("evaluation", "report"):
        for path in sorted((ROOT / room).rglob("*.py")):
            assert not re.search(r"^\s*(import|from) torch", path.read_text(encoding="utf-8"), re.MULTILINE), path


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        *([verb, "--help"] for verb in ("train", "pretrain", "data", "weights", "study", "list")),
    ],
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from dam.cli import main; code = main(sys.argv[1:]); "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert result.stdout.strip()


def test_no_module_is_long_and_no_file_is_called_utils() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
        assert path.name != "utils.py"


def test_no_config_names_code() -> None:
    for path in sorted((ROOT.parent / "configs").rglob("*.yaml")):
        assert "_target_" not in path.read_text(encoding="utf-8"), path
