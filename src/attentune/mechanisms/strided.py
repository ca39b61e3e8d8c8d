"""Strided sparse attention (Sparse Transformer, arXiv:1904.10509, section 4.2).

    visible(i, j) = 0 <= i - j < stride   or   0 <= i - j and (i - j) mod stride = 0

The last keys, and every stride-th before them: two layers reach any key from any query. The paper gives the two parts
to different heads, or to one head that sees both, as here. For text, which has no period, it prefers `strided_fixed`.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt

from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Depends, Mask
from attentune.spec.positions import Positions


@final
class Strided(Mask):
    """A query sees the last `stride` keys, its own included, and every `stride`-th key before."""

    kind: Literal["strided"] = "strided"
    needs_order: ClassVar[bool] = True
    stride: PositiveInt

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        distance = query.position - key.position
        return (distance >= 0) & ((distance < self.stride) | (distance % self.stride == 0))

    @property
    def lookahead(self) -> int | None:
        return 0

    @property
    def depends(self) -> Depends:
        return Depends.DIFFERENCE
