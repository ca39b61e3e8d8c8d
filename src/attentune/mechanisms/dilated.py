"""A window with gaps (Longformer, arXiv:2004.05150, section 3.1).

    visible(i, j) = i - j in {0, d, 2d, ..., (window - 1) d}                                d the dilation
    visible(i, j) = |i - j| in {0, d, 2d, ..., (window - 1) / 2 * d}                        symmetric

It shows `window` keys, the query's own included, and reaches d times as far as a window without gaps. With d = 1 it is
that window.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt, model_validator

from attentune.mechanisms._masks import check_symmetric
from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Depends, Mask
from attentune.spec.positions import Positions


@final
class Dilated(Mask):
    """A query sees `window` keys, each `dilation` positions from the next, its own included."""

    kind: Literal["dilated"] = "dilated"
    needs_order: ClassVar[bool] = True
    window: PositiveInt
    dilation: PositiveInt
    symmetric: bool = False

    @model_validator(mode="after")
    def _sides_are_equal(self) -> Dilated:
        if self.symmetric:
            check_symmetric(self.window)
        return self

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        distance = query.position - key.position
        on_the_comb = distance % self.dilation == 0
        if self.symmetric:
            return on_the_comb & (distance.abs() <= (self.window - 1) // 2 * self.dilation)
        return on_the_comb & (distance >= 0) & (distance < self.window * self.dilation)

    @property
    def lookahead(self) -> int | None:
        return None if self.symmetric and self.window > 1 else 0

    @property
    def depends(self) -> Depends:
        return Depends.DIFFERENCE
