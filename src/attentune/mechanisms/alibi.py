"""Attention with linear biases (arXiv:2108.12409).

    s_ij += -m_h |i - j|,    m_h = 2^(-8 h / H), h = 1 ... H

Where H is no power of two, the slopes of the power below are filled up with every second slope of
the power above, as in the authors' code.
"""

from __future__ import annotations

from math import floor, log2
from typing import Literal, final

import torch

from attentune.shapes import Int, Tensor
from attentune.spec.mechanism import Dims, Params
from attentune.spec.positions import Positions
from attentune.spec.score_steps import StepForm
from attentune.spec.slots import Bias


@final
class Alibi(Bias):
    """Scores fall linearly with distance, at a fixed slope for each head."""

    kind: Literal["alibi"] = "alibi"

    @property
    def step(self) -> StepForm:
        return StepForm.ADD_BY_DISTANCE

    def bias(self, params: Params, dims: Dims, query: Positions, key: Positions, head: Int[Tensor, "..."]) -> Tensor:
        # The formula of `slopes`, elementwise: kernels compile this for one score at a time, and can hold no table.
        # For whole rows of scores the slopes are exact; one score at a time is computed in float32 anyway.
        exact = torch.float32 if head.dim() == 0 or head.device.type == "mps" else torch.float64
        power, h = 2 ** floor(log2(dims.heads)), head.to(exact)
        finer = -4 * (2 * (h - power) + 1) / power
        slope = torch.exp2(torch.where(head < power, -8 * (h + 1) / power, finer))
        return -slope * (query.position - key.position).abs()


def slopes(heads: int) -> list[float]:
    """m_h of each head."""
    power = 2 ** floor(log2(heads))
    exact = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    finer = [2 ** (-4 * h / power) for h in range(1, 2 * power + 1, 2)]
    return exact + finer[: heads - power]
