"""Dependency audit and secret scan, as ``.ci/run`` does them: ``python scripts/audit.py``. Needs no network.

Dependencies: every requirement of pyproject.toml has a lower bound that admits no release with a known hole, and the
version of constraints.txt satisfies it. Where pip-audit is installed and reaches an advisory database, it is asked
about constraints.txt as well; what it could not look up is said.
Secrets: no tracked (or new, not ignored) file holds a key, a token, a password, a private address or a path of
somebody's machine. A line that must hold such a thing ends in ``audit: allow`` with the reason.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
ALLOW = "audit: allow"

# The first release without the hole, and which it is. Holes that only matter for what dam does not call are left out.
SAFE = {
    "joblib": ("1.2.0", "CVE-2022-21797, code run from an argument"),
    "onnx": ("1.17.0", "CVE-2024-5187, files written outside their folder"),
    "opencv-python-headless": ("4.8.1.78", "CVE-2023-4863, WebP heap overflow"),
    "pillow": ("10.3.0", "CVE-2024-28219, buffer overflow"),
    "pydantic": ("2.4.0", "CVE-2024-3772, regular expression that never ends"),
    "pyyaml": ("5.4", "CVE-2020-14343, code run by full_load"),
    "scikit-learn": ("1.5.0", "CVE-2024-5206, training data kept in a model"),
    "torch": ("2.6.0", "CVE-2025-32434, code run by torch.load(weights_only=True)"),
    "tqdm": ("4.66.3", "CVE-2024-34062, code run from an argument"),
}

SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "an AWS key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,})",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]+:[^\s/:@'\"{}$]+@",
    "a password": r"(?i)\b(password|passwd|secret|(api|auth|access)_?(key|token))\b\s*[=:]\s*['\"][^'\"\s]{8,}['\"]",
    "a private address": r"\b(10\.\d{1,3}|192\.168|172\.(1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}\b",
    "a path of somebody's machine": r"(?<![\w.])/(home|Users|root)/\.?[a-z][\w-]+/|[A-Z]:\\Users\\\w",
}
_RANDOM = re.compile(r"['\"]([A-Za-z0-9+/_=-]{32,})['\"]")
MOST_BITS = 4.6  # bits a character, above which a quoted word is taken for a key; prose and names stay below 4.3


# ---------------------------------------------------------------- dependencies


def requirements(project: str) -> Iterator[tuple[str, Requirement]]:
    """(group, requirement) of a pyproject.toml; ``dependencies``, and the extras by their names."""
    content = tomllib.loads(project)
    groups = {"dependencies": content["project"]["dependencies"], **content["project"]["optional-dependencies"]}
    for group, lines in groups.items():
        for line in lines:
            yield group, Requirement(line)


def check_dependencies(project: str, constraints: str) -> list[str]:
    """What is wrong with the bounds and the constraints, a sentence each."""
    faults = []
    pins: dict[str, str] = {}
    for line in constraints.splitlines():
        name, equals, version = line.partition("==")
        if not line.strip() or line.startswith("#"):
            continue
        if not equals:
            faults.append(f"constraints.txt: {line} is no name==version")
            continue
        name = _plain(name)
        if name in pins:
            faults.append(f"constraints.txt names {name} twice")
        pins[name] = version.strip()
        faults += _holes(name, version.strip(), "constraints.txt")
    tested = {"dependencies", "dev"}  # what the suite runs with
    for group, wanted in requirements(project):
        name = _plain(wanted.name)
        if wanted.url:
            faults.append(f"pyproject.toml, {group}: {name} comes from an address instead of an index")
            continue
        lower = [spec.version for spec in wanted.specifier if spec.operator in (">=", "==", "~=", ">")]
        if not lower and not wanted.specifier:
            faults.append(f"pyproject.toml, {group}: {name} has no bound")
        faults += [fault for version in lower for fault in _holes(name, version, f"pyproject.toml, {group}")]
        if name not in pins:
            if group in tested:
                faults.append(f"pyproject.toml, {group}: {name} is not in constraints.txt")
        elif not SpecifierSet(str(wanted.specifier)).contains(pins[name], prereleases=True):
            faults.append(f"pyproject.toml, {group}: {wanted} does not admit constraints.txt's {pins[name]}")
    return list(dict.fromkeys(faults))


def _holes(name: str, version: str, where: str) -> list[str]:
    if name in SAFE and Version(version) < Version(SAFE[name][0]):
        return [f"{where}: {name} {version} has a known hole ({SAFE[name][1]}); {SAFE[name][0]} is the first without"]
    return []


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def ask_pip_audit(constraints: Path) -> tuple[list[str], str]:
    """(faults, what was not looked up); no faults where there is no pip-audit or no database in reach."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(constraints), "--no-deps", "--disable-pip", "-f", "json",
               "--progress-spinner", "off", "--timeout", "10"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        lines = (done.stderr or done.stdout).strip().splitlines()
        return [], f"pip-audit: skipped ({lines[-1].strip() if lines else 'it said nothing'})"
    holes = [(f"{one['name']} {one.get('version')}", hole) for one in found for hole in one.get("vulns", ())]
    faults = [
        f"{what}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no release'}" for what, hole in holes
    ]
    unknown = sum("skip_reason" in dependency for dependency in found)
    return faults, f"pip-audit: {len(found) - unknown} of {len(found)} versions looked up"


# ---------------------------------------------------------------- secrets


def find_secrets(text: str) -> Iterator[tuple[int, str]]:
    """(line, what it seems to hold) of a text."""
    for number, line in enumerate(text.splitlines(), start=1):
        if ALLOW in line:
            continue
        for what, pattern in SECRETS.items():
            if re.search(pattern, line):
                yield number, what
        if any(_bits(word) > MOST_BITS and not _is_plain(word) for word in _RANDOM.findall(line)):
            yield number, "a word as random as a key"


def _bits(word: str) -> float:
    """Shannon entropy a character."""
    return -sum(n / len(word) * math.log2(n / len(word)) for n in (word.count(letter) for letter in set(word)))


def _is_plain(word: str) -> bool:
    """An alphabet, a path or words joined by signs: many letters, but no key."""
    return bool(re.search(r"abcdef|ABCDEF|012345|/\w+/", word)) or all(len(p) < 16 for p in re.split(r"[-_/+=]", word))


def files(root: Path) -> Iterable[Path]:
    """Tracked files and new ones that are not ignored."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True,
                            text=True, check=True).stdout  # fmt: skip
    return [root / name for name in listed.split("\0") if name and (root / name).is_file()]


def scan(root: Path) -> list[str]:
    """What the files of a checkout hold that they should not, ``file:line: what``."""
    found = []
    for path in files(root):
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(root)}:{line}: {what}" for line, what in find_secrets(text)]
    return found


def main() -> int:
    """Print what was found; 1 if it was anything."""
    constraints = ROOT / "constraints.txt"
    faults = check_dependencies((ROOT / "pyproject.toml").read_text("utf-8"), constraints.read_text("utf-8"))
    holes, told = ask_pip_audit(constraints)
    secrets = scan(ROOT)
    for fault in (*faults, *holes, *secrets):
        print(fault)
    print(f"audit: {len(faults) + len(holes)} faults of dependencies, {len(secrets)} of secrets; {told}")
    return int(bool(faults or holes or secrets))


if __name__ == "__main__":
    sys.exit(main())
