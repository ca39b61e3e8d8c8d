from __future__ import annotations

from math import cos, sin

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.rotary import Rotary
from attentune.mechanisms.rotary_linear import RotaryLinear
from kernels.attending import places
from mechanisms.published_rotary import assert_equal_angles, published


def test_by_hand() -> None:
    rotary = RotaryLinear(factor=4.0)
    x = torch.tensor([[[[1.0, 0.0, 0.0, 2.0]]]], dtype=torch.float64)
    y = rotary.rotate(x, rotary.table(4, places(12), x.dtype))
    # position 12 / 4 = 3: columns 0 and 2 turn by 3, columns 1 and 3 by a hundredth of it
    assert y.flatten().tolist() == pytest.approx([cos(3), -2 * sin(0.03), sin(3), 2 * cos(0.03)], abs=1e-12)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_equals_transformers(fraction: float) -> None:
    frequencies, factor = published(
        "linear", 16, context=32, rope_theta=500.0, factor=3.0, partial_rotary_factor=fraction
    )
    assert_equal_angles(RotaryLinear(factor=3.0, base=500.0, fraction=fraction), 16, frequencies, factor, length=70)


def test_a_factor_of_one_is_plain_rotary() -> None:
    for ours, plain in zip(
        RotaryLinear(factor=1.0).table(8, places(5, 900), torch.float64),
        Rotary().table(8, places(5, 900), torch.float64),
        strict=True,
    ):
        assert torch.equal(ours, plain)


def test_the_factor_is_required_and_at_least_one() -> None:
    assert attention("heads=2, position=rotary_linear(4, base=500.0)").position == RotaryLinear(factor=4.0, base=500.0)
    with pytest.raises(SpecError, match=r"rotary_linear.factor is required"):
        attention("heads=2, position=rotary_linear")
    with pytest.raises(SpecError, match=r"rotary_linear.factor: .*got 0\.5"):
        RotaryLinear(factor=0.5)
