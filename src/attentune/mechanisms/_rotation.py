"""What the rotary positions share: frequencies of the pairs of columns, their angles, and the turning itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field

from attentune.errors import SpecError
from attentune.shapes import Float, Int, Tensor
from attentune.spec.positions import Positions
from attentune.spec.slots import Rotation


class RotaryPairs(Rotation):
    """Turns pairs of columns by the angle p f_i, where p is the position and f_i the frequency of pair i.

    What a variant changes is `frequencies`, and `attention_scale` where turned columns are also scaled.
    """

    base: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 10000.0
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of each head's columns; the last ones stay as they are
    pairs: Literal["halves", "neighbours"] = "halves"  # (x_i, x_{i + c/2}) as in Llama, (x_2i, x_{2i+1}) as in GPT-J

    @abstractmethod
    def frequencies(self, plain: Float[Tensor, "n"], positions: Positions) -> Float[Tensor, "*rows n"]:
        """f_i for n pairs, from the plain base^(-2i / c); a variant may give each token [B T n] its own."""

    @property
    def attention_scale(self) -> float:
        """What turned columns of q and k are multiplied by."""
        return 1.0

    def table(self, width: int, positions: Positions, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        turned = round(width * self.fraction)
        if turned < 2 or turned % 2 or abs(turned - width * self.fraction) > 1e-6:
            raise SpecError(
                f"{self.kind} turns pairs of columns: fraction x head width must be an even number, "
                f"got {self.fraction} x {width}"
            )
        place = positions.position
        angle = place[..., None] * self.frequencies(powers(self.base, turned, place), positions)  # [B T c/2]
        angle = torch.cat([angle, angle], -1) if self.pairs == "halves" else angle.repeat_interleave(2, -1)
        angle = angle[:, None]  # [B 1 T c]
        return (angle.cos() * self.attention_scale).to(dtype), (angle.sin() * self.attention_scale).to(dtype)

    def rotate(self, x: Float[Tensor, "B N T C"], table: tuple[Tensor, Tensor]) -> Float[Tensor, "B N T C"]:
        cos, sin = table
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        if self.pairs == "halves":
            first, second = turned.chunk(2, -1)
            quarter = torch.cat([-second, first], -1)
        else:
            quarter = torch.stack([-turned[..., 1::2], turned[..., 0::2]], -1).flatten(-2)
        turned = turned * cos + quarter * sin
        return turned if rest.shape[-1] == 0 else torch.cat([turned, rest], -1)


def powers(base: float, columns: int, place: Int[Tensor, "..."]) -> Float[Tensor, "n"]:
    """base^(-2i / columns) for each pair i, exact enough for any position, on the device of `place`."""
    # A memory lets positions grow without end; from some hundred thousand on, float32 would lose the angle.
    exact = torch.float32 if place.device.type == "mps" else torch.float64
    twice_i = torch.arange(0, columns, 2, device=place.device, dtype=exact)
    decay: Tensor = base ** -(twice_i / columns)
    return decay
