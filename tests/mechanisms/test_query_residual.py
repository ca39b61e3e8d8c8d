from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention


def one_number(text: str, *, q: float, k: float, v: float) -> Attention:
    """A layer of width 1 with these weights and out = 1."""
    layer = Attention(attention(text), width=1).double()
    with torch.no_grad():
        layer.held["heads"][0].qkv.copy_(torch.tensor([[q], [k], [v]]))
        layer.held["heads"][0].out.fill_(1.0)
    return layer


def test_attention_and_the_query_by_hand() -> None:
    layer = one_number("heads=1, mask=causal, combine=query_residual", q=3.0, k=0.0, v=10.0)
    x = torch.tensor([[[1.0], [2.0]]], dtype=torch.float64)
    # keys of 0 make the weights equal: o is 10, and the mean of 10 and 20; q is 3 and 6
    assert layer(x, Layout.plain(2)).y.flatten().tolist() == pytest.approx([13.0, 21.0])


def test_what_is_added_is_the_query_before_norm_and_rotation() -> None:
    text = "heads=2, mask=causal, position=rotary, scores=qk_norm"
    layer, plain = (Attention(attention(t), width=8).double() for t in (f"{text}, combine=query_residual", text))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    held = layer.held["heads"][0]
    asked = x @ held.qkv[:8].T @ held.out.T
    assert torch.allclose(layer(x, Layout.plain(5)).y, plain(x, Layout.plain(5)).y + asked, atol=1e-12)
    assert asked.abs().max() > 1e-5


def test_a_query_that_sees_nothing_gives_itself() -> None:
    layer = one_number("heads=1, mask=~causal, combine=query_residual", q=3.0, k=1.0, v=1.0)
    y = layer(torch.tensor([[[1.0], [2.0]]], dtype=torch.float64), Layout.plain(2)).y
    assert y.flatten().tolist() == pytest.approx([3.0 + 2.0, 6.0])


def test_between_two_sequences_the_query_is_of_the_first() -> None:
    layer = Attention(attention("heads=2, combine=query_residual"), width=8, source_width=6, cross=True).double()
    with torch.no_grad():
        layer.held["heads"][0].kv.zero_()
    x, source = torch.randn(1, 3, 8, dtype=torch.float64), torch.randn(1, 4, 6, dtype=torch.float64)
    layout = Layout.cross(Layout.plain(3).query, Layout.plain(4).query)
    held = layer.held["heads"][0]
    assert torch.allclose(layer(x, layout, source=source).y, x @ held.q.T @ held.out.T, atol=1e-12)


def test_heads_of_another_width_than_their_values_are_refused() -> None:
    spec = attention("heads=latent(2, 4, rotary=2), position=rotary, combine=query_residual")
    with pytest.raises(SpecError, match="got queries of 6 columns and values of 4"):
        Attention(spec, width=8)
    Attention(attention("heads=latent(2, 4), combine=query_residual"), width=8)
