from __future__ import annotations

from math import log

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.top_k import TopK
from kernels.attending import attend, operands, sizes


def test_by_hand() -> None:
    s = torch.tensor([[[[log(3.0), 0.0, log(2.0), 9.0]]]], dtype=torch.float64, requires_grad=True)
    p = TopK(keys=2).weights({}, s, torch.tensor([True, True, True, False]))
    assert p.flatten().tolist() == pytest.approx([0.6, 0.0, 0.4, 0.0], abs=1e-15)
    (gradient,) = torch.autograd.grad(p[..., 0].sum(), s)
    assert gradient.flatten().tolist() == pytest.approx([0.24, 0.0, -0.24, 0.0], abs=1e-15)  # none to the others


def test_ties_with_the_last_all_stay_in_any_order() -> None:
    s = torch.tensor([1.0, 0.0, 1.0, 2.0, 1.0]).view(1, 1, 1, 5)
    p = TopK(keys=2).weights({}, s, None)
    assert p[0, 0, 0, 1] == 0 and (p > 0).sum() == 4
    order = torch.tensor([4, 1, 3, 0, 2])
    assert torch.allclose(TopK(keys=2).weights({}, s[..., order], None), p[..., order], rtol=1e-6)


def test_enough_keys_is_softmax_also_row_by_row() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 5)
    plain = attend("heads=2, mask=causal", q, k, v).output
    for keys in (5, 8):
        assert torch.equal(attend(f"heads=2, mask=causal, normalizer=top_k({keys})", q, k, v).output, plain)
    three = attend("heads=2, mask=causal, normalizer=top_k(3)", q, k, v).output
    assert torch.allclose(three[:, :, :3], plain[:, :, :3], atol=1e-15)
    assert not torch.allclose(three[:, :, 4], plain[:, :, 4])


def test_one_key_is_the_value_of_the_best() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 4)
    best = (q @ k.mT).argmax(-1)
    expected = v.gather(2, best[..., None].expand_as(v))
    assert torch.allclose(attend("heads=2, normalizer=top_k(1)", q, k, v).output, expected, atol=1e-15)


def test_at_least_one_key() -> None:
    with pytest.raises(SpecError, match=r"top_k.keys: .*got 0"):
        TopK(keys=0)
