"""Symbols told backwards."""

from __future__ import annotations

import numpy as np

from attentune.evaluation.suites.palindrome import Palindrome


def test_a_row_by_hand() -> None:
    suite = Palindrome(symbols=3, alphabet=5)
    found = suite.examples(50, np.random.default_rng(0))
    assert (suite.length, suite.vocab_size) == (6, 6)
    for ids, targets in zip(found.ids.tolist(), found.targets.tolist(), strict=True):
        a, b, c = ids[:3]
        assert min(a, b, c) >= 1
        assert ids == [a, b, c, 0, c, b]
        assert targets == [-100, -100, -100, c, b, a]


def test_answers_are_read_so_that_no_model_may_look_ahead() -> None:
    assert Palindrome.reads_answers
