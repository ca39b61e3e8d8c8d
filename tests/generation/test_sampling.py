"""Drawing the next token, against hand-computed shares."""

from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.generation import Sampling, draw, probabilities

LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def test_plain_probabilities_are_the_softmax() -> None:
    torch.testing.assert_close(probabilities(LOGITS, Sampling()), torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def test_temperature_of_one_half_squares_the_shares() -> None:
    squares = torch.tensor([[0.25, 0.09, 0.0225, 0.0025]])
    torch.testing.assert_close(probabilities(LOGITS, Sampling(temperature=0.5)), squares / squares.sum())


def test_top_k_keeps_the_k_likeliest() -> None:
    torch.testing.assert_close(probabilities(LOGITS, Sampling(top_k=2)), torch.tensor([[0.625, 0.375, 0.0, 0.0]]))


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert (probabilities(LOGITS, Sampling(top_k=99)) > 0).all()


@pytest.mark.parametrize(("share", "kept"), [(0.4, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)])
def test_top_p_keeps_the_smallest_set_that_holds_the_share(share: float, kept: int) -> None:
    assert int((probabilities(LOGITS, Sampling(top_p=share)) > 0).sum()) == kept


def test_top_p_applies_to_what_top_k_left() -> None:
    assert probabilities(LOGITS, Sampling(top_k=2, top_p=0.62)).tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_greedy_takes_the_likeliest() -> None:
    assert draw(LOGITS, Sampling(greedy=True), torch.Generator()).tolist() == [0]


def test_draws_follow_the_shares_and_the_seed() -> None:
    many = LOGITS.expand(20_000, -1)
    first = draw(many, Sampling(), torch.Generator().manual_seed(3))
    again = draw(many, Sampling(), torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    share = torch.bincount(first, minlength=4) / len(first)
    torch.testing.assert_close(share, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.015, rtol=0)


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 1e-300])
def test_the_smallest_temperature_takes_the_likeliest(temperature: float) -> None:
    shares = probabilities(1e4 * LOGITS, Sampling(temperature=temperature))
    assert shares.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_logits_that_are_not_numbers_are_refused() -> None:
    broken = torch.tensor([[0.0, float("nan")]])
    for sampling in (Sampling(), Sampling(greedy=True)):
        with pytest.raises(SpecError, match="logits are not numbers"):
            draw(broken, sampling, torch.Generator())
