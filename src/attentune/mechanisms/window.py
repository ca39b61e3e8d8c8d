"""Attention to near keys (Longformer, arXiv:2004.05150).

    visible(i, j) = 0 <= i - j < window                     the last keys
    visible(i, j) = |i - j| <= (window - 1) / 2             symmetric: as many before as after

Either way a window of w shows w keys, the query's own included, so that a symmetric one is odd: 257 shows 128 keys on
either side, which the paper calls a window of 256. A window as long as the row is the causal mask.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt, model_validator

from attentune.mechanisms._masks import check_symmetric
from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Depends, Mask
from attentune.spec.positions import Positions


@final
class Window(Mask):
    """A query sees the last `window` keys, its own included, or the nearest `window` keys on both sides."""

    kind: Literal["window"] = "window"
    needs_order: ClassVar[bool] = True
    window: PositiveInt
    symmetric: bool = False

    @model_validator(mode="after")
    def _sides_are_equal(self) -> Window:
        if self.symmetric:
            check_symmetric(self.window)
        return self

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        distance = query.position - key.position
        if self.symmetric:
            return distance.abs() <= (self.window - 1) // 2
        return (distance >= 0) & (distance < self.window)

    @property
    def lookahead(self) -> int | None:
        return None if self.symmetric and self.window > 1 else 0

    @property
    def depends(self) -> Depends:
        return Depends.DIFFERENCE
