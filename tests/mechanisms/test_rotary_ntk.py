from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.rotary import Rotary
from attentune.mechanisms.rotary_ntk import RotaryNTK, document_lengths
from kernels.attending import places
from mechanisms.published_rotary import assert_equal_angles, published


def angle(rotary: RotaryNTK, width: int, length: int) -> torch.Tensor:
    """Of each pair, at position 1 of a row of `length` tokens."""
    cos, sin = rotary.table(width, places(*range(length)), torch.float64)
    return torch.atan2(sin, cos)[0, 0, 1, : width // 2]


def test_by_hand() -> None:
    rotary = RotaryNTK(factor=2.0, context=4, base=100.0)
    # 4 columns: exponent c / (c - 2) = 2. 6 tokens: growth 2 * 6 / 4 - 1 = 2, so that the base is 100 * 2^2 = 400
    assert angle(rotary, 4, 6).tolist() == pytest.approx([1.0, 400.0**-0.5])
    # 8 tokens: growth 3, base 900
    assert angle(rotary, 4, 8).tolist() == pytest.approx([1.0, 900.0**-0.5])


@pytest.mark.parametrize("length", [9, 32, 33, 80])
def test_equals_transformers(length: int) -> None:
    frequencies, factor = published("dynamic", 16, context=32, length=length, rope_theta=500.0, factor=4.0)
    assert_equal_angles(RotaryNTK(factor=4.0, context=32, base=500.0), 16, frequencies, factor, length=length)


def test_up_to_the_trained_context_it_is_plain_rotary_and_beyond_it_is_not() -> None:
    rotary = RotaryNTK(factor=3.0, context=5)
    for length, equal in ((5, True), (6, False)):
        found, plain = (r.table(8, places(*range(length)), torch.float64)[0] for r in (rotary, Rotary()))
        assert torch.allclose(found, plain, atol=1e-15) is equal
    assert rotary.steady_length == 5


def test_only_differences_of_positions_matter() -> None:
    rotary = RotaryNTK(factor=2.0, context=4)
    q, k = torch.randn(2, 1, 1, 9, 8, dtype=torch.float64).unbind()
    table = rotary.table(8, places(*range(9)), torch.float64)
    s = (rotary.rotate(q[:, :, :1].expand_as(q), table) @ rotary.rotate(k[:, :, :1].expand_as(k), table).mT)[0, 0]
    for distance in range(-8, 9):
        diagonal = s.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-12)


def test_every_document_and_every_row_has_its_own_length() -> None:
    documents = torch.tensor([[4, 4, 4, 2, 2, -1, 7], [0, 0, 0, 0, 0, 0, 0]])
    lengths = document_lengths(Layout.packed(documents).query)
    assert lengths.tolist() == [[3, 3, 3, 2, 2, 1, 1], [7] * 7]
    valid = torch.tensor([[False, True, True, True, False], [True, True, True, True, True]])
    assert document_lengths(Layout.padded(valid).query).tolist() == [[3] * 5, [5] * 5]


def test_padding_and_other_documents_change_nothing() -> None:
    layer = Attention(attention("heads=1, position=rotary_ntk(2, 4), mask=causal"), width=8).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    alone = layer(x, Layout.plain(6)).y
    other = torch.randn(1, 9, 8, dtype=torch.float64)
    packed = layer(torch.cat([x, other], 1), Layout.packed(torch.tensor([[1] * 6 + [2] * 9]))).y[:, :6]
    padded = layer(torch.cat([other, x], 1), Layout.padded(torch.tensor([[False] * 9 + [True] * 6]))).y[:, 9:]
    assert torch.allclose(packed, alone, atol=1e-12)
    assert torch.allclose(padded, alone, atol=1e-12)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(SpecError, match="rotary_ntk needs at least 4 columns to turn, got 2"):
        Attention(attention("heads=2, position=rotary_ntk(2, 4)"), width=4)
    with pytest.raises(SpecError, match=r"rotary_ntk.context: .*got 0"):
        RotaryNTK(factor=2.0, context=0)
    with pytest.raises(SpecError, match="rotary_ntk turns keys by the length of the row"):
        attention("heads=2, position=rotary_ntk(2, 4), mask=causal, memory=transformer_xl(3)")
    layer = Attention(attention("heads=2, position=rotary_ntk(2, 4), mask=causal"), width=8)
    layer.check_decoding(3, 1, lambda: 3)
    with pytest.raises(SpecError, match="beyond 4 tokens"):
        layer.check_decoding(4, 1, lambda: 4)
