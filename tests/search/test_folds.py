"""Folds of records keep together what belongs together, hold each label evenly, and are of equal size."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from attentune.data.records import Record
from attentune.errors import DataError
from attentune.search.folds import Groups, fold_of_each
from attentune.tasks.answer import Answer
from attentune.tasks.classify import Classify
from attentune.tasks.reading import drawn_apart
from attentune.tasks.retrieve import Retrieve
from attentune.tasks.task import Task


def records(*rows: dict[str, Any]) -> list[Record]:
    return [Record(row, f"line {number}") for number, row in enumerate(rows, start=1)]


def asked(count: int, **more: Any) -> list[Record]:
    """Questions about twelve texts, two to an article."""
    rows = []
    for number in range(count):
        text = number * 7 % 12
        rows.append(
            {"question": f"who {number}?", "context": f"text {text}", "answers": [], "title": f"on {text // 2}"}
        )
    return records(*({**row, **more} for row in rows))


def together(found: list[int], known: list[Record], column: str) -> bool:
    """Whether records of one value are of one fold."""
    return len({(one[column], fold) for one, fold in zip(known, found, strict=True)}) == len({r[column] for r in known})


def test_questions_stay_with_their_article() -> None:
    known = asked(40)
    found = fold_of_each(Answer(), known, 3)
    assert set(found) == {0, 1, 2} and together(found, known, "title")
    assert found == fold_of_each(Answer(), known, 3)


@pytest.mark.parametrize(
    ("task", "known", "columns"),
    [
        (Answer(), asked(40), ("title",)),
        (Answer(), asked(40, title="all of one"), ("context",)),
        (Answer(article="source"), asked(40), ("question", "context")),
        (Answer(article=None), asked(40), ("question", "context")),
        (Retrieve(question="question", answer="context"), asked(40), ("question",)),
        (Classify(text="question", label="title"), asked(40), ("question",)),
    ],
)
def test_the_first_column_with_several_values_counts(task: Task, known: list[Record], columns: tuple[str, ...]) -> None:
    assert Groups.of(task, known).columns == columns


def test_a_text_that_stands_twice_is_in_one_fold_and_each_fold_has_its_share_of_labels() -> None:
    rows = [{"text": f"number {number % 30}", "label": "rare" if number % 30 < 10 else "often"} for number in range(60)]
    rows[45]["text"] = " Number   15"  # once more the text of 15
    found = fold_of_each(Classify(), known := records(*rows), 5)
    assert all(found[number] == found[number + 30] for number in range(30))
    assert Counter(found) == dict.fromkeys(range(5), 12)
    counts = Counter((one["label"], fold) for one, fold in zip(known, found, strict=True))
    assert {counts["rare", fold] for fold in range(5)} == {4}


def test_articles_of_unequal_length_make_folds_of_about_one_size() -> None:
    lengths = [1, 2, 3, 5, 8, 13, 2, 4, 6, 9, 7]
    rows = [
        {"question": f"{title} {number}", "context": "", "answers": [], "title": str(title)}
        for title, length in enumerate(lengths)
        for number in range(length)
    ]
    assert sorted(Counter(fold_of_each(Answer(), records(*rows), 3)).values()) == [20, 20, 20]


def test_more_folds_than_groups_are_refused() -> None:
    assert set(fold_of_each(Answer(), asked(40), 6)) == set(range(6))
    with pytest.raises(DataError, match=r"folds must be at most 6, .* with the same title stay together.*, got 7; "):
        fold_of_each(Answer(), asked(40), 7)


def test_a_drawn_part_and_folds_keep_the_same_together() -> None:
    known = records(*({"question": f"{'Who' if n % 2 else 'who'}  {n // 2}?", "answer": f"{n}"} for n in range(40)))
    kept, drawn = drawn_apart(Retrieve(), known, 0.25)
    assert len(drawn) == 10
    assert not {one["question"].lower() for one in kept} & {one["question"].lower() for one in drawn}
    assert len(Groups.of(Retrieve(), known).places) == 20
