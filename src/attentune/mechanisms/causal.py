"""Causal mask (arXiv:1706.03762, decoder).

    visible(i, j) = j <= i

Positions count inside the document; a cache keeps them, so that decoding sees the same keys.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Depends, Mask
from attentune.spec.positions import Positions


@final
class Causal(Mask):
    """A query sees itself and what came before."""

    kind: Literal["causal"] = "causal"
    needs_order: ClassVar[bool] = True

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return key.position <= query.position

    @property
    def lookahead(self) -> int | None:
        return 0

    @property
    def depends(self) -> Depends:
        return Depends.DIFFERENCE
