from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.grouped import Grouped
from kernels.attending import attend, operands, sizes


def test_query_heads_read_key_value_heads_in_torchs_order() -> None:
    spec = attention("heads=6/2")
    q, k, v = operands(sizes(spec), 5)
    expected = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert torch.allclose(attend(spec, q, k, v).output, expected, atol=1e-12)


def test_each_value_head_reaches_its_own_group_by_hand() -> None:
    spec = attention("heads=4/2")
    q, k = torch.zeros(1, 4, 1, 1), torch.zeros(1, 2, 1, 1)
    v = torch.tensor([10.0, 20.0]).view(1, 2, 1, 1)
    assert attend(spec, q, k, v).output.flatten().tolist() == [10.0, 10.0, 20.0, 20.0]


def test_equals_multi_head_with_repeated_key_value_heads() -> None:
    grouped, full = (
        Attention(attention("heads=4/2"), width=8).double(),
        Attention(attention("heads=4"), width=8).double(),
    )
    few, many = grouped.held["heads"][0], full.held["heads"][0]
    with torch.no_grad():
        q, k, v = few.qkv.split([8, 4, 4])
        repeated = [part.view(2, 2, 8).repeat_interleave(2, 0).reshape(8, 8) for part in (k, v)]
        many.qkv.copy_(torch.cat([q, *repeated]))
        many.out.copy_(few.out)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    assert torch.allclose(grouped(x, Layout.plain(5)).y, full(x, Layout.plain(5)).y, atol=1e-14)


def test_what_a_token_costs_in_the_cache() -> None:
    dims = sizes(attention("heads=8/2"), head_width=16)
    assert Grouped(heads=8, groups=2).entry_shapes(dims) == {"k": (2, 16), "v": (2, 16)}


def test_groups_must_divide_heads() -> None:
    with pytest.raises(SpecError, match="groups must divide heads, got heads=8, groups=3"):
        attention("heads=8/3")


def test_heads_may_be_of_a_width_of_their_own() -> None:
    spec = attention("heads=grouped(3, 1, head_width=6)")
    assert str(spec) == "heads=grouped(3, 1, head_width=6)"
    module = Attention(spec, width=8)
    assert (module.dims.head_width, module.dims.value_width) == (6, 6)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert shapes == {"heads.0.qkv": (5 * 6, 8), "heads.0.out": (8, 3 * 6)}
    assert module(torch.randn(2, 5, 8), Layout.plain(5)).y.shape == (2, 5, 8)
