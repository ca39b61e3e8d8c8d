"""A window of whole blocks (BigBird, arXiv:2007.14062, section 2).

    visible(i, j) = |floor(i / block) - floor(j / block)| <= (window - 1) / 2

A query sees its own block of keys and as many before as after it: the sparse attention that accelerators compute in
dense pieces. With blocks of one token it is the symmetric window; `causal & block_window(3, 64)` shows no later key.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt, model_validator

from attentune.shapes import Bool, Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileGrid


@final
class BlockWindow(Mask):
    """A query sees the `window` nearest blocks of `block` keys, its own in the middle."""

    kind: Literal["block_window"] = "block_window"
    needs_order: ClassVar[bool] = True
    window: PositiveInt  # blocks
    block: PositiveInt

    @model_validator(mode="after")
    def _sides_are_equal(self) -> BlockWindow:
        if self.window % 2 == 0:
            raise ValueError(
                f"window counts the query's own block and as many before as after it: it must be odd, got {self.window}"
            )
        return self

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        distance = query.position // self.block - key.position // self.block
        return distance.abs() <= (self.window - 1) // 2

    @property
    def lookahead(self) -> int | None:
        return None if self.window * self.block > 1 else 0

    def tiles(self, grid: TileGrid) -> Int[Tensor, "..."]:
        return grid.by_blocks(self.visible, self.block)
