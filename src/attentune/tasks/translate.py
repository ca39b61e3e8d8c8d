"""Texts from one language to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, final

from attentune.data.records import Record
from attentune.tasks._pairs import PairTask
from attentune.tasks._translations import Tokenize, misread_translations, nearest, score_translations
from attentune.tasks.task import Scores


@final
class Translate(PairTask):
    """`translate(source=de, target=en)`.

    `tokenize` is how sacreBLEU takes texts apart: `13a` as WMT does, `intl` by Unicode, `zh` and `char` for Chinese.
    """

    kind: Literal["translate"] = "translate"
    tokenize: Tokenize = "13a"
    lowercase: bool = False  # scores do not look at capital letters

    def measure(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        return score_translations(texts, references, tokenize=self.tokenize, lowercase=self.lowercase)

    def misread(self, texts: Sequence[str]) -> str | None:
        return misread_translations(texts, self.tokenize)

    def guesses(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, list[str]]:
        train = list(train)
        known, asked = ([self.source_text(record) for record in part] for part in (train, records))
        answers = [self.references(record)[0] for record in train]
        return {"source copied": asked, **nearest(known, answers, asked)}
