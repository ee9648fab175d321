"""The ``dam`` command: finds the verb, and turns every outcome into an exit code and at most one line of error.

0 done, 1 failed, 2 the user's mistake, 130 interrupted. A verb is a line of ``COMMANDS`` and a module of
``dam.commands`` with ``HELP`` (text) and ``run(arguments) -> exit code``; modules import what is heavy inside ``run``.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from dam import __version__
from dam.errors import ToldByAnother, UserError
from dam.processes import place


@dataclass(frozen=True)
class Command:
    """A verb: its name, one line about it, the module behind it."""

    name: str
    summary: str
    module: str


COMMANDS = {
    command.name: command
    for command in (
        Command("train", "train, resume, plan (dry_run=true) or sweep (-m): from a config to an AUC report", "train"),
        Command(
            "pretrain",
            "self-supervised pretraining (MoCo) on images without labels, to start training from",
            "pretrain",
        ),
        Command("data", "`check`: what is in a dataset, before training; `prepare`: its images made ready", "data"),
        Command("evaluate", "the report of any tool's predictions, a run judged anew, an external set", "evaluate"),
        Command("compare", "runs or prediction files against one another, paired on the same images", "compare"),
        Command("predict", "a run on new images: scores, probabilities, decisions, and where it looked", "predict"),
        Command("report", "rebuild a run's report from its files alone", "report"),
        Command("export", "a run as one ONNX, pt2 or safetensors file for other programs", "export"),
        Command("ensemble", "several runs as one: the mean of their scores, with its own report", "ensemble"),
        Command("weights", "`inspect`: what a checkpoint holds, and what model.weights= would load of it", "weights"),
        Command("runs", "the runs under outputs/: state, AUC, verdict, how to resume; `clean`: leftovers", "runs"),
        Command("study", "a paper's whole matrix of runs, its tables with our numbers beside the paper's", "study"),
        Command("list", "datasets, models, objectives and experiments that can be named in a config", "list"),
        Command("completion", "completion of verbs and config keys for bash, zsh and fish", "completion"),
    )
}

_WAY_OUT = {
    errno.EACCES: "give yourself the right to it, or choose another place",
    errno.EPERM: "give yourself the right to it, or choose another place",
    errno.EROFS: "choose a place that can be written, or copy the directory to one",
    errno.ENOSPC: "make room on that disk, then start the same command again",
    errno.EDQUOT: "make room within your quota, then start the same command again",
}

_PATIENCE = 5.0  # seconds; torchrun looks after its processes ten times a second
_PARALLEL = ("train", "pretrain")  # the verbs that several processes do together

HELP = """\
dam: deep AUC maximization for medical images, from one config to a report whose every number carries an interval

usage: dam COMMAND [words]        dam COMMAND --help says more

{commands}

  dam --version                   version of dam

first steps:
  dam train +experiment=quickstart
  dam data check data=csv data.csv=labels.csv data.root=images

A mistake of yours ends with one sentence and exit code 2; DAM_DEBUG=1 shows the traceback of any error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except ToldByAnother:
        time.sleep(_PATIENCE)
        return 2
    except UserError as error:
        _debug()
        _tell(f"dam: error: {error}")
        return 2
    except KeyboardInterrupt:
        if place().rank == 0:
            _tell("dam: interrupted")
        return 130
    except BrokenPipeError:  # `dam list models | head`: the reader has had enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - closed by the interpreter, which flushes it
        return 0
    except OSError as error:
        _debug()
        _tell(f"dam: error: {_system_words(error)}")
        return 2 if error.errno in _WAY_OUT else 1
    except Exception as error:
        if not _debug():
            reason = " ".join(str(error).split()) or "no reason given"
            _tell(f"dam: failed: {type(error).__name__}: {reason}\nset DAM_DEBUG=1 for the traceback")
        return 1


def _tell(words: str) -> None:
    """Say on the screen why it ends. Of several processes the first speaks, and its launcher ends the others; another
    one has something of its own to say if it is still there after a while."""
    rank = place().rank
    if rank > 0:
        time.sleep(_PATIENCE)
        words = f"{words} (process {rank})"
    print(words, file=sys.stderr)


def _system_words(error: OSError) -> str:
    """A refusal of the operating system as a sentence, with a way out where there is one."""
    what = (error.strerror or str(error) or type(error).__name__).lower()
    where = f"{error.filename}: " if error.filename else ""
    way_out = _WAY_OUT.get(error.errno or 0, "set DAM_DEBUG=1 for the traceback")
    return f"{where}{what}; {way_out}"


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = (f"  {command.name:<{width}}   {command.summary}" for command in COMMANDS.values())
        print(HELP.format(commands="\n".join(lines)))
        return 0
    if words[0] in ("--version", "-V"):
        print(f"dam {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name == "__complete":
        from dam.commands.completion import answer

        return answer(rest)
    if name not in COMMANDS:
        raise UserError(_unknown(name))
    if place().world > 1 and name not in _PARALLEL:
        raise UserError(f"`dam {name}` is for one process, {place().world} were started: leave out torchrun or srun")
    module = importlib.import_module(f"dam.commands.{COMMANDS[name].module}")
    if {"-h", "--help"} & set(rest):
        text = module.help_text(rest) if hasattr(module, "help_text") else module.HELP
        print(text.strip())
        return 0
    code: int = module.run(rest)
    return code


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    if near:
        return f"there is no command '{name}'; did you mean `dam {near[0]}`?"
    if "=" in name:
        return f"'{name}' is no command; to train with it: dam train {name}"
    return f"there is no command '{name}'; `dam --help` lists them: {', '.join(COMMANDS)}"


def _debug() -> bool:
    if os.environ.get("DAM_DEBUG", "") in ("", "0"):
        return False
    traceback.print_exc()
    return True
