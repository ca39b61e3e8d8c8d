"""A question and its context as rows of tokens: one, or where the context is long several windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from attentune.data.subwords import SubwordTokenizer
from attentune.tasks._answer_spans import Span
from attentune.tasks._answer_words import OUTSIDE
from attentune.tasks.task import Array


@dataclass(frozen=True, eq=False)
class Window:
    """A question and a part of its context as a row: the token of no answer, the question, a separator, the part.

    `places` [T 2] are the characters of the context that each token stands for, -1 before the part.
    """

    ids: Array
    marks: Array
    places: Int[np.ndarray, "T 2"]

    def target(self, span: Span) -> tuple[int, int] | None:
        """The first and the last token of an answer; None where the window does not hold all of it."""
        starts, ends = self.places[:, 0], self.places[:, 1]
        inside = np.flatnonzero((ends > span.start) & (starts < span.end) & (starts < ends))
        if not len(inside) or starts[inside[0]] > span.start or ends[inside[-1]] < span.end:
            return None
        return int(inside[0]), int(inside[-1])


def windows_of(
    ids: Int[np.ndarray, " T"],
    places: Int[np.ndarray, "T 2"],
    marks: Int[np.ndarray, " T"],
    asked: Int[np.ndarray, " Q"],
    *,
    tokenizer: SubwordTokenizer,
    length: int,
    overlap: int,
) -> Iterator[Window]:
    """Rows of at most `length` tokens, which have `overlap` tokens of the context in common with the next; none of an
    empty context.

    Args:
        ids: the tokens of the context.
        places: their characters.
        marks: what is known of each.
        asked: the tokens of the question; it stands in every row.
        tokenizer: has the tokens that stand before and after the question.
        length: more than the question, 2 tokens around it and `overlap`.
        overlap: tokens.
    """
    before = np.concatenate([[tokenizer.classifier], asked, [tokenizer.separator]]).astype(np.int32)
    nothing = np.full(len(before), OUTSIDE, dtype=np.int64)
    nowhere = np.full((len(before), 2), -1, dtype=np.int64)
    room = length - len(before)
    for start in range(0, max(len(ids) - overlap, 1), room - overlap):
        part = slice(start, start + room)
        if len(ids[part]):
            yield Window(
                np.concatenate([before, ids[part]]),
                np.concatenate([nothing, marks[part]]),
                np.concatenate([nowhere, places[part]]),
            )
