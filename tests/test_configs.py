"""The files of ``configs/``: they compose, are in range, and explain every key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dam.compose import compose, from_yaml, to_yaml
from dam.config_files import ELSEWHERE, GROUPS, PARTS, STAGES, choices, config_dir, summary
from dam.schema import all_keys
from dam.sweep import make_plan

# What a choice needs beside itself to make sense.
NEEDS = {
    **{f"data={name}": ["data.root=/x"] for name in choices("data") if name != "phantom"},
    "auc=none": ["control=none"],
    "pretrain=moco": ["warm_start=none", "auc=none"],
    "auc.optimizer=pesg": ["auc=auc_margin"],
    "auc.sampler=shuffle": ["auc=auc_margin", "auc.loss.prior=train"],
}
HEADER = ("Source:", "Command:", "Hardware:", "Time:", "Expect:", "Departs:")


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_composes_and_goes_through_yaml(name: str) -> None:
    config = compose([f"+experiment={name}", "data.root=/x"])
    assert config.name == name
    assert from_yaml(to_yaml(config)) == config


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_says_where_it_comes_from(name: str) -> None:
    lines = (config_dir() / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    head = "\n".join(line for line in lines if line.startswith("#"))
    assert [word for word in HEADER if f"# {word}" not in head] == []
    assert f"dam {'pretrain' if name.startswith('moco_') else 'train'} +experiment={name}" in head


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_survives_the_choices_a_user_may_make(name: str) -> None:
    base = [f"+experiment={name}", "data=phantom", "pretrain=none"]
    compose([*base, "auc=none", "control=none", "metadata=none", "warm_start=ce"])
    config = compose([*base, "auc=ce", "control=none", "auc.optimizer=adam"])
    assert config.auc is not None and config.auc.optimizer.lr == 1e-4


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_every_group_composes(group: str) -> None:
    for name in choices(group) if group != "model" else ("timm", "resnet10t"):
        compose([f"{group}={name}", *NEEDS.get(f"{group}={name}", [])])


def test_every_model_file_starts_from_timm_and_sets_its_keys_only() -> None:
    tree = yaml.safe_load((config_dir() / "model" / "timm.yaml").read_text())
    for name in choices("model"):
        other = yaml.safe_load((config_dir() / "model" / f"{name}.yaml").read_text())
        assert other.pop("defaults", ["timm", "_self_"]) == ["timm", "_self_"]
        assert set(other) <= set(tree) and isinstance(other["name"], str)


@pytest.mark.parametrize("part", PARTS)
def test_every_choice_within_the_auc_stage_composes(part: str) -> None:
    for name in choices(part):
        compose([f"auc.{part}={name}", *NEEDS.get(f"auc.{part}={name}", [])])


@pytest.mark.parametrize("name", choices("sweep"))
def test_every_sweep_file_makes_jobs(name: str, tmp_path: Path) -> None:
    needs = {"focal": ["auc=focal"], "architectures": ["data.root=/x"], "imratio": ["data=cifar10", "data.root=/x"]}
    extra = needs.get(name, ["auc=auc_margin"])
    plan = make_plan([*extra, f"+sweep={name}", f"run_dir={tmp_path}"])
    assert f"{len(plan.jobs)} runs" in summary("sweep", name) or name == "seeds"


def commented_keys(path: Path) -> dict[str, bool]:
    """Dotted keys of a file -> whether a comment stands on their line or on the lines right above."""
    told: dict[str, bool] = {}
    above = False
    stack: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            above = text.startswith("#") if text else False
            continue
        indent = len(line) - len(line.lstrip())
        key = text.partition(":")[0]
        if not text.startswith("-") and ":" in text:
            stack = [entry for entry in stack if entry[0] < indent] + [(indent, key)]
            told[".".join(name for _, name in stack)] = above or " # " in line
            # One comment may serve the keys that follow it without a blank line.
        elif not text.startswith("-"):
            above = False
    return told


def test_every_key_of_the_schema_is_explained_where_its_value_is_chosen() -> None:
    explained: set[str] = set()
    folder = config_dir()
    told = commented_keys(folder / "train.yaml")
    explained |= {key for key, said in told.items() if said}
    for group in GROUPS:
        for path in (folder / group).glob("*.yaml"):
            explained |= {f"{group}.{key}" for key, said in commented_keys(path).items() if said}
    for part in PARTS:
        keys = {key for path in (folder / part).glob("*.yaml") for key, said in commented_keys(path).items() if said}
        explained |= {f"{stage}.{part}.{key}" for stage in (*STAGES, "pretrain") for key in keys}
    for mount, group in ELSEWHERE.items():
        explained |= {f"{mount}{key.removeprefix(group)}" for key in explained if key.startswith(f"{group}.")}
    missing = [key for key in all_keys() if key not in explained and not key.endswith(".name")]
    assert missing == []


def test_every_value_in_the_files_of_parts_has_its_comment_on_its_line() -> None:
    for part in (*PARTS, "model"):
        for path in (config_dir() / part).glob("*.yaml"):
            keys = {key for key in yaml.safe_load(path.read_text()) if key != "defaults"}
            silent = [key for key in keys if not commented_keys(path)[key]]
            assert silent == [], path
