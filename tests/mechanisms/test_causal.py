from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from attentune.kernels import Layout
from attentune.mechanisms import attention
from attentune.mechanisms.causal import Causal
from attentune.spec.positions import Positions
from kernels.attending import attend, grid, operands, sizes


def test_a_query_sees_itself_and_the_past() -> None:
    assert grid("causal", 4) == ["x...", "xx..", "xxx.", "xxxx"]
    assert grid("~causal", 3) == [".xx", "..x", "..."]
    assert Causal().lookahead == 0


def test_equals_torch() -> None:
    spec = attention("heads=2, mask=causal")
    q, k, v = operands(sizes(spec), 5)
    expected = scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(attend(spec, q, k, v).output, expected, atol=1e-12)


def test_with_a_cache_the_newest_query_sees_everything() -> None:
    spec = attention("heads=2, mask=causal")
    q, k, v = operands(sizes(spec), 7)
    whole = attend(spec, q, k, v).output
    newest = Layout.plain(2).with_keys(Positions.arange(7))
    layout = Layout(newest.kind, Positions.arange(2, start=5), newest.key)
    assert torch.allclose(attend(spec, q[:, :, 5:], k, v, layout=layout).output, whole[:, :, 5:], atol=1e-12)
