"""Global tokens see everything, and everything sees them (Longformer, arXiv:2004.05150; BigBird, arXiv:2007.14062).

    visible(i, j) = i in G or j in G        as in  window(257, symmetric=true) | global_tokens(2)

G holds the first `count` positions of a document, or the given ones. `causal & (window(256) | global_tokens(2))` stays
causal: there the global tokens see what came before them, and all later ones see them.
"""

from __future__ import annotations

from functools import reduce
from typing import ClassVar, Literal, final

import torch
from pydantic import NonNegativeInt, PositiveInt, field_validator, model_validator

from attentune.shapes import Bool, Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileGrid


@final
class GlobalTokens(Mask):
    """The first `count` tokens, or those at `positions`, see every key and are seen by every query."""

    kind: Literal["global_tokens"] = "global_tokens"
    needs_order: ClassVar[bool] = True
    count: PositiveInt | None = None
    positions: tuple[NonNegativeInt, ...] = ()

    @field_validator("positions")
    @classmethod
    def _in_order(cls, positions: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(positions)))

    @model_validator(mode="after")
    def _one_of_both(self) -> GlobalTokens:
        if (self.count is None) == (not self.positions):
            given = f"count={self.count} and positions={self.positions}" if self.positions else "neither"
            raise ValueError(f"give either the first so many, as in (2), or positions=(0, 5); got {given}")
        return self

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return self._holds(query.position) | self._holds(key.position)

    def _holds(self, position: Int[Tensor, "..."]) -> Bool[Tensor, "..."]:
        if self.count is not None:
            return position < self.count
        # Comparisons alone, so that a compiler can put them into a kernel.
        return reduce(lambda held, one: held | (position == one), self.positions[1:], position == self.positions[0])

    @property
    def lookahead(self) -> int | None:
        return None

    def tiles(self, grid: TileGrid) -> Int[Tensor, "..."]:
        of_query = grid.by_query(lambda query, key: self._holds(query.position) & (key.position >= 0))
        of_key = grid.by_key(lambda query, key: self._holds(key.position) & (query.position >= 0))
        # Two sides that are partly in G leave a pair of which neither is: the tile shows what the richer side shows.
        return torch.maximum(of_query, of_key)
