"""ListOps: expressions and their values."""

from __future__ import annotations

import numpy as np
import pytest

from attentune.errors import SpecError
from attentune.evaluation.suites.listops import OPERATORS, ListOps, value_of

DEEP = ListOps(depth=5, arguments=4, shortest=10, longest=60)


@pytest.mark.parametrize(
    ("operator", "arguments", "value"),
    [("MIN", [4, 2, 9], 2), ("MAX", [4, 2, 9], 9), ("SM", [4, 2, 9], 5), ("MED", [4, 2, 9], 4), ("MED", [1, 8], 4)],
)
def test_operators(operator: str, arguments: list[int], value: int) -> None:
    assert value_of(operator, arguments) == value


def evaluated(tokens: list[int]) -> tuple[int, int]:
    """The value of an expression read from left to right with a stack, and how deep it nests."""
    stack: list[list[int]] = []
    deepest = 0
    for place, token in enumerate(tokens):
        if token < 11:
            stack[-1].append(token - 1)
        elif token < 15:
            stack.append([token - 11])
            deepest = max(deepest, len(stack))
        else:
            operator, *arguments = stack.pop()
            assert 2 <= len(arguments) <= 4
            numbers = np.array(arguments)
            values = [numbers.min(), numbers.max(), int(np.median(numbers)), numbers.sum() % 10]
            if not stack:
                assert place == len(tokens) - 1
                return int(values[operator]), deepest
            stack[-1].append(int(values[operator]))
    raise AssertionError("the expression is not closed")


def test_the_last_token_is_asked_for_the_value() -> None:
    found = DEEP.examples(60, np.random.default_rng(0))
    assert found.lengths is not None
    assert found.lengths.min() > 10 and found.lengths.max() < 60
    depths = []
    for ids, targets, length in zip(found.ids, found.targets, found.lengths, strict=True):
        value, depth = evaluated(ids[:length].tolist())
        depths.append(depth)
        assert (ids[length:] == 0).all()
        assert targets[length - 1] == 1 + value
        assert (np.delete(targets, length - 1) == -100).all()
    assert max(depths) == 4  # digits stand on the fifth level
    assert OPERATORS == ("MIN", "MAX", "MED", "SM")


def test_digits_and_operators_are_drawn_alike() -> None:
    found = ListOps(depth=3, arguments=3, shortest=2, longest=40).examples(600, np.random.default_rng(0))
    counts = np.bincount(found.ids.ravel(), minlength=16)
    assert counts[1:11] / counts[1:11].sum() == pytest.approx(np.full(10, 0.1), abs=0.02)
    assert counts[11:15] / counts[11:15].sum() == pytest.approx(np.full(4, 0.25), abs=0.04)


def test_the_long_range_arena_is_the_default() -> None:
    suite = ListOps()
    assert (suite.depth, suite.arguments, suite.shortest, suite.longest, suite.length) == (10, 10, 500, 2000, 1999)
    found = suite.examples(3, np.random.default_rng(1))
    assert found.lengths is not None and found.lengths.min() > 500


def test_lengths_that_no_expression_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="no length is between shortest=7 and longest=8"):
        ListOps(shortest=7, longest=8)
    monkeypatch.setattr("attentune.evaluation.suites.listops.TRIES", 200)
    with pytest.raises(SpecError, match="none of 200 expressions"):
        ListOps(depth=2, arguments=3, shortest=50, longest=60).examples(1, np.random.default_rng(0))
