"""Angles as transformers computes them, for the tests of rotary positions: an implementation that is not ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attentune.mechanisms._rotation import RotaryPairs
from kernels.attending import places


def published(
    rope_type: str, width: int, *, context: int, length: int | None = None, **said: Any
) -> tuple[Tensor, float]:
    """The frequency of each pair, and the factor of cosine and sine; for a row of `length` tokens where it matters."""
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    llama = pytest.importorskip("transformers.models.llama.configuration_llama")
    config = llama.LlamaConfig(
        hidden_size=width,
        num_attention_heads=1,
        max_position_embeddings=context,
        rope_parameters={"rope_type": rope_type, **said},
    )
    frequencies, factor = utils.ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"), seq_len=length)
    return frequencies, factor


def assert_equal_angles(rotary: RotaryPairs, width: int, frequencies: Tensor, factor: float, *, length: int) -> None:
    """The table of `rotary` over a row of `length` tokens holds cosine and sine of these angles, times the factor."""
    cos, sin = rotary.table(width, places(*range(length)), torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequencies.double()
    assert cos.shape[-1] == 2 * frequencies.shape[0]
    for found, right in ((cos, angle.cos()), (sin, angle.sin())):
        doubled = torch.cat([right, right], -1) if rotary.pairs == "halves" else right.repeat_interleave(2, -1)
        assert torch.allclose(found[0, 0], factor * doubled, atol=2e-6 * length)  # theirs are rounded to float32
