from __future__ import annotations

from math import cos, sin

import pytest
import torch

from attentune.errors import SpecError
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.rotary import Rotary
from kernels.attending import places


def turned(rotary: Rotary, x: torch.Tensor, *position: int) -> torch.Tensor:
    return rotary.rotate(x, rotary.table(x.shape[-1], places(*position), x.dtype))


def test_by_hand() -> None:
    x = torch.tensor([[[[1.0, 0.0, 0.0, 2.0]]]], dtype=torch.float64)
    # columns 0 and 2 turn by the position, columns 1 and 3 by a hundredth of it
    expected = [cos(3), -2 * sin(0.03), sin(3), 2 * cos(0.03)]
    assert turned(Rotary(), x, 3).flatten().tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(turned(Rotary(), x, 0), x)


def test_equals_llama() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    q, k = torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    pairs = 500.0 ** (-torch.arange(0, 8, 2) / 8)
    angle = torch.arange(7)[:, None] * pairs
    angle = torch.cat([angle, angle], -1)[None]
    expected = llama.apply_rotary_pos_emb(q, k, angle.cos(), angle.sin())
    for x, theirs in zip((q, k), expected, strict=True):
        assert torch.allclose(turned(Rotary(base=500.0), x, *range(7)), theirs, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-4)])
def test_only_differences_of_positions_matter(dtype: torch.dtype, tolerance: float) -> None:
    q, k = torch.randn(1, 1, 6, 8, dtype=dtype), torch.randn(1, 1, 6, 8, dtype=dtype)
    here = turned(Rotary(), q, *range(6)) @ turned(Rotary(), k, *range(6)).mT
    far = turned(Rotary(), q, *range(1000, 1006)) @ turned(Rotary(), k, *range(1000, 1006)).mT
    assert (here - far).abs().max() < tolerance
    assert (here - q @ k.mT).abs().max() > 0.1


def test_a_fraction_leaves_the_other_columns_alone() -> None:
    x = torch.randn(1, 1, 3, 8)
    y = turned(Rotary(fraction=0.5), x, 1, 2, 3)
    assert torch.equal(y[..., 4:], x[..., 4:])
    assert torch.equal(y[..., :4], turned(Rotary(), x[..., :4], 1, 2, 3))


def test_what_it_cannot_turn_is_refused_when_the_module_is_made() -> None:
    with pytest.raises(SpecError, match=r"must be an even number, got 1\.0 x 3"):
        Attention(attention("heads=2, position=rotary"), width=6)
    with pytest.raises(SpecError, match=r"got 0\.25 x 4"):
        Attention(attention("heads=2, position=rotary(fraction=0.25)"), width=8)
    with pytest.raises(SpecError, match=r"rotary.fraction: .*got 1\.5"):
        Rotary(fraction=1.5)


def test_float32_turns_far_positions_like_near_ones() -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(1)).unbind()
    near, far = ((turned(Rotary(), q, place + 7) * turned(Rotary(), k, place)).sum() for place in (1, 12_345_678))
    assert abs(near - far) < 1e-5


def test_a_fraction_that_fits_no_column_is_refused() -> None:
    with pytest.raises(SpecError, match=r"even number, got 0\.3 x 16"):
        Attention(attention("heads=1, position=rotary(fraction=0.3)"), width=16)
