from __future__ import annotations

from math import cos, sin

import pytest
import torch

from attentune.errors import SpecError
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms._rotation import RotaryPairs
from attentune.mechanisms.rotary import Rotary
from kernels.attending import places

VARIANTS = [
    "rotary",
    "rotary(pairs=neighbours)",
    "rotary(fraction=0.5)",
    "rotary_linear(4.0)",
    "rotary_ntk(4.0, 2000)",
    "rotary_yarn(4.0, 64)",
    "rotary_llama3",
]


def turned(rotary: RotaryPairs, x: torch.Tensor, *position: int) -> torch.Tensor:
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


def test_neighbours_by_hand() -> None:
    x = torch.tensor([[[[1.0, 0.0, 0.0, 2.0]]]], dtype=torch.float64)
    # columns 0 and 1 turn by the position, columns 2 and 3 by a hundredth of it
    expected = [cos(3), sin(3), -2 * sin(0.03), 2 * cos(0.03)]
    assert turned(Rotary(pairs="neighbours"), x, 3).flatten().tolist() == pytest.approx(expected, abs=1e-12)


def test_neighbours_equal_gptj() -> None:
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    x = torch.randn(1, 2, 7, 16)
    table = gptj.create_sinusoidal_positions(7, 8)[None]  # the first half of the columns, as GPT-J's rotary_dim
    sin_half, cos_half = table.split(4, -1)
    first = gptj.apply_rotary_pos_emb(x[..., :8].transpose(1, 2), sin_half, cos_half).transpose(1, 2)
    ours = turned(Rotary(pairs="neighbours", fraction=0.5), x, *range(7))
    assert torch.allclose(ours, torch.cat([first, x[..., 8:]], -1), atol=1e-6)


def test_neighbours_give_the_scores_of_deepseek() -> None:
    deepseek = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    q, k = torch.randn(2, 1, 2, 7, 8).unbind()
    angle = torch.arange(7)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    angle = torch.cat([angle, angle], -1)[None]
    theirs_q, theirs_k = deepseek.apply_rotary_pos_emb_interleave(q, k, angle.cos(), angle.sin())
    rotary = Rotary(pairs="neighbours")
    ours = turned(rotary, q, *range(7)) @ turned(rotary, k, *range(7)).mT
    assert torch.allclose(ours, theirs_q @ theirs_k.mT, atol=1e-5)


def test_halves_of_a_fraction_equal_gpt_neox() -> None:
    neox = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox")
    q, k = torch.randn(2, 1, 2, 7, 16).unbind()
    angle = torch.arange(7)[:, None] * 10000.0 ** (-torch.arange(0, 4, 2) / 4)
    angle = torch.cat([angle, angle], -1)[None]
    expected = neox.apply_rotary_pos_emb(q, k, angle.cos(), angle.sin())
    for x, theirs in zip((q, k), expected, strict=True):
        assert torch.allclose(turned(Rotary(fraction=0.25), x, *range(7)), theirs, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-4)])
@pytest.mark.parametrize("text", VARIANTS)
def test_only_differences_of_positions_matter(text: str, dtype: torch.dtype, tolerance: float) -> None:
    rotary = attention(f"heads=1, position={text}").position
    assert isinstance(rotary, RotaryPairs)
    q, k = torch.randn(1, 1, 6, 8, dtype=dtype), torch.randn(1, 1, 6, 8, dtype=dtype)
    here = turned(rotary, q, *range(6)) @ turned(rotary, k, *range(6)).mT
    far = turned(rotary, q, *range(1000, 1006)) @ turned(rotary, k, *range(1000, 1006)).mT
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
