"""Questions about texts in the form of SQuAD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attentune.data.encoding import DataWarning
from attentune.data.records import iterate_records, read_records
from attentune.data.squad import read_squad
from attentune.errors import DataError

CONTEXT = "The crisis 🙂 began\r\nin October 1973."


def question(name: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "question": f"{name}?",
        "answers": [{"text": text, "answer_start": start} for text, start in answers],
        **more,
    }


def write(path: Path, *questions: Any) -> Path:
    articles = [{"title": "T", "paragraphs": [{"context": CONTEXT, "qas": questions}]}]
    path.write_text(json.dumps({"version": "2", "data": articles}), encoding="utf-8")
    return path


def test_versions_1_and_2(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        question("when", ("October 1973", CONTEXT.index("Oct")), ("1973", CONTEXT.index("1973"))),
        question("why", is_impossible=True, plausible_answers=[{"text": "x", "answer_start": 0}]),
        {"id": 7, "question": "asked only"},
    )
    records = read_squad(path)
    assert records[0].values == {
        "id": "when",
        "title": "T",
        "context": CONTEXT,
        "question": "when?",
        "answers": [{"text": "October 1973", "start": 23}, {"text": "1973", "start": 31}],
        "impossible": False,
    }
    assert records[0].where == f"{path}, question when"
    assert (records[1]["answers"], records[1]["impossible"]) == ([], True)
    assert (records[2]["id"], records[2]["answers"], records[2]["impossible"]) == ("7", [], False)
    assert read_records(path, ("context", "question")) == records
    assert list(iterate_records(path, ("question",), skip=2)) == records[2:]


def test_answers_that_do_not_stand_where_they_should(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        question("one", ("October", 23), ("1973", 3)),
        question("two", ("October", 24)),
        question("three", ("", 0)),
        question("four", ("1973", -5)),
        question("five", ("1973", 31)),
    )
    with pytest.warns(DataWarning, match=r"of 4 questions \(one, two, three, four\), and 3 questions"):
        records = read_squad(path)
    assert [record["id"] for record in records] == ["one", "five"]
    assert records[0]["answers"] == [{"text": "October", "start": 23}]
    with pytest.raises(DataError, match=r"a\.json, question one: the answer '1973' does not stand at its start"):
        read_squad(path, strict=True)
    with pytest.warns(DataWarning, match="and 3 questions that have no other"):
        assert read_records(path, ("question", "context", "answers")) == records


def test_where_answers_are_not_asked_for_they_decide_about_no_question(tmp_path: Path) -> None:
    odd = question("three", ("1973", 31), answers=[{"text": None}, "x", {"text": "1973", "answer_start": 31}])
    asked = [question("one", ("1973", 3)), question("two", ("1973", 31), ("October", 24)), odd]
    path = write(tmp_path / "a.json", *asked, question("four", answers="1973"))
    records = read_records(path, ("question", "context"))  # and without a warning
    assert [record["id"] for record in records] == ["one", "two", "three", "four"]
    assert [[one["text"] for one in record["answers"]] for record in records] == [[], ["1973"], ["1973"], []]
    assert list(iterate_records(path, ("question", "context"), skip=1)) == records[1:]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "a.json is not JSON"),
        ('{"data": []}', "holds no questions"),
        ('["x"]', "a.json is a list, not a mapping: no file of SQuAD's form"),
        ('{"dat": []}', "a.json has no column 'data'; did you mean 'dat'?"),
        ('{"data": [{"title": "T"}]}', "a.json, article 1 has no column 'paragraphs'"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "article 1, paragraph 1 has no column 'context'"),
        ('{"data": [{"paragraphs": [{"context": null, "qas": []}]}]}', "'context' is null"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}',
            "question 'b' has no column 'id'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b", "id": "i", "answers": ["c"]}]}]}]}',
            "question i is text, not a mapping",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b", "id": "i", "answers": 5}]}]}]}',
            "question i: 'answers' is the number 5, which it is not in a file of SQuAD's form",
        ),
    ],
)
def test_errors(tmp_path: Path, document: str, message: str) -> None:
    (tmp_path / "a.json").write_text(document, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_squad(tmp_path / "a.json")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_real_file(shared_data: Path) -> None:
    records = read_squad(shared_data / "squad" / "squad-v1.1-48-articles.json", strict=True)
    assert len(records) == len({record["id"] for record in records}) == 10_570
    assert len({record["title"] for record in records}) == 48
    assert records[0]["answers"][0] == {"text": "October 1973", "start": 29}
