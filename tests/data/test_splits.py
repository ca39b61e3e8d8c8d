"""Parts of records: reproducible, even by label, whole by group, and free of each other's texts."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from attentune.data.encoding import DataWarning
from attentune.data.record import Record
from attentune.data.records import read_records
from attentune.data.splits import duplicates, split, without
from attentune.errors import DataError


def made(column: str, *cells: Any) -> list[Record]:
    return [Record({column: cell, "n": number}, f"made, line {number}") for number, cell in enumerate(cells, start=1)]


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    records = made("text", *map(str, range(100)))
    kept, drawn = split(records, 0.25, 3)
    assert (len(kept), len(drawn)) == (75, 25)
    assert sorted([*kept, *drawn], key=lambda record: record["n"]) == records
    assert drawn == sorted(drawn, key=lambda record: record["n"])
    assert split(records, 0.25, 3) == (kept, drawn)
    assert split(records, 0.25, 4) != (kept, drawn)


def test_each_label_gives_its_share() -> None:
    records = made("label", *["a"] * 700, *["b"] * 250, *["c"] * 45, *["d"] * 4, "e")
    kept, drawn = split(records, 0.1, 0, by="label")
    counts = Counter(record["label"] for record in drawn)
    assert len(drawn) == 100
    assert (counts["a"], counts["b"]) == (70, 25)
    assert counts["c"] in (4, 5)
    assert {record["label"] for record in kept} == set("abcde")
    # No label is left without a record to learn it from, however large the share.
    kept, drawn = split(made("label", *"aaabbc"), 0.8, 0, by="label")
    assert {record["label"] for record in kept} == set("abc")


def test_lists_and_numbers_are_labels_too() -> None:
    records = made("label", *[["x", "y"]] * 10, *[3] * 10)
    _, drawn = split(records, 0.5, 0, by="label")
    assert sorted(str(record["label"]) for record in drawn) == ["3"] * 5 + ["['x', 'y']"] * 5


def test_groups_stay_together() -> None:
    records = made("title", *(title for number, title in enumerate("abcdefghij") for _ in range(3 + number)))
    for seed in range(20):
        kept, drawn = split(records, 0.2, seed, group="title")
        assert not {record["title"] for record in kept} & {record["title"] for record in drawn}
        assert abs(len(drawn) - 0.2 * len(records)) <= 6
    assert split(records, 0.2, 1, group="title") != split(records, 0.2, 2, group="title")


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (10, {"share": 0}, "share must be above 0 and below 1, got 0"),
        (10, {"share": 1.5}, "share must be above 0 and below 1, got 1.5"),
        (10, {"share": 0.5, "by": "text", "group": "n"}, "by label ('text') or keeps groups together ('n'), not both"),
        (10, {"share": 0.01}, "a share of 0.01 of 10 records leaves one part empty"),
        (1, {"share": 0.5}, "leaves one part empty"),
        (10, {"share": 0.5, "group": "text"}, "a share of 0.5 of 1 groups leaves one part empty"),
        (10, {"share": 0.5, "by": "label"}, "made, line 1 has no column 'label'"),
    ],
)
def test_errors(count: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        split(made("text", *["x"] * count), **options)
    assert message in str(caught.value)


def test_duplicates_are_counted_warned_of_and_dropped() -> None:
    train = made("text", "Good  film", "bad", "new")
    test = made("text", "good film\n", "other", "BAD", "bad", ["new"])
    with pytest.warns(
        DataWarning, match=r"3 of 5 dev records \(60\.0%\) also stand in learnt \(the same in column text\)"
    ):
        found = duplicates(train, test, ["text"], names=("learnt", "dev"))
    assert (found.train, found.test, found.of, found.share) == ((0, 1), (0, 2, 3), 5, 0.6)
    assert [record["text"] for record in without(test, found.test)] == ["other", ["new"]]
    assert [record["text"] for record in without(train, found.train)] == ["new"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert duplicates(without(train, found.train), test, ["text"]).test == ()
        assert duplicates(train, test, ["text"], warn=False) == found
    with pytest.raises(DataError, match="at least one column"):
        duplicates(train, test, [])


def test_columns_are_compared_together() -> None:
    train, test = made("text", "a", "b"), made("text", "b", "b")
    with pytest.warns(DataWarning, match="1 of 2 test records"):
        assert duplicates(train, test, ["text", "n"]).test == (1,)


def test_real_data(shared_data: Path) -> None:
    folder = shared_data / "chnsenticorp"
    train, test = (read_records(folder / f"{part}.tsv", ("label", "text_a")) for part in ("train", "test"))
    with pytest.warns(DataWarning, match="331 of 1200 test records"):
        found = duplicates(train, test, ["text_a"])
    with pytest.warns(DataWarning, match="325 of 1200 test records"):  # the others have another label in train
        duplicates(train, test, ["text_a", "label"])
    assert len(without(train, found.train)) == 9_600 - 345
    questions = read_records(shared_data / "squad" / "squad-v1.1-48-articles.json")
    kept, drawn = split(questions, 0.2, 0, group="title")
    assert abs(len(drawn) / len(questions) - 0.2) < 0.01
    assert not {record["title"] for record in kept} & {record["title"] for record in drawn}
