"""Rotary positions (RoFormer, arXiv:2104.09864).

    (x_i, x_{i + c/2})  ->  turned by the angle  p base^(-2i / c),    i < c/2,    p the position

so that q . k depends on positions by their difference only. The pairs are the two halves of the
turned columns, as in Llama and GPT-NeoX.
"""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from pydantic import Field

from attentune.errors import SpecError
from attentune.shapes import Float, Tensor
from attentune.spec.positions import Positions
from attentune.spec.slots import Rotation


@final
class Rotary(Rotation):
    """Turns the first `fraction` of each head's columns."""

    kind: Literal["rotary"] = "rotary"
    base: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 10000.0
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0

    def table(self, width: int, positions: Positions, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        turned = round(width * self.fraction)
        if turned < 2 or turned % 2 or abs(turned - width * self.fraction) > 1e-6:
            raise SpecError(
                "rotary turns pairs of columns: fraction x head width must be an even number, "
                f"got {self.fraction} x {width}"
            )
        # A memory lets positions grow without end; from some hundred thousand on, float32 would lose the angle.
        exact = torch.float32 if positions.position.device.type == "mps" else torch.float64
        pairs = torch.arange(0, turned, 2, device=positions.position.device, dtype=exact) / turned
        angle = positions.position[..., None].to(exact) * self.base**-pairs  # [B T c/2]
        angle = torch.cat([angle, angle], -1)[:, None]  # [B 1 T c]
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def rotate(self, x: Float[Tensor, "B N T C"], table: tuple[Tensor, Tensor]) -> Float[Tensor, "B N T C"]:
        cos, sin = table
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = turned.chunk(2, -1)
        turned = turned * cos + torch.cat([-second, first], -1) * sin
        return turned if rest.shape[-1] == 0 else torch.cat([turned, rest], -1)
