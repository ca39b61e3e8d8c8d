"""Prefix language modelling: everyone sees the whole prefix (T5, arXiv:1910.10683, section 3.2.1).

    visible(i, j) = j < prefix      as in  causal | prefix(16)

Shown keys may lie after the query, so a prompt must hold the whole prefix before anything is decoded.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt

from attentune.errors import SpecError
from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Depends, Mask
from attentune.spec.positions import Positions


@final
class Prefix(Mask):
    """Every query sees the first `length` keys, or as many as the layout says for each row."""

    kind: Literal["prefix"] = "prefix"
    needs_order: ClassVar[bool] = True
    length: PositiveInt | None = None

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        if self.length is not None:
            return (key.position < self.length) & (query.position >= 0)
        if key.prefix is None:
            raise SpecError("prefix without a length needs a layout that says how long each row's prefix is")
        return (key.position < key.prefix) & (query.position >= 0)

    @property
    def lookahead(self) -> int | None:
        return self.length

    @property
    def depends(self) -> Depends:
        return Depends.KEY
