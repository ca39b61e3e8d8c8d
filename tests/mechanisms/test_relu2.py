from __future__ import annotations

import torch

from attentune.mechanisms import attention
from attentune.mechanisms.relu2 import Relu2
from kernels.attending import attend, operands, sizes


def test_by_hand() -> None:
    s = torch.tensor([[[[-3.0, 2.0, 1.0, 5.0]]]], requires_grad=True)
    p = Relu2().weights({}, s, None)
    assert p.flatten().tolist() == [0.0, 1.0, 0.25, 6.25]
    p = Relu2().weights({}, s, torch.tensor([True, True, False, False]))  # two keys are seen
    assert p.flatten().tolist() == [0.0, 2.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(p.sum(), s)
    assert gradient.flatten().tolist() == [0.0, 2.0, 0.0, 0.0]  # 2 s / n


def test_a_causal_row_is_divided_by_the_keys_it_sees() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 4)
    found = attend("heads=2, mask=causal, normalizer=relu2", q, k, v).output
    n = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]
    assert torch.allclose(found, ((q @ k.mT / 2).clamp(min=0) ** 2 / n).tril() @ v, atol=1e-12)


def test_where_all_is_seen_it_is_the_papers_division_by_length() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 7)
    found = attend("heads=2, normalizer=relu2", q, k, v).output
    assert torch.allclose(found, (q @ k.mT / 2).clamp(min=0) ** 2 / 7 @ v, atol=1e-12)
