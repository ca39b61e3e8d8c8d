from __future__ import annotations

from math import e

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.shaw import Shaw
from kernels.attending import SlotTensors, attend, operands, parameters, places, sizes


def tables(spec_keys: torch.Tensor, values: torch.Tensor) -> SlotTensors:
    return {"position": [{"keys": spec_keys, "values": values}], "heads": [{}], "normalizer": [{}], "similarity": [{}]}


def test_scores_by_hand() -> None:
    dims = sizes(attention("heads=1"), head_width=2)
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])  # before, here, after
    q, k = torch.tensor([[[[3.0, 5.0]]]]), torch.zeros(1, 1, 4, 2)
    s = Shaw(distance=1).scores({"keys": keys}, dims, q, k, places(7).as_queries(), places(2, 6, 7, 9).as_keys(), 0.5)
    assert s.flatten().tolist() == [1.5, 1.5, 2.5, 8.0]  # clipped to -1, -1, 0, clipped to 1


def test_values_by_hand() -> None:
    dims = sizes(attention("heads=1"), head_width=1)
    p = torch.tensor([[[[0.1, 0.2, 0.3, 0.4]]]])
    values = torch.tensor([[10.0], [100.0], [1000.0]])
    o = Shaw(distance=1).values({"values": values}, dims, p, places(7).as_queries(), places(2, 6, 7, 9).as_keys())
    assert o is not None
    assert o.item() == pytest.approx(0.3 * 10 + 0.3 * 100 + 0.4 * 1000)
    assert Shaw(distance=1, on_values=False).values({}, dims, p, places(7).as_queries(), places(1).as_keys()) is None


def test_a_whole_attention_by_hand() -> None:
    spec = attention("heads=1, position=shaw(1), similarity=dot")
    one = torch.ones(1, 1, 2, 1)
    keys, values = torch.tensor([[1.0], [0.0], [2.0]]), torch.tensor([[0.0], [4.0], [8.0]])
    output = attend(spec, one, 0 * one, one, params=tables(keys, values)).output.flatten()
    # token 0 scores itself 0 and the next 2; token 1 scores the one before 1 and itself 0
    first = [1 / (1 + e**2), e**2 / (1 + e**2)]
    second = [e / (1 + e), 1 / (1 + e)]
    assert output.tolist() == pytest.approx([first[0] * 5 + first[1] * 9, second[0] * 1 + second[1] * 5])


def test_zero_tables_are_plain_attention() -> None:
    spec = attention("heads=2, position=shaw(3), mask=causal")
    q, k, v = operands(sizes(spec), 6)
    zero = torch.zeros(7, 4, dtype=torch.float64)
    assert torch.allclose(
        attend(spec, q, k, v, params=tables(zero, zero)).output,
        attend("heads=2, mask=causal", q, k, v).output,
        atol=1e-14,
    )


@pytest.mark.parametrize("on_values", [True, False])
def test_equals_the_formula_token_by_token(on_values: bool) -> None:
    spec = attention(f"heads=4/2, position=shaw(2, on_values={str(on_values).lower()}), mask=causal")
    dims = sizes(spec)
    q, k, v = operands(dims, 6, batch=1)
    params = parameters(spec, dims)
    own = params["position"][0]
    output = attend(spec, q, k, v, params=params).output
    for h in range(4):
        for i in range(6):
            distance = [min(max(j - i, -2), 2) + 2 for j in range(i + 1)]
            keys = k[0, h // 2, : i + 1] + own["keys"][distance]
            values = v[0, h // 2, : i + 1] + (own["values"][distance] if on_values else 0)
            p = (keys @ q[0, h, i] / 2).softmax(-1)
            assert torch.allclose(output[0, h, i], p @ values, atol=1e-12)
    gradient = torch.autograd.grad(output.square().sum(), list(own.values()))
    for table in gradient:
        assert (table[:3] != 0).all()
        assert (table[3:] == 0).all()  # a causal query meets no key after it


def test_documents_have_distances_of_their_own() -> None:
    layer = Attention(attention("heads=2, position=shaw(2)"), width=8).double()
    x, other = torch.randn(2, 1, 4, 8, dtype=torch.float64).unbind()
    packed = layer(torch.cat([other, x], 1), Layout.packed(torch.tensor([[0] * 4 + [1] * 4]))).y[:, 4:]
    assert torch.allclose(packed, layer(x, Layout.plain(4)).y, atol=1e-12)


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(SpecError, match=r"shaw.distance: .*got 0"):
        Shaw(distance=0)
    with pytest.raises(SpecError, match="similarity=additive is none"):
        attention("heads=2, position=shaw(2), similarity=additive")
    with pytest.raises(SpecError, match="position=shaw has no meaning"):
        Attention(attention("heads=2, position=shaw(2)"), width=8, cross=True)
