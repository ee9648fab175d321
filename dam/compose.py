"""From YAML files and overrides to a checked ``Config``; and a ``Config`` to YAML and back.

Hydra's Compose API merges the files, the values typed by the user are laid over them here, and ``dam.schema`` checks
the result: so all faults of a command line come out at once, and none of them leaves anything on disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from dam.config import Config
from dam.config_checks import cross_faults
from dam.config_files import CAN_BE_NONE, GROUPS, LAYERS, STAGES, config_dir
from dam.errors import UserError
from dam.overrides import CODE, PATH_KEYS, Setting, names_code, open_parent, read, several
from dam.schema import REGISTRIES, ConfigError, Fault, check, hints, show, to_plain


def compose(overrides: Sequence[str]) -> Config:
    """The config of ``dam train <overrides>``.

    Accepts the overrides in every form that ``dam.overrides`` lists. Raises ``ConfigError`` (a ``UserError``) with all
    faults at once: unknown keys and choices, types, ranges, and combinations that make no sense.
    """
    config, faults = examine(overrides)
    if faults or config is None:
        raise ConfigError(faults)
    return with_absolute_paths(config)


def examine(overrides: Sequence[str]) -> tuple[Config | None, list[Fault]]:
    """Compose and check without raising for what the user typed; paths stay as typed."""
    settings, faults = read(overrides)
    config, found = examine_settings(settings)
    return config, faults + found


def examine_settings(settings: Sequence[Setting]) -> tuple[Config | None, list[Fault]]:
    """The same from overrides that are read already."""
    faults = [_not_alone(setting) for setting in settings if _only_in_sweeps(setting)]
    settings = [setting for setting in settings if not _only_in_sweeps(setting)]
    picked = tuple((setting.key, str(setting.value)) for setting in settings if setting.kind == "choice")
    base, off = _layers(picked)
    tree = _copy(base)
    implied = [setting for setting in _other_lengths(settings) if setting.key.partition(".")[0] not in off]
    for setting in [*settings, *implied]:
        if (setting.kind == "choice" and setting.key in (*LAYERS, *CAN_BE_NONE)) or setting.kind == "hydra":
            continue
        fault = _blocked(tree, setting, off) or (_lay(tree, setting) if setting.kind != "choice" else None)
        if fault:
            faults.append(fault)
    found, config = _check_trees(tree, base)
    return config, faults + found


def _check_trees(tree: Any, base: Any) -> tuple[list[Fault], Config | None]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    plain_base = OmegaConf.to_container(base, resolve=True)
    try:
        plain = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        where, reason = error.full_key or "the config", str(error).splitlines()[0]
        return [Fault("", f"{where} holds a reference that cannot be resolved ({reason}): write its value")], None
    if names_code("", plain):
        return [Fault("", f"the config is refused: it names a Python object ({' or '.join(CODE)})")], None
    config, faults = check(plain, plain_base)
    if config is None:
        return faults, None
    wrong = {fault.key for fault in faults}
    return faults + [fault for fault in cross_faults(config) if fault.key not in wrong], config


# ---------------------------------------------------------------- the files


@lru_cache(maxsize=256)
def _layers(picked: tuple[tuple[str, str], ...]) -> tuple[Any, dict[str, str]]:
    """The merged files for these choices, and the stages that are off with the word that says so.

    What an experiment sets inside a group holds for the choice the experiment itself made there: with
    ``+experiment=x auc.optimizer=adamw`` its learning rate for PESG must not reach AdamW. So where the user's choice
    differs, that group's node comes from its own file alone.
    """
    composed, chosen = _hydra_compose(picked)
    tree = _copy(composed)  # the composed one is shared with later calls
    layers = tuple((key, name) for key, name in picked if key in LAYERS)
    if layers and layers != picked:
        _, before = _hydra_compose(layers)
        plain, _ = _hydra_compose(tuple((key, name) for key, name in chosen.items() if key not in LAYERS))
        for key, name in chosen.items():
            if before.get(key, name) != name and key not in STAGES:
                _put(tree, key, _get(plain, key))
    for key, _ in picked:
        if key not in (*LAYERS, *GROUPS) and (node := _get(tree, key)) is not None:
            _drop_foreign(node)
    off = {stage: chosen[stage] for stage in CAN_BE_NONE if chosen[stage] == "none"}
    for stage in off:
        tree[stage] = None
    return tree, off


def _drop_foreign(node: Any) -> None:
    """With ``auc=auc_direct auc.loss=ce``, what auc_direct.yaml sets of its margin loss is no key of cross-entropy."""
    registry = next((registry for registry in REGISTRIES.values() if node.get("name") in registry), {})
    for key in [key for key in node if key not in hints(registry[node["name"]])] if registry else []:
        del node[key]


@lru_cache(maxsize=256)
def _hydra_compose(picked: tuple[tuple[str, str], ...]) -> tuple[Any, dict[str, str]]:
    """Hydra's composition of ``configs/train.yaml`` with these choices -> (tree, choice of every mount)."""
    from hydra import compose as hydra_compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import open_dict

    words = [Setting("choice", key, name, name).hydra for key, name in picked]
    outer = GlobalHydra.instance().hydra  # a job of a sweep runs inside Hydra already
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), job_name="dam", version_base="1.3"):
            tree = hydra_compose("train", overrides=words, return_hydra_config=True)
    except HydraException as error:
        raise UserError(f"the files of {config_dir()} do not fit together: {_one_line(error)}") from error
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
    chosen = {}
    for key, name in tree.hydra.runtime.choices.items():
        if not str(key).startswith("hydra/") and name is not None:
            chosen[str(key).rpartition("@")[2]] = str(name)
    with open_dict(tree):
        del tree["hydra"]
    return tree, chosen


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _copy(tree: Any) -> Any:
    import copy

    from omegaconf import OmegaConf

    tree = copy.deepcopy(tree)
    OmegaConf.set_struct(tree, False)
    return tree


