"""The words of a command line before they are parsed: flags that are repeated, texts that a shell has cut up.

A parser of flags lets the last of several occurrences win, in silence. Here an option that holds several values
collects them all, and any other option is refused the second time.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attentune.errors import AttentuneError

TEXTS = ("layer", "layers", "attention", "draw")  # options whose values are written with spaces and operators


class UsageError(AttentuneError):
    """The command line, or the file of `--config`, asks for something that does not exist."""


@dataclass
class _Group:
    """A flag as it was written (empty: what stands before the first one) and the words up to the next flag."""

    flag: str
    values: list[str]
    joined: bool = False  # written as --flag=value; later values are then no part of it

    def words(self) -> list[str]:
        if self.joined:
            return [f"{self.flag}={self.values[0]}", *self.values[1:]]
        return [self.flag, *self.values] if self.flag else self.values


def value_of(flag: str, words: Sequence[str]) -> str | None:
    """What `--flag VALUE` or `--flag=VALUE` says, the last of several; None where it is not there."""
    found = None
    for place, word in enumerate(words):
        if word == flag and place + 1 < len(words):
            found = words[place + 1]
        elif word.startswith(f"{flag}="):
            found = word.removeprefix(f"{flag}=")
    return found


def gather(words: Sequence[str], flags: Mapping[str, bool]) -> list[str]:
    """`words` with the values of each repeated flag behind its first occurrence.

    `flags` says of each option (`--model.layers`) whether it holds several values.

    Raises:
        UsageError: an option of one value is repeated, or a text has reached us in pieces.
    """
    first, *groups = _groups(words)
    held: dict[str, _Group] = {}
    kept = [first]
    for group in groups:
        _check_whole(group)
        name = _name(group.flag, flags)
        earlier = held.setdefault(name, group)
        if earlier is group or name not in flags:  # the parser says which options there are
            kept.append(group)
            continue
        if not flags[name]:
            raise UsageError(_twice(name, earlier, group))
        for one in (earlier, group):
            if one.joined:  # what follows belongs to the command
                first.values += one.values[1:]
                one.values, one.joined = one.values[:1], False
        earlier.values += group.values
    return [word for group in kept for word in group.words()]


def _groups(words: Sequence[str]) -> list[_Group]:
    groups = [_Group("", [])]
    for word in words:
        if not word.startswith("--"):
            groups[-1].values.append(word)
            continue
        flag, equals, value = word.partition("=")
        groups.append(_Group(flag, [value] if equals else [], joined=bool(equals)))
    return groups


def _name(flag: str, flags: Mapping[str, bool]) -> str:
    """The option that `flag` sets: `--model.no-bias` sets `--model.bias`, and `_` may stand for `-`."""
    name = "--" + flag.removeprefix("--").replace("_", "-")
    stem, dot, leaf = name.removeprefix("--").rpartition(".")
    positive = f"--{stem}{dot}{leaf.removeprefix('no-')}"
    return positive if name not in flags and positive in flags else name


def _twice(name: str, first: _Group, second: _Group) -> str:
    said = " and ".join(shlex.quote(group.values[0]) for group in (first, second) if group.values)
    return f"{name} is given twice{f', as {said}' if ' and ' in said else ''}; give it once"


def _check_whole(group: _Group) -> None:
    """Raise `UsageError` where spaces or operators of an unquoted text have made several words of it."""
    leaf = group.flag.removeprefix("--").rpartition(".")[2]
    if leaf not in TEXTS or len(group.values) < 2:
        return
    cut = any(value.endswith((",", "&", "|")) for value in group.values[:-1])
    if cut or any(value.startswith(("&", "|")) for value in group.values[1:]):
        whole = " ".join(group.values)
        raise UsageError(
            f"{group.flag} has come in {len(group.values)} pieces: put the whole text in quotes, also for & and |, "
            f'as in {group.flag} "{whole}"'
        )
