"""Random blocks of keys (BigBird, arXiv:2007.14062, section 2).

    visible(i, j) = floor(j / block) in R(floor(i / block))
    R(b) = `count` different blocks, each choice equally likely, of
           the b blocks before b                       without a length
           the ceil(length / block) first blocks       with one

What R(b) holds follows from `seed` and b alone, never from how long a row happens to be: decoding step by step sees
what a whole row sees. Without a length no later key is ever shown, as decoders need; encoders name the length of their
rows, as the paper has it, and keys beyond it are drawn by nobody. All heads share the choice; layers that shall differ
take seeds that differ. Where there are fewer blocks than `count`, all are seen.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import ClassVar, Literal, TypeVar, final

import torch
from pydantic import NonNegativeInt, PositiveInt

from attentune.shapes import Bool, Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileGrid

WORD = 0xFFFFFFFF
Word = TypeVar("Word", int, Tensor)


@final
class RandomBlocks(Mask):
    """The queries of a block see `count` randomly chosen blocks of `block` keys."""

    kind: Literal["random_blocks"] = "random_blocks"
    needs_order: ClassVar[bool] = True
    count: PositiveInt
    block: PositiveInt = 64
    seed: NonNegativeInt = 0
    length: PositiveInt | None = None

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        of_query, of_key = query.position // self.block, key.position // self.block
        return reduce(or_, (of_key == drawn for drawn in self._drawn(of_query)))

    def _drawn(self, block: Int[Tensor, "..."]) -> list[Int[Tensor, "..."]]:
        """R(b), -1 for want of blocks: Floyd's draws without replacement (Communications of the ACM 30:9, 1987)."""
        several = block if self.length is None else torch.full_like(block, -(-self.length // self.block))
        noise = _scramble(block ^ _scramble(self.seed))
        drawn: list[Tensor] = []
        for turn in range(self.count):
            last = several - self.count + turn
            one = _scramble(noise ^ turn) % (last + 1).clamp(min=1)
            for earlier in drawn:
                one = torch.where(earlier == one, last, one)
            drawn.append(torch.where(last < 0, -1, one))
        return drawn

    @property
    def lookahead(self) -> int | None:
        return 0 if self.length is None else -(-self.length // self.block) * self.block

    def tiles(self, grid: TileGrid) -> Int[Tensor, "..."]:
        return grid.by_blocks(self.visible, self.block)


def _scramble(word: Word) -> Word:
    """32 bits from 32 bits, each depending on all; the factors keep every product inside 63 bits."""
    word = word & WORD
    word = ((word ^ (word >> 16)) * 0x7FEB352D) & WORD
    word = ((word ^ (word >> 15)) * 0x31848BAB) & WORD
    return word ^ (word >> 14)
