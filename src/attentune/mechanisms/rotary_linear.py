"""Rotary positions squeezed into the range that was trained (position interpolation, arXiv:2306.15595).

    f_i = base^(-2i / c) / factor        the angle of pair i is p f_i

A row of `factor` times the trained length then meets no angle that training has not met.
"""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field

from attentune.mechanisms._rotation import RotaryPairs
from attentune.shapes import Float, Tensor
from attentune.spec.positions import Positions


@final
class RotaryLinear(RotaryPairs):
    """Divides every position by `factor` before it turns columns."""

    kind: Literal["rotary_linear"] = "rotary_linear"
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)]  # longest row / trained length

    def frequencies(self, plain: Float[Tensor, "n"], positions: Positions) -> Float[Tensor, "*rows n"]:
        return plain / self.factor
