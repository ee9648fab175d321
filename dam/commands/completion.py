"""``dam completion``: shell completion of verbs, groups, keys and their words, from the schema alone."""

from __future__ import annotations

import typing
from typing import Any

from dam.commands.flags import KEYS
from dam.config_files import LAYERS, choices, group_of, mounts
from dam.errors import UserError
from dam.overrides import PATH_KEYS
from dam.schema import all_keys, literals, options

HELP = """
usage: dam completion bash|zsh|fish

Prints a script that completes verbs, config keys and choices.

examples:
  eval "$(dam completion bash)"                            in ~/.bashrc; zsh the same in ~/.zshrc
  dam completion fish > ~/.config/fish/completions/dam.fish
"""

# Where dam has no word to offer (`data.root=/da`), the shell completes paths.
# COMP_WORDBREAKS cuts words at '=': the line itself is completed and what stands before the cut is taken off again.
_BASH = r"""
_dam() {
    local line="${COMP_LINE:0:COMP_POINT}" word head
    word="${line##*[[:space:]]}"
    head=""
    if [[ "$COMP_WORDBREAKS" == *=* && "$word" == *=* ]]; then head="${word%=*}="; fi
    local IFS=$'\n'
    COMPREPLY=($(dam __complete "$line" 2>/dev/null))
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then return; fi
    COMPREPLY=("${COMPREPLY[@]#"$head"}")
    if [[ "${COMPREPLY[0]}" == *[=.] ]]; then compopt -o nospace; fi
}
complete -o bashdefault -o default -F _dam dam
"""
_ZSH = r"""
_dam() {
    local -a found
    found=(${(f)"$(dam __complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then
        compadd -Q -S '' -- $found
    else
        compset -P '*='
        _files
    fi
}
compdef _dam dam
"""
_FISH = """
function __dam_words
    dam __complete (commandline -cp) 2>/dev/null
end
complete -c dam -f -n 'count (__dam_words) >/dev/null' -a '(__dam_words)'
"""
_OPTIONS = {
    "train": ["-m", "--cfg", "--help"],
    "pretrain": ["--cfg", "--help"],
    "data": ["--images", "--out", "--help"],
}
_EXPORT = {"--format": ["onnx", "pt2", "safetensors"], "--half": ["fp16"],
           "--model": ["auc", "blend", "ce", "focal", "warm_start"]}  # fmt: skip
_WEIGHTS: dict[str, list[str]] = {"--model": [], "--channels": ["1", "3"], "--image-size": []}
_EXPORT_FLAGS = ["--format", "--model", "--out", "--half", "--int8", "--images", "--val-images"]
_WORDS = {
    "device": ["auto", "cpu", "cuda", "mps"],
    "hydra/launcher": ["basic", "joblib", "submitit_local", "submitit_slurm"],
    "hydra/sweeper": ["basic", "optuna"],
    "sweep.resume": ["true", "false"],
}
_FLAG_WORDS = {
    "--layout": ["long", "wide"],
    "--scores": ["probability", "logit"],
    "--split": ["test", "val"],
    "--mean": ["logits", "ranks", "scores"],
    "--weights": ["equal", "greedy"],
    "--device": _WORDS["device"],
    "--precision": ["auto", "fp32", "bf16", "fp16"],
}
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def run(arguments: list[str]) -> int:
    """Print the script of one shell."""
    if len(arguments) != 1 or arguments[0] not in _SCRIPTS:
        said = f", not {' '.join(arguments)}" if arguments else ""
        raise UserError(f"`dam completion` takes one of bash, zsh, fish{said}; see `dam completion --help`")
    print(_SCRIPTS[arguments[0]].strip())
    return 0


def answer(arguments: list[str]) -> int:
    """``dam __complete LINE``: the words that may stand at the end of this line, one a line."""
    for word in complete(" ".join(arguments)):
        print(word)
    return 0


