"""From arguments and a TOML file to the frozen options of a command.

`tyro` turns the fields of a value into flags (`--optimizer.learning-rate 3e-3`) and their comments into help. What is
ours: the file of `--config` gives the defaults that flags override, and every mistake is one line.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import json
import re
import shutil
import tomllib
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from textwrap import fill, indent
from typing import Annotated, Any, TypeVar, get_origin

import tyro
from pydantic import Field
from pydantic.fields import FieldInfo

from attentune.cli.task_defaults import with_task_defaults
from attentune.cli.words import UsageError, gather, value_of
from attentune.errors import AttentuneError, near
from attentune.spec.run import DataSpec
from attentune.spec.start import StartSpec
from attentune.spec.value import Frozen

Json = Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json"), Field(alias="json")]
REFUSED = re.compile(r"Error parsing (?P<value>[^-\s][^\s:]*): \w+\.(?P<field>\w+)(?:\.\d+)?: ")
NESTED = re.compile(r"^([\w.]+): [A-Z]\w*\.(?=\w)")  # `optimizer: OptimizerSpec.` before the name of a field
OR_NONE = re.compile(r"\{None\}\|([A-Z]+)")
PATH_OF_DATA = re.compile(r"--data\.path \{None\}\|STR")
PATH_OF_START = re.compile(r"--start\.path \{None\}\|STR")
SHORT: dict[str, tuple[str, type[Frozen], str]] = {
    "--data": ("data", DataSpec, "path"),
    "--from": ("start", StartSpec, "path"),
    "--freeze": ("start", StartSpec, "freeze"),
}
EMPTY = re.compile(r"\(default: ('')?\)")
RULE = re.compile(r"^\s*-{8,}\s*$", re.MULTILINE)


class Help(Exception):  # noqa: N818 - no error: it carries the text that --help asked for
    """The help text of a command."""


class CommandOptions(Frozen):
    """What every command accepts; the commands derive their `Options` from it."""

    json_: Json = False  # print the result as JSON on stdout

    @classmethod
    def understood(cls, table: dict[str, Any], path: Path) -> dict[str, Any]:
        """The options that the table of a file stands for: itself. Raises UsageError."""
        del path
        return table


Chosen = TypeVar("Chosen", bound=CommandOptions)
Group = TypeVar("Group", bound=Frozen)


def parse(options: type[Chosen], arguments: Sequence[str], *, command: str, examples: str) -> Chosen:
    """The options that `arguments` (without the command) and the file of `--config` ask for.

    Raises `Help` with the text where help is asked for, `UsageError` or `SpecError` with one line otherwise.
    """
    program = f"attentune {command}"
    arguments = gather([_in_full(argument, options) for argument in arguments], _holds_several(options))
    default = _from_file(options, arguments) if "config" in options.model_fields else tyro.MISSING_NONPROP
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            parsed: tuple[Chosen, list[str]] = tyro.cli(
                options,
                prog=program,
                description=f"{inspect.getdoc(options)}\n\nexamples:\n{indent(inspect.cleandoc(examples), '  ')}",
                args=arguments,
                default=default,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise Help(_readable(out.getvalue())) from None
        raise UsageError(f"{_one_line(err.getvalue(), options.__name__)} (see {program} --help)") from None
    chosen, unknown = parsed
    if unknown:
        raise UsageError(f"{_unknown(unknown[0], options)} (see {program} --help)")
    typed = {argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")}
    return _remembering(chosen, None if default is tyro.MISSING_NONPROP else default, typed)


def _remembering(value: Group, file: Frozen | None, typed: Set[str], prefix: str = "--") -> Group:
    """`value` whose `model_fields_set` holds what the `file` or an argument says, be it the default.

    tyro hands over all fields alike.
    """
    changes: dict[str, Frozen] = {}
    names = set() if file is None else set(file.model_fields_set)
    for name, field in type(value).model_fields.items():
        leaf, held = (field.alias or name).replace("_", "-"), getattr(value, name)
        if isinstance(held, Frozen):
            before = getattr(file, name, None)
            before = before if isinstance(before, Frozen) else None
            changes[name] = _remembering(held, before, typed, f"{prefix}{leaf}.")
            if changes[name].model_fields_set:
                names.add(name)
        if {f"{prefix}{leaf}", f"{prefix}no-{leaf}"} & typed:
            names.add(name)
    found = value.model_copy(update=changes)
    object.__setattr__(found, "__pydantic_fields_set__", names)
    return found


def _in_full(argument: str, options: type[Frozen]) -> str:
    """`--data FILE` is short for `--data.path FILE` wherever there is the latter, and so are others."""
    name, equals, value = argument.partition("=")
    for short, (group, kind, full) in SHORT.items():
        field = options.model_fields.get(group)
        if name == short and field and field.annotation is kind:
            return f"--{group}.{full}{equals}{value}"
    return argument


def _from_file(options: type[Chosen], arguments: Sequence[str]) -> Any:
    """The options with what the file of `--config` says, and what a task wants, as the default that flags override."""
    has_tasks = {"task", "context", "data"} <= options.model_fields.keys()
    named = value_of("--config", arguments)
    if named is None:
        unsaid = with_task_defaults({}, arguments) if has_tasks else {}
        return options(**unsaid) if unsaid else tyro.MISSING_NONPROP
    path = Path(named)
    table = options.understood(read_toml(path), path)
    table = with_task_defaults(table, arguments) if has_tasks else table
    keys = set(options.model_fields) - {"config", "json_"}
    for key in table:
        if key not in keys:
            raise UsageError(f"{path}: {key} is unknown; {near(key, keys)}")
        if options.model_fields[key].annotation is DataSpec and isinstance(table[key], str):
            raise UsageError(f"{path}: {key} is a table: write [{key}] and below it path = {json.dumps(table[key])}")
    try:
        return options(**{**table, "config": path})
    except AttentuneError as error:
        said = str(error).removeprefix(f"{options.__name__}.").removeprefix(f"{options.__name__}: ")
        said = NESTED.sub(r"\1.", said)
        raise UsageError(f"{path}: {said}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises `UsageError` with one line where it cannot be had."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start}), as TOML files are") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not valid TOML: {error}") from None


def _readable(text: str) -> str:
    """tyro's help as people read it: paragraphs as wide as the terminal, an option by what it takes and its short form.

    What is left out becomes spaces, so that the columns stand as they stood.
    """
    head, mark, options = text.partition("\nexamples:\n")
    width = min(shutil.get_terminal_size().columns, 120)
    head = "\n\n".join(fill(paragraph, width) for paragraph in head.split("\n\n")) + "\n"
    options = PATH_OF_DATA.sub(lambda found: "--data[.path] PATH".ljust(len(found[0])), options)
    options = PATH_OF_START.sub(lambda found: "--from PATH".ljust(len(found[0])), options)
    options = OR_NONE.sub(lambda found: found[1].ljust(len(found[0])), options)
    options = EMPTY.sub(lambda found: " " * len(found[0]), options)
    return head + mark + options


def _one_line(boxed: str, root: str) -> str:
    """What tyro says in its box, between the first rule and the second, as one line.

    Where the value `root`, or one inside it, refused a field, the field is called by its flag.
    """
    title, *blocks = RULE.split(boxed)
    text = " ".join((blocks[0] if blocks else title).split())
    if refused := REFUSED.match(text):
        group = "" if refused["value"] == root else f"{refused['value']}."
        return f"--{group}{refused['field'].replace('_', '-')}: {text[refused.end() :]}"
    for noise in (f"Error parsing {root}: ", f"{root}: ", "Error parsing "):
        text = text.removeprefix(noise)
    return text


def _unknown(token: str, options: type[Frozen]) -> str:
    if not token.startswith("-"):
        return f"unexpected argument {token!r}"
    name = token.split("=")[0]
    flags = [flag for flag, _ in _flags(options)]
    leaf = name.lstrip("-").rpartition(".")[2]
    close = [flag for flag in flags if flag.lstrip("-").rpartition(".")[2] == leaf]
    close = close or difflib.get_close_matches(name, flags, n=2, cutoff=0.55)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"unknown option {name!r}{hint}"


def _flags(value: type[Frozen], prefix: str = "--") -> Iterator[tuple[str, FieldInfo]]:
    """Every option, by its flag."""
    for name, field in value.model_fields.items():
        flag = prefix + (field.alias or name).replace("_", "-")
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Frozen):
            yield from _flags(field.annotation, f"{flag}.")
        elif tyro.conf.Positional not in field.metadata:
            yield flag, field


def _holds_several(options: type[Frozen]) -> dict[str, bool]:
    """Every flag, and whether it takes any number of values."""
    return {flag: get_origin(field.annotation) in (tuple, dict) for flag, field in _flags(options)}
