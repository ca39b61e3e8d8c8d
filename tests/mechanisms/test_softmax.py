from __future__ import annotations

from math import log

import pytest
import torch

from attentune.mechanisms.softmax import Softmax


def test_by_hand() -> None:
    s = torch.tensor([[[[0.0, log(3.0), 50.0]]]], dtype=torch.float64)
    visible = torch.tensor([True, True, False])
    assert Softmax().weights({}, s, visible).flatten().tolist() == pytest.approx([0.25, 0.75, 0.0], abs=1e-15)
    assert torch.equal(Softmax().weights({}, s, None), s.softmax(-1))


def test_a_row_that_sees_nothing_is_zero_and_so_is_its_gradient() -> None:
    s = torch.randn(1, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    visible = torch.tensor([[True, True, False], [False, False, False]])
    p = Softmax().weights({}, s, visible)
    assert p[0, 0, 1].tolist() == [0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad((p * torch.randn_like(p)).sum(), s)
    assert gradient[0, 0, 1].tolist() == [0.0, 0.0, 0.0]
    assert gradient[0, 0, 0, 2] == 0.0
    assert gradient[0, 0, 0, 0] != 0.0


def test_large_scores_stay_finite() -> None:
    p = Softmax().weights({}, torch.tensor([[[[1e4, 1e4, -1e4]]]]), None)
    assert p.flatten().tolist() == [0.5, 0.5, 0.0]
