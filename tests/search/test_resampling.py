"""Scores with parts of the records left out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from attentune.data.records import Record
from attentune.errors import DataError
from attentune.search.resampling import PARTS, losses_left_out
from attentune.tasks.task import Prediction, Scores

RECORDS = [Record({"value": number}, f"line {number}") for number in range(60)]
SAID = [Prediction(number % 2) for number in range(60)]


def mean(predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
    assert [one.value for one in predictions] == [record["value"] % 2 for record in records]
    return Scores({"mean": sum(one.value for one in predictions) / len(predictions)}, "mean")


def test_every_record_is_left_out_once() -> None:
    found = losses_left_out(mean, SAID, RECORDS)
    assert len(found) == PARTS == 20
    assert sum(found) == pytest.approx(-20 * 0.5)
    assert found == losses_left_out(mean, SAID, RECORDS)
    assert len(losses_left_out(mean, SAID[:7], RECORDS[:7])) == 7


def test_parts_of_many_records_may_be_scored_by_themselves() -> None:
    records = [Record({"value": number}, f"line {number}") for number in range(800)]
    said, scored = [Prediction(number % 2) for number in range(800)], []

    def counted(predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        scored.append(len(records))
        return mean(predictions, records)

    quick = losses_left_out(counted, said, records, slow=True)
    assert scored == [40] * PARTS
    assert quick == pytest.approx(losses_left_out(counted, said, records))  # a mean: the same either way
    assert scored[PARTS:] == [760] * PARTS
    assert losses_left_out(mean, SAID, RECORDS, slow=True) == losses_left_out(mean, SAID, RECORDS)  # too few


def test_where_a_part_of_the_records_has_no_score_there_is_none() -> None:
    assert losses_left_out(mean, SAID[:1], RECORDS[:1]) == ()
    assert losses_left_out(lambda *_: Scores({"mean": float("nan")}, "mean"), SAID, RECORDS) == ()

    def refuse(predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        raise DataError("only with all of them")

    assert losses_left_out(refuse, SAID, RECORDS) == ()


def test_records_that_stay_together_are_left_out_together() -> None:
    groups = [range(begin, begin + 5) for begin in range(0, 60, 5)]
    kept: list[set[object]] = []

    def looked(predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        kept.append({one["value"] for one in records})
        return mean(predictions, records)

    assert len(losses_left_out(looked, SAID, RECORDS, groups=groups)) == len(groups)
    assert sorted(min(set(range(60)) - each) for each in kept) == list(range(0, 60, 5))
    assert all(len(each) == 55 for each in kept)
    assert losses_left_out(mean, SAID, RECORDS, groups=[range(60)]) == ()
