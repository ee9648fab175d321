"""``scripts/audit.py``: this checkout passes, and what is planted is found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    return module


def test_this_checkout_has_bounds_and_no_secrets(audit: ModuleType) -> None:
    project, constraints = (ROOT / "pyproject.toml").read_text(), (ROOT / "constraints.txt").read_text()
    assert audit.check_dependencies(project, constraints) == []
    if (ROOT / ".git").exists():
        assert audit.scan(ROOT) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("-----BEGIN RSA PRIVATE" + " KEY-----", "a private key"),
        ("key = AKIA" + "ABCDEFGHIJKLMNOP", "an AWS key"),
        ("ghp_" + "a1B2" * 9, "a GitHub token"),
        ("hf_" + "a1B2" * 9, "a Hugging Face token"),
        ("sk-" + "a1B2" * 9, "an API key"),
        ("https://user:" + "geheim@example.org/x", "a password in an address"),
        ("pass" + "word = 'correct-horse'", "a password"),
        ("host: 192." + "168.1.17", "a private address"),
        ("root=/ho" + "me/meier/data", "a path of somebody's machine"),
        ("x = '" + "q8Zr2LmV0xYtB7nK" + "wE4uHs9PdJ3gFa6C" + "'", "a word as random as a key"),
    ],
)
def test_what_is_planted_is_found(audit: ModuleType, line: str, what: str) -> None:
    assert list(audit.find_secrets(f"harmless\n{line}\n")) == [(2, what)]
    assert list(audit.find_secrets(f"{line}  # {audit.ALLOW}: a test\n")) == []


@pytest.mark.parametrize(
    "line",
    ["sha256 = '" + "0123456789abcdef" * 4 + "'", "git+https://github.com/a/b", "version 1.10.20.3", "~/.cache/dam",
     "'densenet121-chexpert-warm-start-with-long-name-and-more'", "secret = open(path).read()"],
)  # fmt: skip
def test_what_is_harmless_is_not(audit: ModuleType, line: str) -> None:
    assert list(audit.find_secrets(line)) == []


def test_faulty_dependencies_are_named(audit: ModuleType) -> None:
    project = '[project]\ndependencies = ["a", "tqdm>=4.60", "b>=2", "c @ https://x.org/c.whl", "d>=1"]\n'
    project += '[project.optional-dependencies]\nmore = ["e>=1"]\n'
    told = audit.check_dependencies(project, "tqdm==4.70\nb==1.0\nB==1.0\nx>=2\na==1\ntorch==2.5\n")
    assert [fault.partition(" (")[0] for fault in told] == [
        "constraints.txt names b twice",
        "constraints.txt: x>=2 is no name==version",
        "constraints.txt: torch 2.5 has a known hole",
        "pyproject.toml, dependencies: a has no bound",
        "pyproject.toml, dependencies: tqdm 4.60 has a known hole",
        "pyproject.toml, dependencies: b>=2 does not admit constraints.txt's 1.0",
        "pyproject.toml, dependencies: c comes from an address instead of an index",
        "pyproject.toml, dependencies: d is not in constraints.txt",
    ]
