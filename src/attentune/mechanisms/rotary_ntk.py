"""Rotary positions whose base grows with the row ("dynamic NTK", section 3.3 of arXiv:2309.00071).

    b   = base (factor L / context - (factor - 1))^(c / (c - 2)),    L = max(tokens of the row, context)
    f_i = b^(-2i / c)                                                the angle of pair i is p f_i

Up to `context` tokens it is plain rotary; beyond, the slowest pair is slowed by factor L / context -
(factor - 1), the fastest not at all. `factor` = 1 is the paper's form. L is the number of tokens of
the document up to the last one at hand, padding left out. As all angles change with L, keys that were
turned and cached serve rows of at most `context` tokens.
"""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from pydantic import Field, PositiveInt

from attentune.errors import SpecError
from attentune.mechanisms._rotation import RotaryPairs
from attentune.shapes import Float, Int, Tensor
from attentune.spec.positions import Positions


@final
class RotaryNTK(RotaryPairs):
    """Plain up to `context` tokens; longer rows are turned more slowly, the longer the more."""

    kind: Literal["rotary_ntk"] = "rotary_ntk"
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    context: PositiveInt  # tokens of the rows that the model was trained on

    def frequencies(self, plain: Float[Tensor, "n"], positions: Positions) -> Float[Tensor, "*rows n"]:
        columns = 2 * plain.shape[-1]
        if columns < 4:
            raise SpecError(f"rotary_ntk needs at least 4 columns to turn, got {columns}")
        length = document_lengths(positions).clamp(min=self.context)[..., None].to(plain.dtype)  # [B T 1]
        growth = (self.factor * length / self.context - (self.factor - 1)) ** (columns / (columns - 2))
        # (base growth)^(-2i / c) = plain_i growth^(-2i / c)
        twice_i = torch.arange(0, columns, 2, device=plain.device, dtype=plain.dtype)
        return plain * growth ** -(twice_i / columns)

    @property
    def steady_length(self) -> int | None:
        return self.context


def document_lengths(positions: Positions) -> Int[Tensor, "B T"]:
    """For each token the length of its document: the last position in it, plus one."""
    place, document = positions.position, positions.document
    if document is None:
        return place.amax(-1, keepdim=True).expand(place.shape) + 1
    last = torch.ones_like(document, dtype=torch.bool)
    last[:, :-1] = document[:, 1:] != document[:, :-1]
    slot = torch.arange(place.shape[1], device=place.device)
    end = torch.where(last, slot, place.shape[1]).flip(-1).cummin(-1).values.flip(-1)  # of each token's document
    return place.expand(document.shape).gather(-1, end) + 1
