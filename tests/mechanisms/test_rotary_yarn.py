from __future__ import annotations

from math import log, pi

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms.rotary import Rotary
from attentune.mechanisms.rotary_linear import RotaryLinear
from attentune.mechanisms.rotary_yarn import RotaryYarn, sharpening
from kernels.attending import places
from mechanisms.published_rotary import assert_equal_angles, published


def test_by_hand() -> None:
    # base 16 and 8 columns: pairs turn at 1, 1/2, 1/4, 1/8. Over 32 pi tokens they turn 16, 8, 4 and 2 times.
    context = 100  # 32 pi = 100.5: within half a percent
    rotary = RotaryYarn(factor=4.0, context=context, base=16.0, beta_fast=16.0, beta_slow=4.0, truncate=False)
    low, high = (8 * log(context / (turns * 2 * pi)) / (2 * log(16.0)) for turns in (16.0, 4.0))
    assert low == pytest.approx(-0.0073, abs=1e-3)
    assert high == pytest.approx(1.9927, abs=1e-3)
    plain = torch.tensor([1.0, 0.5, 0.25, 0.125], dtype=torch.float64)
    kept = [1.0, 1 - 1 / high, 0.0, 0.0]  # low is raised to 0
    expected = [float(f) * (g + (1 - g) / 4) for f, g in zip(plain, kept, strict=True)]
    assert rotary.frequencies(plain, places(0)).tolist() == pytest.approx(expected, rel=1e-12)
    rounded = rotary.replace(truncate=True).frequencies(plain, places(0))  # the ramp goes from 0 to 2
    assert rounded.tolist() == pytest.approx([1.0, 0.5 * (0.5 + 0.5 / 4), 0.25 / 4, 0.125 / 4], rel=1e-12)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"truncate": False},
        {"beta_fast": 8.0, "beta_slow": 2.0},
        {"attention_factor": 0.75},
        {"mscale": 0.707, "mscale_all_dim": 0.5},
        {"mscale": 1.0, "mscale_all_dim": 1.0},
    ],
    ids=str,
)
def test_equals_transformers(said: dict[str, float]) -> None:
    frequencies, factor = published(
        "yarn", 32, context=256 * 8, rope_theta=10000.0, factor=8.0, original_max_position_embeddings=256, **said
    )
    assert_equal_angles(RotaryYarn(factor=8.0, context=256, **said), 32, frequencies, factor, length=40)


def test_fast_pairs_stay_and_slow_ones_are_interpolated() -> None:
    yarn, plain, squeezed = (
        torch.atan2(sin, cos)[0, 0, 0, :32]
        for cos, sin in (
            rotary.table(64, places(1), torch.float64)
            for rotary in (RotaryYarn(factor=4.0, context=2048), Rotary(), RotaryLinear(factor=4.0))
        )
    )
    assert torch.allclose(yarn[:8], plain[:8], atol=1e-15)
    assert torch.allclose(yarn[-8:], squeezed[-8:], atol=1e-15)
    assert ((squeezed - 1e-15 <= yarn) & (yarn <= plain + 1e-15)).all()


def test_the_attention_factor_multiplies_q_and_k() -> None:
    rotary = RotaryYarn(factor=4.0, context=64)
    x = torch.randn(1, 1, 3, 8, dtype=torch.float64)
    turned = rotary.rotate(x, rotary.table(8, places(0, 5, 9), x.dtype))
    assert rotary.attention_scale == pytest.approx(0.1 * log(4) + 1)
    assert torch.allclose(turned.norm(dim=-1), rotary.attention_scale * x.norm(dim=-1), atol=1e-12)
    assert sharpening(40.0, 0.5) == pytest.approx(0.05 * log(40) + 1)


def test_contradictions_are_refused() -> None:
    with pytest.raises(SpecError, match="give both or neither"):
        RotaryYarn(factor=4.0, context=64, mscale=1.0)
    with pytest.raises(SpecError, match="give one of them"):
        RotaryYarn(factor=4.0, context=64, mscale=1.0, mscale_all_dim=1.0, attention_factor=1.0)
    with pytest.raises(SpecError, match=r"beta_fast must exceed beta_slow, got beta_fast=1\.0, beta_slow=1\.0"):
        RotaryYarn(factor=4.0, context=64, beta_fast=1.0)
