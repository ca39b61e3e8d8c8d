"""Segment-level recurrence (Transformer-XL, arXiv:1901.02860).

    keys and values of segment n are computed from [stop_gradient(h of the last `length` tokens) ; h]

The hidden states are those that enter the layer's attention. Its relative positions are a value of
the slot `position`; any relative one (rotary, ALiBi, T5) goes with it.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import PositiveInt

from attentune.shapes import Float, Tensor
from attentune.spec.slots import Memory


@final
class TransformerXL(Memory):
    """Each layer remembers the last `length` tokens of the segments before."""

    kind: Literal["transformer_xl"] = "transformer_xl"
    length: PositiveInt

    def keep(self, hidden: Float[Tensor, "B M E"]) -> Float[Tensor, "B N E"]:
        return hidden[:, -self.length :].detach()
