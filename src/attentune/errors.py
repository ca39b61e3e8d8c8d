"""Every error that Attentune raises on purpose.

A user's mistake is one clear line: what, where, what to do. The command line prints that line and
exits with code 2; from Python it is an exception with the same text. A traceback is for our bugs.

    AttentuneError
    ├── SpecError          a value that breaks a rule, or text that does not parse
    ├── KernelError        a kernel asked for by name that cannot honour the request
    ├── DataError          a file that cannot be read as what it should be
    ├── CheckpointError    a model or training folder that is damaged or foreign
    ├── TrainingError      training that cannot start or cannot go on
    ├── StudyError         a study folder that cannot be continued
    ├── StorageError       a folder that cannot be written, a disk that is full
    └── MissingExtraError  an optional library that is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AttentuneError(Exception):
    """Base of all errors whose message is meant for the user."""

    def __str__(self) -> str:
        notes = getattr(self, "__notes__", ())
        return " ".join([super().__str__(), *notes])


class SpecError(AttentuneError, ValueError):
    """A value breaks a rule, or a text form does not parse."""


class KernelError(AttentuneError):
    """The kernel asked for cannot honour the request; the message holds all its reasons."""


class DataError(AttentuneError):
    """A data file is missing, empty, undecodable or lacks what was asked of it."""


class CheckpointError(AttentuneError):
    """A model or training checkpoint is damaged, incomplete or not ours."""


class TrainingError(AttentuneError):
    """Training cannot start, or stopped because going on would be useless."""


class StudyError(AttentuneError):
    """A study folder cannot be continued as asked."""


class StorageError(AttentuneError):
    """Output cannot be written: no permission, no space."""


class MissingExtraError(AttentuneError, ImportError):
    """An optional library is not installed; the message names the extra to install."""


def near(name: str, known: Iterable[str]) -> str:
    """A hint such as `did you mean 'rotary'? known: alibi, rotary` for a misspelt `name`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.55)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{hint}known: {', '.join(known)}"
