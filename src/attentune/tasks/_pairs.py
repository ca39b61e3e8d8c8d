"""What tasks with a text and the text that answers it have in common."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Self

from pydantic import model_validator

from attentune.data.encoding import DataWarning
from attentune.data.records import Record
from attentune.errors import DataError
from attentune.spec.run import DataSpec
from attentune.tasks._sequences import FittedSequences, SequenceTask, texts_of
from attentune.tasks._texts import Column

LOOKED_AT = 1000  # targets whose script is looked at


class PairTask(SequenceTask):
    """From the text in `source` to the one in `target`.

    A cell may hold a list: of a source its sentences, of a target several references. Training learns the first of
    them, scores compare with all.
    """

    source: Column = "source"
    target: Column = "target"

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"source and target are different columns, got {', '.join(self.columns)}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.asked, self.target)

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def read_column(self) -> str:
        return self.source

    def fit(self, records: Sequence[Record], data: DataSpec, *, context: int) -> FittedSequences:
        doubt = self.misread([self.references(one)[0] for one in records[:LOOKED_AT]])
        if doubt is not None:
            warnings.warn(f"column {self.target!r}: {doubt}", DataWarning, stacklevel=2)
        return super().fit(records, data, context=context)

    def misread(self, texts: Sequence[str]) -> str | None:
        """What the figures would not see of such targets, and the option that mends it; None where all is well."""
        del texts
        return None

    def references(self, record: Record) -> list[str]:
        """The texts in `target`. Raises DataError where there is none."""
        texts = [text for text in texts_of(record, self.target) if text.strip()]
        if not texts:
            raise DataError(f"{record.where}: column {self.target!r} holds no text; leave such rows out")
        return texts

    def source_parts(self, record: Record) -> list[str]:
        """The text in `source`, its sentences joined by spaces."""
        return [" ".join(texts_of(record, self.source))]
