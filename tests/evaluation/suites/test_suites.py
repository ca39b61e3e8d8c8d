"""What all suites share: names, held-out examples, scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attentune.errors import SpecError
from attentune.evaluation.suites import SUITES, read_suite
from attentune.evaluation.suites.copy import Copy
from attentune.evaluation.suites.listops import ListOps
from attentune.evaluation.suites.recall import Recall
from attentune.evaluation.suites.scoring import batches, score_examples
from attentune.evaluation.suites.suite import Examples, Recipe, Suite, Task, draw

SMALL_LISTOPS = ListOps(depth=4, arguments=3, shortest=4, longest=30)


@pytest.mark.parametrize("name", sorted(SUITES))
def test_a_name_is_the_published_setting_and_reads_back(name: str) -> None:
    assert str(read_suite(name)) == name


@pytest.mark.parametrize(
    "text",
    ["recall(pairs=16)", "copy(selective=True)", "listops(depth=3, longest=40, shortest=2)", "needle(lengths=(64,))"],
)
def test_text_forms_read_back(text: str) -> None:
    suite = read_suite(text)
    assert read_suite(str(suite)) == suite
    assert str(suite) != suite.kind


def test_options_may_be_written_as_in_other_texts() -> None:
    assert read_suite("copy(selective=true)") == Copy(selective=True)
    assert read_suite("needle(lengths=[64, 128], depths=0.5)") == read_suite("needle(lengths=(64, 128), depths=(0.5,))")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recal", "unknown suite 'recal'; did you mean 'recall'?"),
        ("recall(pear=3)", "recall.pear is unknown; did you mean 'power' or 'pairs'?"),
        ("recall(3)", "say which option 3 is"),
        ("recall(pairs=4, pairs=5)", "option 'pairs' is given twice"),
        ("recall(", "cannot read suite"),
        ("recall(pairs=open('x'))", r"expected a number, a name or text, got \"open\('x'\)\""),
        ("recall(**x)", "option None is given twice"),
        ("recall(pairs=0)", "recall.pairs: .*greater than or equal to 1, got 0"),
    ],
)
def test_mistakes_are_named(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        read_suite(text)


@pytest.mark.parametrize("suite", [Recall(), Copy(), SMALL_LISTOPS])
def test_equal_seeds_draw_equal_examples_and_the_test_is_the_same_for_all(suite: Suite) -> None:
    recipe = Recipe(examples=60, test_examples=40)
    (train, test), (again, _), (other, same) = (draw(suite, recipe, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(train.ids, again.ids) and np.array_equal(train.targets, again.targets)
    assert not np.array_equal(train.ids, other.ids)
    assert np.array_equal(test.ids, same.ids)
    assert len(train) == 60 and len(test) == 40
    assert isinstance(suite, Task)


def test_no_example_to_train_on_is_also_held_out() -> None:
    suite = Copy(symbols=3, alphabet=4, pause=0)  # 64 different rows
    train, test = draw(suite, Recipe(examples=500, test_examples=20), seed=0)
    held_out = {row.tobytes() for row in test.ids}
    assert not any(row.tobytes() in held_out for row in train.ids)
    assert (train.targets[:, 3:] == train.ids[:, :3]).all()  # what was drawn anew has answers of its own


def test_too_few_different_examples_are_an_error() -> None:
    with pytest.raises(SpecError, match="has too few different examples to hold any out"):
        draw(Copy(symbols=1, alphabet=2, pause=0), Recipe(examples=10, test_examples=50), seed=0)


@dataclass
class Output:
    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    state: Any = None


class Knows(nn.Module):
    """Answers with the token `offset` above the one it reads."""

    def __init__(self, offset: int = 0, vocabulary: int = 16) -> None:
        super().__init__()
        self.offset, self.vocabulary = offset, vocabulary
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.layouts: list[Any] = []

    def forward(self, ids: Tensor, layout: Any = None) -> Output:
        self.layouts.append(layout)
        return Output(self.scale * nn.functional.one_hot((ids + self.offset) % self.vocabulary, self.vocabulary))


def echo(right: list[list[bool]], groups: tuple[str, ...] | None = None) -> Examples:
    """Rows that ask for the token itself where `right`, else for the one above it."""
    wanted = np.array(right)
    ids = np.broadcast_to(np.arange(1, 1 + wanted.shape[1]), wanted.shape).copy()
    return Examples(ids, np.where(wanted, ids, ids + 1), groups=groups)


def test_scores_by_hand() -> None:
    examples = echo([[True, True], [True, False], [False, False], [True, True]], groups=("a", "a", "b", "b"))
    examples.targets[3, 0] = -100
    model = Knows().train()
    answers = score_examples(model, examples, counts="answers", batch=3)
    assert (answers.answers, answers.rows) == (7, 4)
    assert answers.accuracy == answers.answers_right == pytest.approx(4 / 7)
    assert answers.rows_right == 0.5
    assert answers.groups == {"a": pytest.approx(3 / 4), "b": pytest.approx(1 / 3)}
    rows = score_examples(model, examples, counts="rows")
    assert rows.accuracy == 0.5 and rows.groups == {"a": 0.5, "b": 0.5}
    total = np.log(np.exp(5) + 15)
    assert answers.nats == pytest.approx((4 * (total - 5) + 3 * total) / 7, rel=1e-6)
    assert model.training


def test_padding_is_told_and_rows_are_cut_to_the_longest_of_a_batch() -> None:
    examples = Examples(np.ones((3, 9), int), np.full((3, 9), -100), np.array([4, 2, 4]))
    cpu = torch.device("cpu")
    (ids, _, layout), (_, _, full) = batches(examples, 2, cpu)
    assert ids.shape == (2, 4) and layout is not None and full is None
    assert layout.query.valid is not None
    assert layout.query.valid.tolist() == [[True] * 4, [True, True, False, False]]
    shapes = [tuple(ids.shape) for ids, _, _ in batches(examples, 2, cpu, equal_lengths=True)]
    assert shapes == [(1, 4), (1, 2), (1, 4)]


class Remembers(nn.Module):
    """Counts the tokens it has read, over all pieces, and answers with their number."""

    has_memory = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.spec = type("Spec", (), {"context": 4})()

    def forward(self, ids: Tensor, layout: Any = None, *, state: Any = None) -> Output:
        before = 0 if state is None else state
        counts = before + torch.arange(ids.shape[1])
        logits = nn.functional.one_hot(counts, 16).float().expand(len(ids), -1, -1) * self.weight
        return Output(logits, state=before + ids.shape[1])


def test_models_with_memory_read_long_rows_piece_by_piece() -> None:
    examples = Examples(np.ones((2, 11), int), np.full((2, 11), -100))
    examples.targets[:, 10] = 10
    assert score_examples(Remembers(), examples, counts="rows").accuracy == 1.0
