"""Fixed sparse attention (Sparse Transformer, arXiv:1904.10509, section 4.2).

    visible(i, j) = j <= i and (floor(j / stride) = floor(i / stride)   or   j mod stride >= stride - summary)

Blocks of `stride` keys; the last `summary` keys of each block stay visible to all that follow, so that they can hold
what the block said. The paper takes stride 128 or 256 and summary 8, 16 or 32 (its c).
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt, model_validator

from attentune.shapes import Bool, Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileGrid, both, either


@final
class StridedFixed(Mask):
    """A query sees its own block so far, and the last `summary` keys of each block before."""

    kind: Literal["strided_fixed"] = "strided_fixed"
    needs_order: ClassVar[bool] = True
    stride: PositiveInt
    summary: PositiveInt = 1

    @model_validator(mode="after")
    def _summary_fits(self) -> StridedFixed:
        if self.summary > self.stride:
            raise ValueError(f"summary must be at most stride={self.stride}, got {self.summary}")
        return self

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return _before(query, key) & (self._same_block(query, key) | self._summarizes(query, key))

    def _same_block(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return query.position // self.stride == key.position // self.stride

    def _summarizes(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return (key.position % self.stride >= self.stride - self.summary) & (query.position >= 0)

    @property
    def lookahead(self) -> int | None:
        return 0

    def tiles(self, grid: TileGrid) -> Int[Tensor, "..."]:
        near_or_summary = either(grid.by_same_block(self.stride), grid.by_key(self._summarizes))
        return both(grid.by_difference(_before), near_or_summary)


def _before(query: Positions, key: Positions) -> Bool[Tensor, "..."]:
    return key.position <= query.position
