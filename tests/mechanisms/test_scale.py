from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.scale import Scale
from kernels.attending import attend, operands, places, sizes


def test_by_hand() -> None:
    place = places(0).as_queries()
    scaled = Scale(factor=1.5).modify({}, torch.tensor([2.0, -4.0]), place, place, torch.tensor(0))
    assert scaled.flatten().tolist() == [3.0, -6.0]


def test_equals_the_scale_of_the_similarity_and_a_fixed_temperature() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 5)
    found = attend("heads=2, mask=causal, scores=scale(3.0)", q, k, v).output
    other = attend("heads=2, mask=causal, similarity=scaled_dot(scale=1.5)", q, k, v).output  # 3 / sqrt(4)
    cold = attend("heads=2, mask=causal, scores=temperature(value=0.3333333333333333, learned=false)", q, k, v).output
    assert torch.allclose(found, other, atol=1e-12)
    assert torch.allclose(found, cold, atol=1e-12)
    fused = attend("heads=2, mask=causal, scores=scale(3.0)", q, k, v, kernel="sdpa").output
    assert torch.allclose(fused, found, atol=1e-12)


def test_it_scales_the_bias_by_position_too() -> None:
    q, k, v = operands(sizes(attention("heads=1")), 4)
    found = attend("heads=1, position=alibi, mask=causal, scores=scale(2.0)", q, k, v).output
    distance = torch.arange(4)[:, None] - torch.arange(4)
    s = 2 * (q @ k.mT / 2 - distance * 2**-8)
    assert torch.allclose(found, s.masked_fill(distance < 0, float("-inf")).softmax(-1) @ v, atol=1e-12)


def test_must_be_positive() -> None:
    with pytest.raises(SpecError, match=r"scale.factor: .*got 0"):
        Scale(factor=0.0)
