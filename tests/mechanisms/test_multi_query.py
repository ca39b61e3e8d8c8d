from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from kernels.attending import attend, operands, sizes


def test_all_query_heads_read_one_key_value_head() -> None:
    spec = attention("heads=multi_query(3), mask=causal")
    q, k, v = operands(sizes(spec), 5)
    assert k.shape[1] == 1
    expected = scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q), is_causal=True)
    assert torch.allclose(attend(spec, q, k, v).output, expected, atol=1e-12)


def test_is_grouped_with_one_group_and_caches_one_head() -> None:
    query, grouped = (Attention(attention(f"heads={h}"), width=8).double() for h in ("multi_query(4)", "4/1"))
    grouped.load_state_dict(query.state_dict())
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    assert torch.equal(query(x, Layout.plain(6)).y, grouped(x, Layout.plain(6)).y)
    assert query.spec.heads.entry_shapes(query.dims) == {"k": (1, 2), "v": (1, 2)}