def _get(tree: Any, key: str) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.select(tree, key)


def _put(tree: Any, key: str, node: Any) -> None:
    from omegaconf import OmegaConf

    OmegaConf.update(tree, key, node, merge=False, force_add=True)


# ---------------------------------------------------------------- what the user typed


def _only_in_sweeps(setting: Setting) -> bool:
    return setting.sweep is not None or setting.kind == "hydra" or setting.key in ("sweep", "sweep.resume")


def _not_alone(setting: Setting) -> Fault:
    if setting.sweep is None:
        return Fault(setting.key, f"{setting.key}={setting.text} belongs to a sweep: add -m")
    return Fault(setting.key, several(setting))


def _blocked(tree: Any, setting: Setting, off: dict[str, str]) -> Fault | None:
    """The fault of a key below something that has no keys: a stage that is off, a number, a word."""
    stage = setting.key.partition(".")[0]
    if stage in off and stage != setting.key:
        named = {"auc": "auc=auc_direct", "metadata": "metadata=mlp", "pretrain": "pretrain=moco"}
        first = named.get(stage, f"{stage}=ce")
        return Fault(setting.key, f"{setting.key} has no effect: {stage}={off[stage]} here; choose {first} first")
    names = setting.key.split(".") if open_parent(setting.key) is None else []
    for end in range(1, len(names)):
        above = ".".join(names[:end])
        node = _get(tree, above)
        if node is not None and not hasattr(node, "_metadata"):
            return Fault(setting.key, f"{setting.key} is not a key: {above} is {show(node)} and has no keys below it")
    return None


def _other_lengths(settings: Sequence[Setting]) -> list[Setting]:
    """``auc.steps=100`` alone takes the place of the ``auc.epochs`` of the files, and the other way round."""
    typed = {setting.key for setting in settings if setting.kind == "value" and setting.value is not None}
    lengths = (("epochs", "steps"), ("steps", "epochs"))
    pairs = [(f"{stage}.{a}", f"{stage}.{b}") for stage in (*STAGES[:2], "pretrain") for a, b in lengths]
    return [Setting("value", other, "null", None) for key, other in pairs if key in typed and other not in typed]


