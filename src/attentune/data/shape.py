"""What columns by number rest on: the columns that the table of a model had, and whether a first line is a header."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from attentune.data.record import Record
from attentune.errors import DataError

FEW = 8  # rows from which on a value that never comes again says something
MOST_SHOWN = 6  # columns in an error
_NAME = re.compile(r"[^\W\d]\w*(?:[ .-]\w+){0,2}")  # of a column, as people give them
_LONGEST_NAME = 40
_USUAL = {
    *("text", "sentence", "label", "labels", "source", "target", "question", "answer", "answers", "context", "title"),
    *("category", "class", "review", "document", "tokens", "tags", "summary", "premise", "hypothesis"),
}


@final
@dataclass(frozen=True)
class TableShape:
    """The columns of a table in their order, as its header names them; without one they are `1`, `2`, ...

    It is kept with a model whose columns go by numbers, which say nothing of what stands there.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, record: Record, columns: Sequence[str]) -> TableShape | None:
        """That of the table which `record` stands in; None unless one of its `columns` goes by its number."""
        if not any(map(is_number, columns)):
            return None
        names = list(record.values)
        while names and names[-1] in columns and is_number(names[-1]) and int(names[-1]) != len(names):
            names.pop()  # what stands at that number, a second time
        return cls(tuple(names))

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> TableShape | None:
        """What `config.json` keeps of it; None where that is nothing."""
        names = config.get("columns")
        return cls(tuple(map(str, names))) if isinstance(names, list) else None

    def kept(self) -> dict[str, Any]:
        """For `config.json`."""
        return {"columns": list(self.names)}

    @property
    def has_header(self) -> bool:
        return self.names != numbers(len(self.names))

    def require(self, first: Sequence[str], columns: Sequence[str], source: str, *, header: bool) -> None:
        """Refuses a table in which the numbers among `columns` mean something else.

        Args:
            first: its first row, or its names.
            columns: those that are asked for.
            source: what it is called.
            header: whether `first` are names.

        Raises:
            DataError: they stand under other names, or, where names are not known, the table is wider or narrower.
                What follows the columns that are asked for may be left out together, as answers are.
        """
        asked = [int(name) for name in columns if is_number(name)]
        known = [number for number in asked if number <= min(len(first), len(self.names))]
        if header and self.has_header:
            for number in known:
                if first[number - 1] != self.names[number - 1]:
                    raise DataError(
                        f"column {number} of {source} is called {shortened(first[number - 1])!r}, and the model was "
                        f"trained on {self.names[number - 1]!r}: give a file with the columns {self._listed()}"
                    )
            return
        alone = sorted(asked) == list(range(1, len(first) + 1))
        if len(first) == len(self.names) or (alone and len(first) < len(self.names)):
            return
        what = f"columns ({_listed(first)})" if len(first) > 1 else f"column ({_listed(first)})"
        raise DataError(
            f"{source} has {len(first)} {what}, and the model was trained on files of {len(self.names)}, of which it "
            f"reads {' and '.join(map(str, asked))}: give a file with the same columns in the same order"
        )

    def _listed(self) -> str:
        return _listed(self.names)


def is_header(first: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a `first` line that is read as data looks like names of columns, beside the `rows` that follow it.

    All of it must look like names. Then one sign is enough: a usual name, a word above numbers alone, or above a few
    values (a quarter as many as rows) that come again and again, while it does not.
    """
    if not first or len(set(first)) < len(first) or not all(map(_like_a_name, first)):
        return False
    if any(name.strip().lower() in _USUAL for name in first):
        return True
    for place, name in enumerate(first):
        values = [row[place] for row in rows]
        if values and all(map(_is_figure, values)):
            return True
        if len(values) >= FEW and name not in values and 4 * len(set(values)) <= len(values):
            return True
    return False


def is_number(name: str) -> bool:
    """Whether a column goes by its number, from 1 on."""
    return name.isascii() and name.isdigit() and int(name) > 0


def numbers(count: int) -> tuple[str, ...]:
    """The names of so many columns without a header."""
    return tuple(str(number) for number in range(1, count + 1))


def _like_a_name(cell: str) -> bool:
    return len(cell) <= _LONGEST_NAME and _NAME.fullmatch(cell.strip()) is not None


def _is_figure(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*map(shortened, names[:MOST_SHOWN]), *(["..."] if len(names) > MOST_SHOWN else [])])


def shortened(name: str) -> str:
    """What was taken for a name may be a whole text."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
