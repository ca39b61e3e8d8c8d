"""Questions about texts, with answers that stand in them: the files of SQuAD.

Version 1.1 (arXiv:1606.05250); version 2.0 (arXiv:1806.03822) has questions that the text does not answer as well.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

from attentune.data.encoding import DataWarning
from attentune.data.record import Record, described, missing_column
from attentune.data.streams import DataFile
from attentune.data.tables import parsed_json
from attentune.errors import DataError

ANSWERS = "answers"
COLUMNS = ("id", "title", "context", "question", ANSWERS, "impossible")
_SHOWN = 5  # ids in a warning


def read_squad(source: str | os.PathLike[str], *, strict: bool = False, encoding: str | None = None) -> list[Record]:
    """The questions of a JSON file of SQuAD v1.1 or v2.0.

    Each has `context`, `question`, `id`, `title` (of the article), `answers`, a list of {"text", "start"} with the
    place of the answer's first character in the context, and `impossible`, whether it is marked as having none.
    The official scripts compare texts whatever their places, and so count the questions that are left out here: where
    there are any, figures are of fewer questions than theirs.

    Args:
        source: a file, which may be gzip-compressed, or `-`.
        strict: whether an answer that does not stand at its start is an error; else it is left out, and a question that
            has no other too, and a `DataWarning` counts them.
        encoding: a codec name of Python, or None to detect it.

    Raises:
        DataError: no such file, other JSON (with the article and paragraph), no questions.
    """
    file = DataFile(source)
    document = parsed_json("".join(file.lines(file.codec(encoding), returns=False)), file.name)
    records = list(squad_records(document, file.name, strict=strict))
    if not records:
        raise DataError(f"{file.name} holds no questions")
    return records


def is_squad(document: Any) -> bool:
    """Whether this JSON is of the form of SQuAD."""
    return isinstance(document, dict) and isinstance(document.get("data"), list)


def squad_records(
    document: Any, name: str, *, strict: bool = False, answers: bool = True, skip: int = 0
) -> Iterator[Record]:
    """As `read_squad`, from parsed JSON, after the first `skip`.

    Where `answers` are not asked for, none decides about a question: those that can be read and stand at their start
    are there, others are not, and nothing is said of them.
    """
    astray: list[str] = []
    left_out = 0
    articles = _entry(document, "data", list, name)
    for number, article in enumerate(articles, start=1):
        where = f"{name}, article {number}"
        paragraphs = _entry(article, "paragraphs", list, where)
        for place, paragraph in enumerate(paragraphs, start=1):
            within = f"{where}, paragraph {place}"
            context = _entry(paragraph, "context", str, within)
            for question in _entry(paragraph, "qas", list, within):
                values, wrong = _question(question, context, str(article.get("title", "")), within, asked=answers)
                about = f"{name}, question {values['id']}"
                if wrong and strict:
                    raise DataError(f"{about}: the answer {wrong[0]!r} does not stand at its start in the context")
                if wrong and answers:
                    astray.append(values["id"])
                    if not values["answers"]:
                        left_out += 1
                        continue
                if skip:
                    skip -= 1
                    continue
                yield Record(values, about)
    if astray:
        more = f" and {len(astray) - _SHOWN} more" if len(astray) > _SHOWN else ""
        warnings.warn(
            f"{name}: answers that do not stand at their start in the context are left out, of {len(astray)} questions "
            f"({', '.join(astray[:_SHOWN])}{more}), and {left_out} questions that have no other",
            DataWarning,
            stacklevel=3,
        )


def _question(question: Any, context: str, title: str, where: str, *, asked: bool) -> tuple[dict[str, Any], list[str]]:
    """The values of a record, and the answers that do not stand where they should."""
    text = _entry(question, "question", str, where)
    name = _entry(question, "id", str | int, f"{where}, question {text[:40]!r}")
    answers, astray = _answers(question, context, f"{where}, question {name}", asked=asked)
    impossible = bool(question.get("is_impossible", False))
    values = {
        "id": str(name),
        "title": title,
        "context": context,
        "question": text,
        "answers": answers,
        "impossible": impossible,
    }
    return values, astray


def _answers(
    question: dict[str, Any], context: str, about: str, *, asked: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Those that stand where they should, and the texts of those that do not; another form is an error if `asked`."""
    standing, astray = [], []
    held = question.get(ANSWERS) or []
    if asked and not isinstance(held, list):
        _entry(question, ANSWERS, list, about)  # says what it is
    for answer in held if isinstance(held, list) else []:
        try:
            said, start = _entry(answer, "text", str, about), _entry(answer, "answer_start", int, about)
        except DataError:
            if asked:
                raise
            continue
        if said and start >= 0 and context.startswith(said, start):
            standing.append({"text": said, "start": start})
        else:
            astray.append(said)
    return standing, astray


def _entry(mapping: Any, key: str, kind: Any, where: str) -> Any:
    if not isinstance(mapping, dict):
        raise DataError(f"{where} is {described(mapping)}, not a mapping: no file of SQuAD's form")
    if key not in mapping:
        raise missing_column(where, key, mapping)
    value = mapping[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}: {key!r} is {described(value)}, which it is not in a file of SQuAD's form")
    return value