def _lay(tree: Any, setting: Setting) -> Fault | None:
    """Lay one typed value over the tree."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parent = open_parent(setting.key)
    name = setting.key[len(parent) + 1 :] if parent else ""
    if setting.kind == "delete":
        table = _get(tree, cast(str, parent))
        if table is None or name not in table:
            return Fault(setting.key, f"~{setting.key}: there is no such entry to delete")
        del table[name]
        return None
    key, value = (parent, {name: setting.value}) if parent else (setting.key, setting.value)
    try:
        OmegaConf.update(tree, key, value, merge=True, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        return Fault(setting.key, f"{setting.key} cannot be set: {_one_line(error)}")
    return None


# ---------------------------------------------------------------- resume

MAY_MOVE = ("device", "workers", "tracking.", "checkpoint.", "evaluation.")
_MAY_GROW = tuple(f"{part}.{unit}" for part in ("warm_start", "auc", "pretrain") for unit in ("epochs", "steps"))
_NUMBERS = ("seed", "batch_size", "accumulate", "precision", "deterministic", "compile", "memory_format", "image_size")

_OWN_REASON = {
    "dry_run": "a dry run plans a new run, and this one has its plan",
    "run_dir": "the run goes on in its own directory",
    "name": "the run goes on in its own directory",
    "debug": "it is chosen when a run starts",
    "limit_batches": "it is chosen when a run starts",
    "select": "which weights are kept was decided while they were trained",
    "report.anonymize": "the names in its files are written already",
}


def resume_changes(old: Config, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """A run's config with the changes that resuming allows, and the keys that did change.

    Allowed are keys that only move a run (device, workers, tracking.*, checkpoint.*), those of its report
    (evaluation.*) and the lengths of stages; whether a stage can still grow is the run's own decision. A key given at
    its present value changes nothing. Everything else is refused by name with the reason, all at once, as a
    ``ConfigError``.
    """
    settings, faults = read(overrides)
    tree = to_plain(old)
    accepted = []
    for setting in [*settings, *_other_lengths(settings)]:
        fault = _refused_on_resume(old, setting)
        if fault:
            faults.append(fault)
        elif setting.kind == "value" and _lay_plain(tree, setting):
            accepted.append(setting.key)
    config, found = check(tree, to_plain(old))
    if config is not None and not found:
        found = cross_faults(config)
    if faults or found or config is None:
        raise ConfigError(faults + found)
    return config, accepted


def _refused_on_resume(old: Config, setting: Setting) -> Fault | None:
    key = setting.key
    if setting.sweep is not None or setting.kind == "hydra":
        return Fault(key, f"{key} cannot be set with resume=: one run goes on, as it is")
    stage = key.partition(".")[0]
    if stage in CAN_BE_NONE and key != stage and getattr(old, stage) is None:
        return Fault(key, f"{key}: this run has no {stage}")
    known = setting.kind != "value" or _known(to_plain(old), key)
    if not known or key in _MAY_GROW or key.startswith(MAY_MOVE):
        return None
    if setting.kind == "value" and setting.value == value_at(old, key):
        return None
    if key in _OWN_REASON:
        return Fault(key, f"{key} cannot be set with resume=: {_OWN_REASON[key]}; leave it out")
    if key in _NUMBERS:
        reason = "it changes the numbers, so the run would no longer be the one it began as"
    elif stage in ("data", "augment"):
        reason = "the run's first part was trained on other images"
    else:
        reason = "it would be another experiment"
    return Fault(key, f"{key} cannot change with resume= ({reason}); start a new run, with warm_start.run=<this run> "
                 "if it may begin from this one's warm start")  # fmt: skip


def _known(tree: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return open_parent(key) is not None
        tree = tree[name]
    return True


def _lay_plain(tree: dict[str, Any], setting: Setting) -> bool:
    """Set a value in plain dicts; False if it was that already."""
    *above, last = setting.key.split(".")
    for name in above:
        inner = tree.get(name)
        if not isinstance(inner, dict):
            inner = tree[name] = {}
        tree = inner
    changed = last not in tree or tree[last] != setting.value
    tree[last] = setting.value
    return changed


# ---------------------------------------------------------------- paths, YAML


def with_absolute_paths(config: Config) -> Config:
    """Paths typed relative to the working directory, made absolute: a run can then be resumed from anywhere."""
    root = Path(config.data.root).expanduser().absolute() if config.data.root else None
    for key in PATH_KEYS:
        value = value_at(config, key)
        if not isinstance(value, str) or (key == "model.weights" and not _is_file_name(value)):
            continue
        path = Path(value).expanduser()
        if key in ("data.csv", "data.test_csv") and root is not None and not path.exists() and (root / path).exists():
            path = root / path
        config = with_value(config, key, str(path.absolute()))
    more, columns = value_at(config, "data.more_roots"), value_at(config, "data.column_roots")
    if more:
        config = with_value(config, "data.more_roots", [_absolute(folder) for folder in more])
    if columns:
        config = with_value(config, "data.column_roots", {name: _absolute(folder) for name, folder in columns.items()})
    return config


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _is_file_name(weights: str) -> bool:
    path = Path(weights).expanduser()
    return path.is_file() or path.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".tar", ".bin")


def value_at(config: Any, key: str) -> Any:
    """The value of a dotted key, None below a node that is off or lacks it."""
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def with_value(config: Any, key: str, value: Any) -> Any:
    """A copy with one dotted key replaced (unchecked)."""
    name, _, rest = key.partition(".")
    inner = with_value(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})


def to_yaml(config: Config) -> str:
    """The whole config as YAML, in the order of the schema; ``from_yaml`` gives an equal config back."""
    import yaml

    text: str = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120)
    return text


def read_config(path: Path) -> Config:
    """The config in a run's own ``config.yaml``. Raises ``UserError`` for a damaged one."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text: it was damaged; put back a copy of it, or start a new run") from error
    return from_yaml(text, str(path))


def from_yaml(text: str, where: str = "config.yaml") -> Config:
    """The config of a run's own ``config.yaml``, through the same checks; ``where`` names the file in errors."""
    import yaml

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"{where} is no YAML{line}: it was damaged or cut off; put back a copy of it") from error
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else "holds no keys"
        raise UserError(f"{where} {what}: it was damaged or cut off; put back a copy of it, or start a new run")
    config, faults = check(tree)
    if config is not None and not faults:
        faults = cross_faults(config)
    if faults or config is None:
        listing = "; ".join(fault.text for fault in faults[:5]) or "it holds no keys"
        raise UserError(f"{where} was written by another version of dam or changed by hand: {listing}")
    return config
