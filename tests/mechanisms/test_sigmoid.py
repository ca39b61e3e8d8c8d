from __future__ import annotations

from math import log

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.sigmoid import Sigmoid
from kernels.attending import attend, operands, sizes

S = torch.tensor([[[[0.0, log(3.0), 9.0]], [[-log(3.0), 0.0, 9.0]]]], dtype=torch.float64)  # [1 2 1 3]
SEEN = torch.tensor([True, True, False])


def test_by_hand_with_the_papers_bias() -> None:
    p = Sigmoid().weights({}, S, SEEN)  # sigmoid(x - log 2) = 1 / (1 + 2 exp(-x))
    assert p.flatten().tolist() == pytest.approx([1 / 3, 3 / 5, 0.0, 1 / 7, 1 / 3, 0.0], abs=1e-15)
    assert Sigmoid().weights({}, torch.zeros(1, 1, 1, 4), None).flatten().tolist() == pytest.approx([0.2] * 4)


def test_by_hand_with_a_bias_of_the_users() -> None:
    p = Sigmoid(bias=0.0).weights({}, S, SEEN)
    assert p.flatten().tolist() == pytest.approx([1 / 2, 3 / 4, 0.0, 1 / 4, 1 / 2, 0.0], abs=1e-15)
    p = Sigmoid(bias=-log(3.0)).weights({}, S, None)
    assert p.flatten()[:2].tolist() == pytest.approx([1 / 4, 1 / 2], abs=1e-15)


def test_each_head_learns_a_bias_beside_it() -> None:
    declared = Sigmoid(learned=True).parameters(sizes(attention("heads=2")))
    assert {name: one.shape for name, one in declared.items()} == {"bias": (2,)}
    bias = torch.tensor([0.0, log(2.0)], dtype=torch.float64, requires_grad=True)
    p = Sigmoid(learned=True).weights({"bias": bias}, S, SEEN)
    assert p.flatten().tolist() == pytest.approx([1 / 3, 3 / 5, 0.0, 1 / 4, 1 / 2, 0.0], abs=1e-15)
    (gradient,) = torch.autograd.grad(p.sum(), bias)  # sigmoid' = p (1 - p)
    assert gradient.tolist() == pytest.approx([2 / 9 + 6 / 25, 3 / 16 + 1 / 4])
    assert not Sigmoid().parameters(sizes(attention("heads=2")))


def test_a_causal_row_counts_the_keys_it_sees() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 4)
    found = attend("heads=2, mask=causal, normalizer=sigmoid", q, k, v).output
    n = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]
    p = torch.sigmoid(q @ k.mT / 2 - n.log()).tril()
    assert torch.allclose(found, p @ v, atol=1e-12)


def test_errors() -> None:
    with pytest.raises(SpecError, match=r"sigmoid.bias: .*got inf"):
        Sigmoid(bias=float("inf"))
