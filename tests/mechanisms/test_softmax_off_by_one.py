from __future__ import annotations

from math import log

import pytest
import torch

from attentune.mechanisms import attention
from attentune.mechanisms.softmax_off_by_one import SoftmaxOffByOne
from kernels.attending import attend, operands, sizes


def test_by_hand() -> None:
    s = torch.tensor([[[[0.0, log(2.0), 9.0]]]], dtype=torch.float64)
    p = SoftmaxOffByOne().weights({}, s, torch.tensor([True, True, False]))
    assert p.flatten().tolist() == pytest.approx([0.25, 0.5, 0.0], abs=1e-15)


def test_equals_softmax_with_one_more_key_whose_score_and_value_are_zero() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 5)
    longer_k, longer_v = (torch.cat([t, torch.zeros_like(t[:, :, :1])], 2) for t in (k, v))
    expected = (q @ longer_k.mT / 2).softmax(-1) @ longer_v
    assert torch.allclose(attend("heads=2, normalizer=softmax-off-by-one", q, k, v).output, expected, atol=1e-12)


def test_extreme_scores_and_rows_that_see_nothing() -> None:
    s = torch.tensor([[[[1e4, -1e4], [-1e4, -1e4], [3.0, 4.0]]]], requires_grad=True)
    visible = torch.tensor([[True, True], [True, True], [False, False]])
    p = SoftmaxOffByOne().weights({}, s, visible)
    assert p.flatten().tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(p.sum(), s)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 0, 2].tolist() == [0.0, 0.0]
