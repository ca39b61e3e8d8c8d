"""Rotary positions (RoFormer, arXiv:2104.09864).

    (x_a, x_b)  ->  turned by the angle  p base^(-2i / c),    i < c/2,    p the position

so that q . k depends on positions by their difference only. Pair i of the c turned columns is
(x_i, x_{i + c/2}), the two halves, as in Llama and GPT-NeoX, or (x_2i, x_{2i+1}), neighbours, as in
the paper, GPT-J and DeepSeek.
"""

from __future__ import annotations

from typing import Literal, final

from attentune.mechanisms._rotation import RotaryPairs
from attentune.shapes import Float, Tensor
from attentune.spec.positions import Positions


@final
class Rotary(RotaryPairs):
    """Turns the first `fraction` of each head's columns."""

    kind: Literal["rotary"] = "rotary"

    def frequencies(self, plain: Float[Tensor, "n"], positions: Positions) -> Float[Tensor, "*rows n"]:
        return plain
