from __future__ import annotations

from math import e

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.layers.state import KeyValueCache, LayerState
from attentune.mechanisms import attention
from attentune.mechanisms.single import Single


def test_unprojected_by_hand() -> None:
    layer = Attention(attention("heads=single(projected=false), similarity=scaled_dot(scale=1.0)"), width=2)
    assert list(layer.parameters()) == []
    # the first token scores (1, 0), the second (0, 4): w = e^s / sum
    y = layer(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), Layout.plain(2)).y[0]
    expected = [[e / (1 + e), 2 / (1 + e)], [1 / (1 + e**4), 2 * e**4 / (1 + e**4)]]
    assert torch.allclose(y, torch.tensor(expected), atol=1e-6)


def test_unprojected_is_a_weighted_sum_of_the_tokens() -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    layer = Attention(attention("heads=single(projected=false), mask=causal"), width=6)
    s = (x @ x.mT / 6**0.5).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), float("-inf"))
    assert torch.allclose(layer(x, Layout.plain(5)).y, s.softmax(-1) @ x, atol=1e-12)


def test_projected_equals_one_head_of_multi_head() -> None:
    ours, one = (Attention(attention(f"heads={text}, mask=causal"), width=6, bias=True) for text in ("single", "1"))
    one.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 6)
    assert torch.equal(ours(x, Layout.plain(5)).y, one(x, Layout.plain(5)).y)
    assert ours.dims.head_width == 6


def test_unprojected_looks_at_a_context() -> None:
    layer = Attention(attention("heads=single(projected=false)"), width=4, cross=True)
    x, context = torch.randn(1, 2, 4, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)
    layout = Layout.cross(Layout.plain(2).query, Layout.plain(3).key)
    expected = (x @ context.mT / 2).softmax(-1) @ context
    assert torch.allclose(layer(x, layout, source=context).y, expected, atol=1e-12)


@pytest.mark.parametrize("position", ["none", "rotary"])
def test_unprojected_decodes_from_its_cache(position: str) -> None:
    layer = Attention(attention(f"heads=single(projected=false), position={position}, mask=causal"), width=4)
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    whole = layer(x, Layout.plain(5)).y
    state = LayerState(cache=KeyValueCache())
    layer(x[:, :4], Layout.plain(4), state=state)
    every = Layout.plain(5).key
    last = Layout.plain(4).with_keys(every)
    last = Layout(last.kind, every.map(lambda tensor: tensor[:, 4:]), every)
    assert torch.allclose(layer(x[:, 4:], last, state=state).y, whole[:, 4:], atol=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match="the context must be as wide as the model, got 6 and 4"):
        Attention(attention("heads=single(projected=false)"), width=4, source_width=6, cross=True)
    with pytest.raises(SpecError, match="head_width=3 needs projections"):
        Single(projected=False, head_width=3)
    with pytest.raises(SpecError, match=r"single.heads: .*1, got 2"):
        attention("heads=single(heads=2)")
    assert str(attention("heads=single")) == "heads=single"
