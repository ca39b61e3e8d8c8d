"""Records: examples of a task as files hold them, a mapping from column to text, each with its file and line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """The values of one example, and where it stands, for errors: `train.csv, line 7`."""

    values: Mapping[str, Any]
    where: str

    def __getitem__(self, column: str) -> Any:
        return self.values[column]
