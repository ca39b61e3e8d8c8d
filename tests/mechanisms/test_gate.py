from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.gate import Gate
from attentune.spec.mechanism import Dims

DIMS = Dims(width=3, heads=2, groups=2, head_width=3, value_width=3, source_width=3)


def test_one_gate_a_head_by_hand() -> None:
    o, x = torch.ones(1, 2, 1, 3), torch.tensor([[[1.0, 0.0, 2.0]]])
    weight = torch.tensor([[0.0, 5.0, 0.0], [1.0, 0.0, 1.0]])
    gated = Gate().combine({"weight": weight}, DIMS, o, x, o)
    assert gated[0, 0, 0].tolist() == [0.5] * 3
    assert gated[0, 1, 0].tolist() == pytest.approx([0.95257412682] * 3)


def test_one_gate_a_column_by_hand() -> None:
    o, x = torch.ones(1, 2, 1, 2), torch.ones(1, 1, 1)
    gated = Gate(per="element").combine({"weight": torch.tensor([[0.0], [1.0], [-1.0], [100.0]])}, DIMS, o, x, o)
    assert gated.flatten().tolist() == pytest.approx([0.5, 0.73105857863, 0.26894142137, 1.0])


@pytest.mark.parametrize("per", ["head", "element"])
def test_an_open_gate_is_plain_attention_and_half_open_is_half(per: str) -> None:
    gated = Attention(attention(f"heads=2, combine=gate(per={per})"), width=8).double()
    plain = Attention(attention("heads=2"), width=8).double()
    plain.load_state_dict(gated.state_dict(), strict=False)
    x = torch.rand(1, 4, 8, dtype=torch.float64) + 0.5
    expected = plain(x, Layout.plain(4)).y
    for fill, share in ((0.0, 0.5), (100.0, 1.0), (-100.0, 0.0)):
        with torch.no_grad():
            gated.held["combine"][0].weight.fill_(fill)
        assert torch.allclose(gated(x, Layout.plain(4)).y, share * expected, atol=1e-12)


def test_unknown_granularity_is_refused() -> None:
    with pytest.raises(SpecError, match=r"gate.per: .*'head' or 'element', got 'token'"):
        attention("heads=2, combine=gate(per=token)")
