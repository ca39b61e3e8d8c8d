from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attentune.mechanisms.sparsemax import sparsemax


def by_bisection(s: torch.Tensor) -> torch.Tensor:
    """The definition: p = max(s - tau, 0) with the tau at which p sums to 1."""
    low, high = s.amax(-1, keepdim=True) - 1, s.amax(-1, keepdim=True)
    for _ in range(80):
        middle = (low + high) / 2
        too_much = (s - middle).clamp(min=0).sum(-1, keepdim=True) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    return (s - low).clamp(min=0)


def test_by_hand() -> None:
    assert sparsemax(torch.tensor([-2.0, 0.0, 0.5])).tolist() == [0.0, 0.25, 0.75]
    assert sparsemax(torch.tensor([0.0, 0.0, 0.5])).tolist() == pytest.approx([1 / 6, 1 / 6, 2 / 3], abs=1e-7)
    assert sparsemax(torch.tensor([7.0])).tolist() == [1.0]
    assert sparsemax(torch.tensor([3.0, 3.0, 3.0, 3.0])).tolist() == [0.25] * 4
    assert sparsemax(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]  # a distance of 1 is where a key is dropped
    assert sparsemax(torch.tensor([1e30, -1e30, float("-inf")])).tolist() == [1.0, 0.0, 0.0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 30.0), st.integers(0, 10_000))
def test_equals_bisection(length: int, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    s = spread * torch.randn(3, length, dtype=torch.float64, generator=generator)
    p = sparsemax(s)
    assert torch.allclose(p, by_bisection(s), atol=1e-12)
    assert torch.allclose(p.sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-12)


def test_ties_share_equally_in_any_order() -> None:
    s = torch.tensor([0.25, 1.0, 0.25, 0.25, -3.0], dtype=torch.float64)
    p = sparsemax(s)
    assert p.tolist() == pytest.approx([0.0625, 0.8125, 0.0625, 0.0625, 0.0], abs=1e-15)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.equal(sparsemax(s[order]), p[order])


def test_the_gradient_is_that_of_the_support() -> None:
    s = torch.tensor([-2.0, 0.0, 0.5], requires_grad=True)
    (gradient,) = torch.autograd.grad(sparsemax(s) @ torch.tensor([100.0, 3.0, 1.0]), s)
    assert gradient.tolist() == [0.0, 1.0, -1.0]  # dp less its mean over the support, which is 2
    s = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sparsemax, (s,))
    assert torch.autograd.gradgradcheck(sparsemax, (s,))
