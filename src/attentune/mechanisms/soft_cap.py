"""Soft cap of the scores (Gemma 2, arXiv:2408.00118).

    s -> cap tanh(s / cap)

Its derivative is 1 - tanh(s / cap)^2: nearly 1 where scores are small.
"""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from pydantic import Field

from attentune.shapes import Float, Int, Tensor
from attentune.spec import score_steps
from attentune.spec.mechanism import Params
from attentune.spec.positions import Positions
from attentune.spec.slots import ElementwiseScore


@final
class SoftCap(ElementwiseScore):
    """Keeps scores between -cap and cap, nearly unchanged where they are small."""

    kind: Literal["soft_cap"] = "soft_cap"
    cap: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @property
    def step(self) -> score_steps.SoftCap:
        return score_steps.SoftCap(self.cap)

    def modify(
        self, params: Params, s: Float[Tensor, "..."], query: Positions, key: Positions, head: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        return self.cap * torch.tanh(s / self.cap)
