"""A record: one example of a task as a file holds it, a mapping from column to value, with its file and line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from attentune.errors import DataError, near


@dataclass(frozen=True, slots=True)
class Record:
    """The values of one example, and where it stands, for errors: `train.csv, line 7`.

    Values are plain data: text wherever the format has nothing else, and in JSON and Parquet also numbers, None, lists
    and mappings. The methods give a value as what a task wants, and say where it is something else.
    """

    values: Mapping[str, Any]
    where: str

    def __getitem__(self, column: str) -> Any:
        try:
            return self.values[column]
        except KeyError:
            raise missing_column(self.where, column, self.values) from None

    def text(self, column: str) -> str:
        """The text of `column`, which may be empty; the parts of a list of texts are joined by spaces.

        Raises:
            DataError: there is no such column, or it holds null, a number or anything else that is no text.
        """
        value = self[column]
        return value if isinstance(value, str) else " ".join(self.texts(column))

    def texts(self, column: str) -> tuple[str, ...]:
        """The texts of `column`, such as sentences or references: those of a list, or the only one there is.

        Raises:
            DataError: as for `text`.
        """
        value = self[column]
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list | tuple):
            for part in value:
                if not isinstance(part, str):
                    raise DataError(f"{self.where}: the list in column {column!r} holds {described(part)}, not text")
            return tuple(value)
        raise DataError(f"{self.where}: column {column!r} holds {described(value)}, not text")

    def label(self, column: str) -> str:
        """The label in `column` as text, so that the number 1 of JSON is the label `1` of CSV.

        Raises:
            DataError: there is no such column, or it is empty, null, no finite number, a list or a mapping.
        """
        label = label_text(self[column])
        if label is None or not label.strip():
            raise DataError(f"{self.where}: column {column!r} holds {described(self[column])}, not a label")
        return label


def label_text(value: Any) -> str | None:
    """`value` as a label, which may be empty; None where it is null, no finite number, a list or a mapping."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and isfinite(value):  # a null may become NaN on its way through other programs,
        return str(int(value)) if value.is_integer() else str(value)  # and whole numbers beside it floats
    return str(value) if isinstance(value, int | str) else None


def described(value: Any) -> str:
    """What `value` is, for an error: `null`, `3`, `a list`, `an empty text`."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text" if value.strip() else "an empty text"
    if isinstance(value, bool | int | float):
        return f"the number {json.dumps(value)}" if not isinstance(value, bool) else json.dumps(value)
    return {"list": "a list", "tuple": "a list", "dict": "a mapping"}.get(type(value).__name__, type(value).__name__)


class MissingColumnError(DataError):
    """A `column` that is not there."""

    def __init__(self, text: str, column: str) -> None:
        super().__init__(text)
        self.column = column


def missing_column(where: str, column: str, names: Mapping[str, Any] | list[str]) -> MissingColumnError:
    """The error for a column that is not there, with near names."""
    return MissingColumnError(f"{where} has no column {column!r}; {near(column, names)}", column)
