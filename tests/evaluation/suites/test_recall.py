"""Multi-query associative recall: pairs, then keys whose values are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from attentune.errors import SpecError
from attentune.evaluation.suites.recall import Recall


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_each_key_comes_back_once_and_asks_for_its_value() -> None:
    suite = Recall(pairs=3, noise=False, row=20, vocabulary=32)
    found = suite.examples(200, generator())
    assert found.ids.shape == found.targets.shape == (200, 20)
    for ids, targets in zip(found.ids.tolist(), found.targets.tolist(), strict=True):
        keys, values = ids[0:6:2], ids[1:6:2]
        assert len(set(keys)) == len(set(values)) == 3
        assert all(1 <= key < 16 for key in keys) and all(16 <= value < 32 for value in values)
        asked = [place for place, target in enumerate(targets) if target != -100]
        assert all(place >= 6 and place % 2 == 0 for place in asked)
        assert sorted(ids[place] for place in asked) == sorted(keys)
        assert [targets[place] for place in asked] == [dict(zip(keys, values, strict=True))[ids[p]] for p in asked]
        assert all(ids[place] == 0 for place in range(6, 20) if place not in asked)


def test_gaps_follow_the_power_law() -> None:
    found = Recall(pairs=1, row=16, vocabulary=32, power=0.5).examples(20_000, generator())
    places = np.nonzero(found.targets != -100)[1]
    share = np.bincount((places - 2) // 2, minlength=7) / len(places)
    expected = np.arange(1, 8) ** (0.5 - 1)
    assert share == pytest.approx(expected / expected.sum(), abs=0.01)


def test_sixteen_pairs_fill_the_published_row() -> None:
    found = Recall(pairs=16).examples(5, generator())
    assert (found.targets != -100).sum(1).tolist() == [16] * 5
    assert (found.targets[:, 32::2] != -100).all()


def test_noise_fills_with_random_tokens_and_leaves_the_questions() -> None:
    plain, noisy = (Recall(noise=noise).examples(50, generator()) for noise in (False, True))
    assert (plain.targets == noisy.targets).all()
    kept = plain.ids != 0
    assert (noisy.ids[kept] == plain.ids[kept]).all()
    assert len(np.unique(noisy.ids[~kept])) > 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pairs": 17}, "17 pairs and their keys need a row of 68 tokens, got 64"),
        ({"row": 63}, "row must be even, got 63"),
        ({"pairs": 4, "vocabulary": 8}, "fewer than pairs=4 keys"),
        ({"power": 0}, "greater than 0, got 0"),
    ],
)
def test_settings_that_cannot_be_made(options: dict[str, float], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Recall(**options)
