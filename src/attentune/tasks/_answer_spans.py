"""The right answers in a record: texts of its context, with the place of each."""

from __future__ import annotations

from typing import Any, NamedTuple

from attentune.data.record import Record, described
from attentune.errors import DataError
from attentune.tasks._texts import cell

IMPOSSIBLE = "impossible"  # the column that says that a question has no answer
STARTS = ("start", "answer_start")


class Span(NamedTuple):
    """A text and its first character in the context."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """The character after its last."""
        return self.start + len(self.text)


def spans_of(record: Record, column: str, context: str) -> list[Span]:
    """The answers in `column`, without white space at their ends.

    Raises:
        DataError: they are of another form, or one does not stand where it should.
    """
    spans = []
    for text, start in _pairs(record, column):
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            raise DataError(
                f"{record.where}: column {column!r} holds an answer whose text is {described(text)} and whose start is "
                f"{described(start)}"
            )
        if not text.strip() or start < 0 or not context.startswith(text, start):
            raise DataError(f"{record.where}: the answer {text!r} does not stand at {start} in the context")
        spans.append(Span(text.strip(), start + len(text) - len(text.lstrip())))
    return spans


def is_marked_impossible(record: Record) -> bool:
    """Whether a record without answers may be one: where it has the column that says so, that must say so."""
    held = record.values.get(IMPOSSIBLE, True)
    return held is True or str(held).strip().lower() in ("true", "1")


def _pairs(record: Record, column: str) -> list[tuple[Any, Any]]:
    held = cell(record, column)
    if held is None:
        return []
    if isinstance(held, dict) and isinstance(held.get("text"), list):
        starts = next((held[name] for name in STARTS if isinstance(held.get(name), list)), None)
        if starts is not None and len(starts) == len(held["text"]):
            return list(zip(held["text"], starts, strict=True))
    if isinstance(held, list) and all(isinstance(one, dict) and "text" in one for one in held):
        return [(one["text"], next((one[name] for name in STARTS if name in one), None)) for one in held]
    raise DataError(
        f"{record.where}: column {column!r} holds {described(held)}, not answers: a list of "
        '{"text": ..., "start": ...}'
    )
