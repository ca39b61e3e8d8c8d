"""Copying after a pause, and from scattered places."""

from __future__ import annotations

import numpy as np

from attentune.evaluation.suites.copy import Copy


def test_the_symbols_are_asked_for_after_the_signal() -> None:
    suite = Copy(symbols=3, alphabet=4, pause=2)
    found = suite.examples(100, np.random.default_rng(0))
    assert (suite.vocab_size, suite.length) == (6, 8)
    assert ((found.ids[:, :3] >= 2) & (found.ids[:, :3] < 6)).all()
    assert (found.ids[:, 3:] == [0, 0, 1, 0, 0]).all()
    assert (found.targets[:, 5:] == found.ids[:, :3]).all()
    assert (found.targets[:, :5] == -100).all()


def test_selective_copying_scatters_the_symbols_in_order() -> None:
    found = Copy(symbols=3, alphabet=4, pause=7, selective=True).examples(300, np.random.default_rng(0))
    front = found.ids[:, :10]
    assert ((front != 0).sum(1) == 3).all()
    assert (front[front != 0].reshape(300, 3) == found.targets[:, 10:]).all()
    assert ((front != 0).mean(0) > 0.15).all()  # everywhere
    assert (found.ids[:, 10:] == [1, 0, 0]).all()


def test_the_published_setting() -> None:
    assert (Copy().length, Copy().vocab_size, str(Copy())) == (120, 10, "copy")
