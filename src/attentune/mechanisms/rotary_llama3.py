"""Rotary positions as Llama 3.1 stretches them (arXiv:2407.21783; the formula is that of the published code).

    turns_i = context base^(-2i / c) / (2 pi)                       turns of pair i over the trained length
    w_i     = clamp((turns_i - low) / (high - low), 0, 1)
    f_i     = base^(-2i / c) (w_i + (1 - w_i) / factor)             the angle of pair i is p f_i

Pairs that turn more than `high` times stay as trained, those below `low` are interpolated, those
between are mixed. The defaults are those of Llama 3.1, whose base is 500000.
"""

from __future__ import annotations

from math import pi
from typing import Annotated, Literal, final

from pydantic import Field, PositiveInt, model_validator

from attentune.mechanisms._rotation import RotaryPairs
from attentune.shapes import Float, Tensor
from attentune.spec.positions import Positions

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@final
class RotaryLlama3(RotaryPairs):
    """Interpolates the pairs that turn slowly over the trained length."""

    kind: Literal["rotary_llama3"] = "rotary_llama3"
    base: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 500000.0
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 8.0
    low: Positive = 1.0  # `low_freq_factor`
    high: Positive = 4.0  # `high_freq_factor`
    context: PositiveInt = 8192  # tokens of the rows that the model was trained on

    @model_validator(mode="after")
    def _low_is_below_high(self) -> RotaryLlama3:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low={self.low}, high={self.high}")
        return self

    def frequencies(self, plain: Float[Tensor, "n"], positions: Positions) -> Float[Tensor, "*rows n"]:
        turns = self.context * plain / (2 * pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)  # w
        return plain * (kept + (1 - kept) / self.factor)
