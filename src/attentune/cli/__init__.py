"""The command line: parse, call, print.

Every command is a module of this package with `Options` (a frozen value: flags on the command line, keys in the
TOML file of `--config`), `EXAMPLES` and `run(options)`. PyTorch is imported inside `run`, so that `--help` is quick.

Exit codes: 0 done, 1 done but a check failed, 2 a mistake of the user (one line on stderr), 130 interrupted, 141 the
reader of a pipe went away. A traceback is a bug of ours.
"""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from attentune import __version__
from attentune.cli.parsing import Help, parse
from attentune.cli.words import UsageError, value_of
from attentune.errors import AttentuneError, near

COMMANDS = {
    "optimize": "find the attention and settings that serve your text best; train, explain and save them",
    "train": "train one model, of language or of a task, resumable to the bit",
    "evaluate": "measure a trained model, or attentions on a suite of tasks with exact answers",
    "predict": "what a model of a task says of the records of a file, however many there are",
    "tasks": "list the tasks that models are trained for, with their options",
    "generate": "continue a prompt with a trained model",
    "plan": "explain which kernel computes an attention, and why not the others",
    "verify": "prove every mechanism on this machine: each kernel, dtype and layout against the reference",
    "bench": "measure attention on this machine beside its peers: time, memory, correctness",
    "mechanisms": "list the mechanisms: formula, paper, slot, parameters; draw a mask",
}
GOES_ON = ("optimize", "train", "predict", "bench")  # the same command takes up its work again
PIPED = ("--input", "--output")  # unless one of these is what was piped: it cannot be read or written again

USAGE = """\
usage: attentune COMMAND [OPTIONS]

State an attention. Plan it. Prove it. Tune it. Ship it.

commands:
{commands}

  attentune COMMAND --help   options and examples of a command
  attentune --version        the version

examples:
  attentune optimize --data book.txt --budget 10m --out runs/book
  attentune generate runs/book/best --prompt "Once"
  attentune plan --attention "heads=8/2, position=rotary, mask=causal & window(256)" --length 4096
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. `arguments` stands for `sys.argv[1:]`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _each_once()
            code = _dispatch(arguments)
        sys.stdout.flush()
    except AttentuneError as error:
        print(f"attentune: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"attentune: {_interrupted(arguments)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit; it must not meet the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        commands = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
        print(USAGE.format(commands=commands), end="")
        return 0
    name, *rest = arguments
    if name in ("-V", "--version"):
        print(f"attentune {__version__}")
        return 0
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        known = ("--help", "--version") if kind == "option" else COMMANDS
        raise UsageError(f"unknown {kind} {name!r}; {near(name, known)}")
    module = import_module(f"attentune.cli.{name}")
    try:
        options = parse(module.Options, rest, command=name, examples=module.EXAMPLES)
    except Help as help_text:
        print(help_text, end="")
        return 0
    code: int = module.run(options)
    return code


def _interrupted(arguments: list[str]) -> str:
    again = shlex.join(["attentune", *arguments])
    piped = any(value_of(flag, arguments) == "-" for flag in PIPED)
    if arguments and arguments[0] in GOES_ON and not piped:
        return f"interrupted; the same command goes on where it stopped: {again}"
    flags = {argument.partition("=")[0] for argument in arguments}
    if arguments and arguments[0] == "evaluate" and {"--suite", "--out"} <= flags:
        return f"interrupted; the same command goes on after the trainings that have ended: {again}"
    return "interrupted"


def _each_once() -> Callable[..., None]:
    """Shows warnings on standard error, each but once: a study would repeat them with every trial."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
        del where, more  # the user is told what, not where in our code
        for_developers = issubclass(category, (DeprecationWarning, FutureWarning))
        text = " ".join(str(message).split())
        if for_developers or not category.__module__.startswith(("builtins", "attentune")) or text in said:
            return  # what libraries say to us
        said.add(text)
        print(f"attentune: warning: {text}", file=sys.stderr)

    return show
