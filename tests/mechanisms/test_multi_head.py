from __future__ import annotations

import pytest
import torch
from torch import nn

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.multi_head import MultiHead


def test_one_head_of_one_column_by_hand() -> None:
    layer = Attention(attention("heads=1"), width=1)
    weights = layer.held["heads"][0]
    with torch.no_grad():
        weights.qkv.fill_(1.0)
        weights.out.fill_(2.0)
    y = layer(torch.tensor([[[0.0], [1.0]]]), Layout.plain(2)).y
    # the first query scores both keys 0: (0 + 1) / 2; the second scores them 0 and 1: e / (1 + e); then twice that
    assert torch.allclose(y[0, :, 0], torch.tensor([1.0, 2 * 0.7310585786]), atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_module_of_torch(causal: bool) -> None:
    theirs = nn.MultiheadAttention(12, 3, bias=True, batch_first=True, dtype=torch.float64)
    ours = Attention(attention(f"heads=3, mask={'causal' if causal else 'full'}"), width=12, bias=True).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
        held = ours.held["heads"][0]
        held.qkv.copy_(theirs.in_proj_weight)
        held.qkv_bias.copy_(theirs.in_proj_bias)
        held.out.copy_(theirs.out_proj.weight)
        held.out_bias.copy_(theirs.out_proj.bias)
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=hidden, need_weights=False)
    assert torch.allclose(ours(x, Layout.plain(7)).y, expected, atol=1e-12)


def test_cross_attention_equals_the_module_of_torch() -> None:
    theirs = nn.MultiheadAttention(8, 2, bias=False, batch_first=True, dtype=torch.float64)
    ours = Attention(attention("heads=2"), width=8, cross=True).double()
    with torch.no_grad():
        held = ours.held["heads"][0]
        held.q.copy_(theirs.in_proj_weight[:8])
        held.kv.copy_(theirs.in_proj_weight[8:])
        held.out.copy_(theirs.out_proj.weight)
    x, context = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    layout = Layout.cross(Layout.plain(5).query, Layout.plain(3).key)
    expected, _ = theirs(x, context, context, need_weights=False)
    assert torch.allclose(ours(x, layout, source=context).y, expected, atol=1e-12)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(SpecError, match="heads must divide the width, got heads=4, width=6"):
        Attention(attention("heads=4"), width=6)
    with pytest.raises(SpecError, match="got 0"):
        MultiHead(heads=0)