def complete(line: str) -> list[str]:
    """Completions of the last word of a command line up to the cursor."""
    words = line.split()
    last = "" if line[-1:].isspace() or not words else words.pop()
    before = words[1:]
    if not before:
        from dam.cli import COMMANDS

        pool = [*COMMANDS, "--help", "--version"]
    elif before[0] == "list":
        pool = ["datasets", "models", "objectives", "experiments", "--help"]
    elif before[0] == "completion":
        pool = [*_SCRIPTS, "--help"]
    elif before == ["data"]:
        pool = ["check", "prepare", "--help"]
    elif before[0] == "runs":
        clean = ["clean"] if before == ["runs"] else []
        pool = ["--yes", "--help"] if "clean" in before else [*clean, "--filter", "--sort", "--csv", "--all", "--help"]
    elif before[0] == "weights":
        flags = [*_WEIGHTS, "--help"] if last.startswith("-") else []  # a file is the shell's to complete
        pool = ["inspect", "--help"] if len(before) == 1 else _WEIGHTS.get(before[-1], flags)
    elif before[0] == "export":
        pool = _EXPORT.get(before[-1], [*_EXPORT_FLAGS, "--help"])
    elif before[0] in ("evaluate", "compare", "predict", "report", "ensemble"):
        return _judging_words(before, last)
    elif before[-1] in ("-c", "--cfg"):
        pool = ["job"]
    elif before[0] in _OPTIONS:
        return [word for word in _OPTIONS[before[0]] if word.startswith(last)] + _config_words(last)
    elif before[0] == "study":
        return _study_words(before, last)
    else:
        pool = []
    return [word for word in pool if word.startswith(last)]


def _judging_words(before: list[str], last: str) -> list[str]:
    """Flags and their words; paths are left to the shell."""
    import importlib

    module = importlib.import_module(f"dam.commands.{before[0]}")
    if before[-1] in module.FLAGS:
        key = KEYS.get(before[-1])
        pool = _values(key) if key else _FLAG_WORDS.get(before[-1], list(choices("data")) * (before[-1] == "--data"))
        return [word for word in pool if word.startswith(last)]
    if last.startswith("-"):
        return [word for word in (*module.FLAGS, *module.SWITCHES, "--help") if word.startswith(last)]
    roots = ("evaluation.", "data.") if before[0] == "evaluate" and last else ()
    found = _config_words(last) if last.startswith(("e", "d")) and roots else []
    return [word for word in found if word.startswith(roots)]


def _study_words(before: list[str], last: str) -> list[str]:
    """Names of the studies; then the keys of the one that is named, and those of the config."""
    from dam.studies import STUDIES

    if len(before) == 1:
        return [word for word in (*STUDIES, "list", "--help") if word.startswith(last)]
    if before[1] not in STUDIES:
        return []
    from dam.studies.study import find

    own = [*(f"study.{key.name}=" for key in find(before[1]).keys), "study.cells=", "--help"]
    return [word for word in own if word.startswith(last)] + _config_words(last)


def _config_words(last: str) -> list[str]:
    mark = "++" if last.startswith("++") else "+" if last.startswith("+") else ""
    key, equals, begun = last[len(mark) :].partition("=")
    if not equals:
        keys = [*mounts(), *LAYERS, *all_keys(), "resume", "sweep.resume", "hydra/launcher", "hydra/sweeper"]
        # Deep keys come one level at a time, as folders do.
        depth = key.count(".")
        found = {_level(name, depth) for name in keys if name.startswith(key) and not name.endswith(".name")}
        found |= {"model.name="} if "model.name".startswith(key) and depth else set()
        return sorted(mark + word for word in found)
    *done, part = begun.split(",")
    stem = mark + key + "=" + "".join(f"{word}," for word in done)
    words = [word for word in _values(key) if word.startswith(part)]
    if key in PATH_KEYS and not part:
        return []  # paths, which the shell completes
    return [stem + word for word in words]


def _level(name: str, depth: int) -> str:
    parts = name.split(".")
    if len(parts) > depth + 1:
        return ".".join(parts[: depth + 1]) + "."
    return name + "="


def _values(key: str) -> list[str]:
    group = group_of(key)
    if group is not None:
        return list(choices(group))
    if key in _WORDS:
        return _WORDS[key]
    hint: Any = all_keys().get(key, (None, ()))[0]
    if hint is None:
        table = key.rpartition(".")[0]
        hint = next((typing.get_args(option)[-1] for option in options(all_keys().get(table, (None,))[0])
                     if typing.get_origin(option) is dict), None)  # fmt: skip
    null = ["null"] if type(None) in options(hint) else []
    return literals(hint) + null
