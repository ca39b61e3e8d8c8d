from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention, Carry
from attentune.mechanisms import attention
from attentune.mechanisms.residual_scores import ResidualScores
from kernels.attending import attend, operands, sizes

TEXT = "heads=2, mask=causal, scores=residual_scores"


def test_scores_are_those_of_all_layers_so_far() -> None:
    dims = sizes(attention("heads=2"))
    layers = [operands(dims, 4) for _ in range(3)]
    carry, total = None, torch.zeros(2, 2, 4, 4, dtype=torch.float64)
    for q, k, v in layers:
        long_q, long_k = carry = ResidualScores().columns({}, q, k, carry)
        total = total + q @ k.mT / 2
        p = total.masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)
        assert torch.allclose(attend(TEXT, long_q, long_k, v).output, p @ v, atol=1e-12)


def test_the_first_layer_and_a_carry_of_zeros_are_plain() -> None:
    layer, plain = (Attention(attention(text), width=8).double() for text in (TEXT, "heads=2, mask=causal"))
    plain.load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    expected = plain(x, Layout.plain(5)).y
    first = layer(x, Layout.plain(5))
    zeros = (torch.zeros(1, 2, 5, 4, dtype=torch.float64),) * 2
    assert torch.allclose(first.y, expected, atol=1e-12)
    assert torch.allclose(layer(x, Layout.plain(5), carry=Carry(scores=zeros)).y, expected, atol=1e-12)
    assert not torch.allclose(layer(x, Layout.plain(5), carry=first.carry).y, expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("heads=2, position=alibi, scores=residual_scores", "cannot follow alibi"),
        ("heads=2, head_mix=talking_heads, scores=residual_scores", "cannot follow head_mix"),
        ("heads=2, similarity=additive, scores=residual_scores", "similarity=additive is none"),
        ("heads=2, scores=soft_cap(3.0) + residual_scores", "must stand before every other score"),
        ("heads=2, scores=residual_scores + residual_scores", "once, got 2"),
    ],
)
def test_what_would_change_the_accumulated_scores_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        attention(text)
