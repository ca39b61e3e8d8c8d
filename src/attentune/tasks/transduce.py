"""Any text to any other: replies in a dialogue, texts in another style, generation under a control prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Self, final

from pydantic import model_validator

from attentune.data.records import Record
from attentune.tasks._pairs import PairTask
from attentune.tasks._sequences import texts_of
from attentune.tasks._texts import Column
from attentune.tasks._translations import Tokenize, misread_translations, nearest, score_translations
from attentune.tasks.task import Scores


@final
class Transduce(PairTask):
    """`transduce(source=question, target=reply, control=tone)`.

    The text of `control` is put before the source, a separator between them, so that the same source may be asked for
    in several ways. Scores are those of translations.
    """

    kind: Literal["transduce"] = "transduce"
    control: Column | None = None
    tokenize: Tokenize = "13a"
    lowercase: bool = False  # scores do not look at capital letters

    @model_validator(mode="after")
    def _control_differs(self) -> Self:
        if self.control in (self.source, self.target):
            raise ValueError(f"control is a column of its own, got {self.control!r}")
        return self

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.source,) if self.control is None else (self.control, self.source)

    @property
    def control_column(self) -> str | None:
        return self.control

    def measure(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        return score_translations(texts, references, tokenize=self.tokenize, lowercase=self.lowercase)

    def misread(self, texts: Sequence[str]) -> str | None:
        return misread_translations(texts, self.tokenize)

    def guesses(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, list[str]]:
        train = list(train)
        known, asked = ([self._whole_text(record) for record in part] for part in (train, records))
        answers = [self.references(record)[0] for record in train]
        sources = [self.source_text(record) for record in records]
        return {"source copied": sources, **nearest(known, answers, asked)}

    def _whole_text(self, record: Record) -> str:
        return " ".join(text for column in self.asked for text in texts_of(record, column))
