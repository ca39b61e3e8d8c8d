from __future__ import annotations

from math import pi

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms.rotary import Rotary
from attentune.mechanisms.rotary_llama3 import RotaryLlama3
from kernels.attending import places
from mechanisms.published_rotary import assert_equal_angles, published


def test_by_hand() -> None:
    # over 8192 tokens these pairs turn 8, 4, 2.5, 1 and 1/2 times
    turns = torch.tensor([8.0, 4.0, 2.5, 1.0, 0.5], dtype=torch.float64)
    plain = turns * 2 * pi / 8192
    found = RotaryLlama3().frequencies(plain, places(0)) / plain
    assert found.tolist() == pytest.approx([1.0, 1.0, 0.5 + 0.5 / 8, 1 / 8, 1 / 8], rel=1e-12)


@pytest.mark.parametrize(
    ("width", "factor", "low", "high", "context"),
    [(128, 8.0, 1.0, 4.0, 8192), (64, 32.0, 1.0, 4.0, 8192), (16, 4.0, 2.0, 8.0, 64)],
)
def test_equals_transformers(width: int, factor: float, low: float, high: float, context: int) -> None:
    frequencies, scale = published(
        "llama3",
        width,
        context=context * 16,
        rope_theta=500000.0,
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position_embeddings=context,
    )
    assert_equal_angles(
        RotaryLlama3(factor=factor, low=low, high=high, context=context), width, frequencies, scale, length=50
    )


def test_a_factor_of_one_is_plain_rotary() -> None:
    for ours, plain in zip(
        RotaryLlama3(factor=1.0).table(64, places(5, 9000), torch.float64),
        Rotary(base=500000.0).table(64, places(5, 9000), torch.float64),
        strict=True,
    ):
        assert torch.allclose(ours, plain, atol=1e-11)


def test_low_must_be_below_high() -> None:
    with pytest.raises(SpecError, match=r"low must be below high, got low=4\.0, high=4\.0"):
        RotaryLlama3(low=4.0)
