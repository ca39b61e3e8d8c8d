"""Which columns of a table are meant: by the names in its header, or by their numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from attentune.data.record import MissingColumnError, missing_column
from attentune.data.shape import TableShape, is_number, shortened
from attentune.errors import DataError

USUAL_COLUMN = "text"  # read as documents when the user names none


@dataclass(frozen=True)
class Choice(ABC):
    """What is taken of each row of a table.

    Args:
        names: the columns that are asked for, as the header has them, or by their numbers from 1.
        header: whether the first line names the columns. None: it does, unless all `names` are numbers.
        others: whether those that were not asked for are kept as well.
    """

    names: tuple[str, ...] = ()
    header: bool | None = None
    others: bool = True

    @property
    def has_header(self) -> bool:
        """Whether the first row of text names the columns."""
        return not (self.names and all(map(is_number, self.names))) if self.header is None else self.header

    @abstractmethod
    def places(self, first: Sequence[str], source: str) -> dict[str, int]:
        """Where each column stands, by the name it goes by, in a table with this `first` row or these names.

        Raises:
            DataError: a column is not there.
        """


@final
@dataclass(frozen=True)
class Columns(Choice):
    """The columns of a task; `like` is the table that a model was trained on, in which their numbers were chosen."""

    like: TableShape | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            if not name.strip():
                raise DataError("the name of a column is empty; give its name, or its number from 1")

    def places(self, first: Sequence[str], source: str) -> dict[str, int]:
        if self.like is not None:
            self.like.require(first, self.names, source, header=self.has_header)
        # A column without a name of its own (empty, or a name that another one has) goes by its number.
        if not self.has_header:
            return self._numbered_places(len(first), source)
        known: dict[str, int] = {}
        for place, name in enumerate(first):
            known[name if name and name not in known else str(place + 1)] = place
        found: dict[str, int] = dict(known) if self.others else {}
        for name in self.names:
            if name in first:
                if first.count(name) > 1:
                    raise DataError(f"{source} names column {name!r} twice; rename one of them")
                found[name] = known[name]
            elif is_number(name) and int(name) <= len(first):
                found[name] = int(name) - 1
            else:
                error = missing_column(source, name, [shortened(other) for other in known])
                if self.header is None:
                    error = MissingColumnError(
                        f"{error}. If that line is no header, name the columns by their numbers, from 1", name
                    )
                raise error
        return found

    def _numbered_places(self, width: int, source: str) -> dict[str, int]:
        for name in self.names:
            if not is_number(name):
                raise DataError(f"{source} is read without a header: name column {name!r} by its number, 1 to {width}")
            if int(name) > width:
                raise DataError(f"{source} has {width} columns and so no column {name}; numbers begin at 1")
        wanted = {name: int(name) - 1 for name in self.names}
        return {**{str(place + 1): place for place in range(width)}, **wanted} if self.others else wanted


@final
@dataclass(frozen=True)
class DocumentColumn(Choice):
    """The one column that holds documents: the one that is named, else the only one there is, else `text`."""

    header: bool | None = True
    others: bool = False

    def places(self, first: Sequence[str], source: str) -> dict[str, int]:
        if self.names:
            return Columns(self.names, header=True, others=False).places(first, source)
        if len(first) == 1:
            return {first[0]: 0}
        if USUAL_COLUMN not in first:
            raise DataError(f"{source} has no column {USUAL_COLUMN!r}; name the one to read: {', '.join(first)}")
        return {USUAL_COLUMN: first.index(USUAL_COLUMN)}
