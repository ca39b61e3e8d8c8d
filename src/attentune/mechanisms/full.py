"""No mask (arXiv:1706.03762, encoder).

    visible(i, j) = true

Documents and padding are still respected: they belong to the layout.
"""

from __future__ import annotations

from typing import Literal, final

from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Depends, Mask
from attentune.spec.positions import Positions


@final
class Full(Mask):
    """Every query sees every key."""

    kind: Literal["full"] = "full"

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return (query.position >= 0) | (key.position >= 0)

    @property
    def lookahead(self) -> int | None:
        return None

    @property
    def depends(self) -> Depends:
        return Depends.DIFFERENCE
