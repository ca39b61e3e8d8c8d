from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attentune.mechanisms.entmax15 import Entmax15, entmax15


def by_bisection(s: torch.Tensor) -> torch.Tensor:
    """The definition: p = max(s / 2 - tau, 0)^2 with the tau at which p sums to 1."""
    x = s / 2
    low, high = x.amax(-1, keepdim=True) - 1, x.amax(-1, keepdim=True)
    for _ in range(80):
        middle = (low + high) / 2
        too_much = (x - middle).clamp(min=0).square().sum(-1, keepdim=True) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    return (x - low).clamp(min=0).square()


def test_golden_numbers() -> None:
    p = entmax15(torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64))
    assert p.tolist() == pytest.approx([0.0, 0.326, 0.674], abs=5e-4)
    assert entmax15(torch.tensor([7.0])).tolist() == [1.0]
    assert entmax15(torch.zeros(4)).tolist() == [0.25] * 4
    assert entmax15(torch.tensor([0.0, 2.0])).tolist() == [0.0, 1.0]  # a distance of 2 is where a key is dropped


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 30.0), st.integers(0, 10_000))
def test_equals_bisection(length: int, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    s = spread * torch.randn(3, length, dtype=torch.float64, generator=generator)
    p = entmax15(s)
    assert torch.allclose(p, by_bisection(s), atol=1e-9)
    assert torch.allclose(p.sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-12)


def test_gradients() -> None:
    s = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entmax15, (s,))
    assert (entmax15(s) == 0).any()
    assert torch.autograd.gradgradcheck(entmax15, (s,))
    visible = torch.tensor([[True, True, False, True, True, True], [False] * 6])

    def hidden(scores: torch.Tensor) -> torch.Tensor:
        return Entmax15().weights({}, scores[None, None], visible)

    assert torch.autograd.gradcheck(hidden, (s,))


def test_hidden_keys_and_rows_that_see_nothing_are_exactly_zero() -> None:
    s = torch.tensor([[[[1.0, 9.0, 1.0], [1.0, 2.0, 3.0]]]], requires_grad=True)
    p = Entmax15().weights({}, s, torch.tensor([[True, False, True], [False, False, False]]))
    assert p.flatten().tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0, 0.0, 0.0], abs=1e-6)
    assert (p[0, 0, 1] == 0).all() and p[0, 0, 0, 1] == 0
    (gradient,) = torch.autograd.grad((p * torch.arange(6.0).view(1, 1, 2, 3)).sum(), s)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 0, 1].tolist() == [0.0, 0.0, 0.0]
