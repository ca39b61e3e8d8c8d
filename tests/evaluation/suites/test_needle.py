"""A fact in a long text: where it stands, what is asked, and which grid is scored."""

from __future__ import annotations

import numpy as np
import pytest

from attentune.data.tokenizers import train_tokenizer
from attentune.errors import DataError, SpecError
from attentune.evaluation.suites.needle import Needle, NeedleTask

TEXT = "The quick brown fox jumps over the lazy dog, again and again. " * 40


def task(needle: Needle, *, context: int = 400, text: str = TEXT) -> NeedleTask:
    tokenizer = train_tokenizer("char", [text, needle.alphabet])
    return needle.bind(text, text, tokenizer, context=context, source="a text")


def read(bound: NeedleTask, ids: np.ndarray) -> str:
    return bound.tokenizer.decode(ids.tolist())


def test_a_row_reads_as_text_with_a_fact_and_asks_for_its_number() -> None:
    bound = task(Needle(lengths=(200,), depths=(0.5,)))
    found = bound.test(10, np.random.default_rng(0))
    for ids, targets in zip(found.ids, found.targets, strict=True):
        whole = read(bound, ids)
        answer = read(bound, targets[targets != -100])
        assert whole.endswith(answer[:-1]) and answer.startswith(" ") and answer[1:].isdigit() and len(answer) == 5
        key = whole.split("What is the secret number of ")[1].split("?")[0]
        fact = f" The secret number of {key} is{answer}."
        before, after = whole.split(fact)
        assert after[0] == " "  # a word begins behind the fact
        assert TEXT.find(before) >= 0
        assert (targets != -100).nonzero()[0].tolist() == list(range(195, 200))


def test_depths_and_lengths_make_a_grid_with_as_many_rows_each() -> None:
    bound = task(Needle(lengths=(300, 150), depths=(0.0, 1.0)))
    found = bound.test(7, np.random.default_rng(0))
    assert found.groups is not None and found.lengths is not None
    assert dict.fromkeys(found.groups) == dict.fromkeys(
        ["length 150, depth 0", "length 150, depth 1", "length 300, depth 0", "length 300, depth 1"]
    )
    assert len(found) == 8 and found.lengths.tolist() == [150] * 4 + [300] * 4
    first, last = read(bound, found.ids[0][:150]), read(bound, found.ids[2][:150])
    assert first.startswith(" The secret number")
    assert ". What is the secret" in last and last.index("The secret") > 30


def test_training_draws_lengths_and_depths() -> None:
    bound = task(Needle(lengths=(300, 150)))
    found = bound.training(60, np.random.default_rng(0))
    assert found.lengths is not None and set(found.lengths.tolist()) == {150, 300}
    rows = [read(bound, ids[:length]) for ids, length in zip(found.ids, found.lengths, strict=True)]
    places = [row.index(" The secret number of") / len(row) for row in rows]
    assert min(places) < 0.1 and max(places) > 0.5


def test_lengths_follow_the_context_where_none_are_named() -> None:
    assert task(Needle()).needles.lengths == (100, 200, 400)


def test_the_answer_never_stands_in_the_question() -> None:
    with pytest.raises(SpecError, match="question must not hold"):
        Needle(question="Is it {number}?")
    with pytest.raises(SpecError, match="fact and answer must hold"):
        Needle(fact="Nothing.")


@pytest.mark.parametrize(
    ("needle", "says"),
    [
        (Needle(lengths=(60,)), r"a row of 60 tokens has no room for text beside the needle.*needle\(lengths="),
        (Needle(lengths=(5000,)), "a text has 2480 tokens, a row of 5000 needs as many"),
    ],
)
def test_rows_that_cannot_be_made(needle: Needle, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        task(needle)


def test_depths_outside_of_the_row() -> None:
    with pytest.raises(SpecError, match="depths must be between 0 and 1"):
        Needle(depths=(1.5,))


def test_a_tokenizer_that_does_not_know_the_needle() -> None:
    with pytest.raises(DataError, match=r"unknown|does not know"):
        Needle(lengths=(200,)).bind(TEXT, TEXT, train_tokenizer("char", [TEXT]), context=200, source="a text")


def test_the_text_is_part_of_what_decides_the_result() -> None:
    one, other = task(Needle(lengths=(200,))), task(Needle(lengths=(200,)), text=TEXT.upper())
    assert one.identity() != other.identity()
    assert one.identity() == task(Needle(lengths=(200,))).identity()
