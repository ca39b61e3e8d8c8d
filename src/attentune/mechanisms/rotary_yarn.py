"""Rotary positions for longer rows, pair by pair (YaRN, arXiv:2309.00071).

    f_i    = base^(-2i / c) (g_i + (1 - g_i) / factor)            the angle of pair i is p f_i
    g_i    = 1 - clamp((i - low) / (high - low), 0, 1)
    low    = i that turns `beta_fast` times over `context` tokens,  high = i that turns `beta_slow` times
    q and k are also multiplied by  m = 0.1 ln(factor) + 1          (the paper's sqrt(1 / t))

Fast pairs stay as trained, slow ones are interpolated, those between are mixed. `truncate` rounds low
down and high up, as the authors' code does. DeepSeek writes m(a) = 0.1 a ln(factor) + 1 and scales q
and k by m(mscale) / m(mscale_all_dim); it also multiplies its scores by m(mscale_all_dim)^2, which
concerns columns that are not turned as well and is therefore a value of its own:
`scores=temperature(value=1/m^2, learned=false)`, or the `scale` of the similarity.
"""

from __future__ import annotations

from math import ceil, floor, log, pi
from typing import Annotated, Literal, final

import torch
from pydantic import Field, PositiveInt, model_validator

from attentune.mechanisms._rotation import RotaryPairs
from attentune.shapes import Float, Tensor
from attentune.spec.positions import Positions

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@final
class RotaryYarn(RotaryPairs):
    """Interpolates the pairs that turn slowly, and scales q and k to keep the weights as sharp as they were."""

    kind: Literal["rotary_yarn"] = "rotary_yarn"
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)]  # longest row / trained length
    context: PositiveInt  # tokens of the rows that the model was trained on
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    truncate: bool = True
    attention_factor: Positive | None = None  # m itself, in the place of what the fields below or the paper say
    mscale: Positive | None = None
    mscale_all_dim: Positive | None = None

    @model_validator(mode="after")
    def _fields_fit(self) -> RotaryYarn:
        if self.beta_fast <= self.beta_slow:
            raise ValueError(
                f"beta_fast must exceed beta_slow, got beta_fast={self.beta_fast}, beta_slow={self.beta_slow}"
            )
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError("mscale and mscale_all_dim are a quotient: give both or neither")
        if self.mscale is not None and self.attention_factor is not None:
            raise ValueError("attention_factor already says what mscale and mscale_all_dim would: give one of them")
        return self

    def frequencies(self, plain: Float[Tensor, "n"], positions: Positions) -> Float[Tensor, "*rows n"]:
        columns = 2 * plain.shape[-1]
        low, high = self._pair(self.beta_fast, columns), self._pair(self.beta_slow, columns)
        if self.truncate:
            low, high = floor(low), ceil(high)
        low, high = max(low, 0), min(high, columns - 1)
        if low == high:
            high += 0.001  # as the authors' code, so that the ramp is a step
        i = torch.arange(columns // 2, device=plain.device, dtype=plain.dtype)
        kept = 1 - ((i - low) / (high - low)).clamp(0, 1)  # g
        return plain * (kept + (1 - kept) / self.factor)

    @property
    def attention_scale(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale is not None and self.mscale_all_dim is not None:
            return sharpening(self.factor, self.mscale) / sharpening(self.factor, self.mscale_all_dim)
        return sharpening(self.factor)

    def _pair(self, turns: float, columns: int) -> float:
        """The i, not rounded, with `context` base^(-2i / c) = 2 pi `turns`."""
        return columns * log(self.context / (turns * 2 * pi)) / (2 * log(self.base))


def sharpening(factor: float, mscale: float = 1.0) -> float:
    """m(mscale) = 0.1 mscale ln(factor) + 1."""
    return 0.1 * mscale * log(factor) + 1
