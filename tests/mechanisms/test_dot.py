from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from attentune.kernels import KERNELS
from attentune.mechanisms import attention
from attentune.mechanisms.dot import Dot
from kernels.attending import attend, operands, sizes


def test_by_hand() -> None:
    q, k = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 4.0], [1.0, -1.0]]]])
    dims = sizes(attention("heads=1"), head_width=2)
    assert Dot().scores({}, dims, q, k).flatten().tolist() == [11.0, -1.0]
    assert Dot().inner_product_scale(dims) == 1.0


def test_equals_torch_without_a_scale() -> None:
    spec = attention("heads=2, similarity=dot")
    q, k, v = operands(sizes(spec), 5)
    expected = scaled_dot_product_attention(q, k, v, scale=1.0)
    for kernel in ("reference", "sdpa"):
        assert torch.allclose(attend(spec, q, k, v, kernel=kernel).output, expected, atol=1e-12)
    assert set(KERNELS) >= {"reference", "sdpa"}


def test_equals_the_scaled_product_at_a_scale_of_one() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 5)
    one = attend("heads=2, similarity=scaled_dot(scale=1.0), position=alibi, mask=causal", q, k, v).output
    assert torch.equal(attend("heads=2, similarity=dot, position=alibi, mask=causal", q, k, v).output, one)
