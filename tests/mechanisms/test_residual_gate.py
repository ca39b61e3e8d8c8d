from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.residual_gate import ResidualGate
from attentune.spec.mechanism import Dims

DIMS = Dims(width=3, heads=2, groups=2, head_width=3, value_width=3, source_width=3)


def test_one_mask_a_head_by_hand() -> None:
    o, x = torch.ones(1, 2, 1, 3), torch.tensor([[[1.0, 0.0, 2.0]]])
    weight = torch.tensor([[0.0, 5.0, 0.0], [1.0, 0.0, 1.0]])
    found = ResidualGate().combine({"weight": weight}, DIMS, o, x, o)
    assert found[0, 0, 0].tolist() == [1.5] * 3
    assert found[0, 1, 0].tolist() == pytest.approx([1.95257412682] * 3)


def test_one_mask_a_column_by_hand() -> None:
    o, x = torch.full((1, 2, 1, 2), 3.0), torch.ones(1, 1, 1)
    dims = Dims(width=1, heads=2, groups=2, head_width=2, value_width=2, source_width=1)
    weight = torch.tensor([[0.0], [1.0], [-1.0], [100.0]])
    found = ResidualGate(per="element").combine({"weight": weight}, dims, o, x, o)
    assert found.flatten().tolist() == pytest.approx([4.5, 5.19317573589, 3.80682426411, 6.0])


@pytest.mark.parametrize("per", ["head", "element"])
def test_a_mask_of_zero_is_plain_attention_and_of_one_twice_that(per: str) -> None:
    gated = Attention(attention(f"heads=2, combine=residual_gate(per={per})"), width=8).double()
    plain = Attention(attention("heads=2"), width=8).double()
    plain.load_state_dict(gated.state_dict(), strict=False)
    x = torch.rand(1, 4, 8, dtype=torch.float64) + 0.5
    expected = plain(x, Layout.plain(4)).y
    for fill, factor in ((-100.0, 1.0), (0.0, 1.5), (100.0, 2.0)):
        with torch.no_grad():
            gated.held["combine"][0].weight.fill_(fill)
        assert torch.allclose(gated(x, Layout.plain(4)).y, factor * expected, atol=1e-12)


def test_unknown_granularity_is_refused() -> None:
    with pytest.raises(SpecError, match=r"residual_gate.per: .*'head' or 'element', got 'token'"):
        attention("heads=2, combine=residual_gate(per=token)")
