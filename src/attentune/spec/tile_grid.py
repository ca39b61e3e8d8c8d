"""Tiles of queries and keys, what a mask shows of each, and how the answers of several masks combine.

A tile is a range of queries times a range of keys. Its state is hidden, partly visible or wholly visible; `UNDECIDED`
stands where only looking at the tile itself tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch.nn.functional import pad

from attentune.shapes import Bool, Int, Tensor
from attentune.spec.positions import Positions

Predicate = Callable[[Positions, Positions], Tensor]


class TileState(IntEnum):
    """What a mask shows of a tile."""

    HIDDEN = 0
    PARTLY = 1
    WHOLLY = 2
    UNDECIDED = 3


def both(*states: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The states of a conjunction. Where two parts both show a tile partly, what they share is undecided."""
    found = torch.stack(torch.broadcast_tensors(*states))
    open_ = found != TileState.WHOLLY
    lone = found.masked_fill(~open_, 0).sum(0, dtype=found.dtype)  # the only state that is not wholly visible
    several = open_.sum(0)
    combined = lone.masked_fill(several == 0, TileState.WHOLLY).masked_fill(several > 1, TileState.UNDECIDED)
    return combined.masked_fill((found == TileState.HIDDEN).any(0), TileState.HIDDEN)


def either(*states: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The states of a disjunction."""
    return opposite(both(*map(opposite, states)))


def opposite(states: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The states of a negation."""
    return torch.where(states == TileState.UNDECIDED, states, TileState.WHOLLY - states)


@dataclass(frozen=True)
class TileGrid:
    """A row of queries [Q] and of keys [K], at least one of each, cut into tiles of `tile` = (queries, keys).

    The last tile of either side may be shorter. The methods answer for all tiles at once, as int8 [Qt, Kt] or what
    broadcasts to it, without ever looking at all pairs of queries and keys.
    """

    query: Positions
    key: Positions
    tile: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """How many tiles there are: (Qt, Kt)."""
        return -(-len(self.query.index) // self.tile[0]), -(-len(self.key.index) // self.tile[1])

    def undecided(self) -> Int[Tensor, "Qt Kt"]:
        """Every tile undecided."""
        return self.query.index.new_full(self.shape, TileState.UNDECIDED, dtype=torch.int8)

    def by_key(self, visible: Predicate) -> Int[Tensor, "Qt Kt"]:
        """The states of a predicate that depends on the key alone."""
        seen = visible(self.query.map(lambda tensor: tensor[:1]), self.key)
        return _counted(*_within(seen, self.tile[1]))[None, :].expand(self.shape)

    def by_query(self, visible: Predicate) -> Int[Tensor, "Qt Kt"]:
        """The states of a predicate that depends on the query alone."""
        seen = visible(self.query, self.key.map(lambda tensor: tensor[:1]))
        return _counted(*_within(seen, self.tile[0]))[:, None].expand(self.shape)

    def by_difference(self, visible: Predicate) -> Int[Tensor, "Qt Kt"]:
        """The states of a predicate that depends on i - j alone: it is asked once for each difference there is."""
        query, key = self._ranges()
        lowest = int(self.query.position.min() - self.key.position.max())
        highest = int(self.query.position.max() - self.key.position.min())
        difference = torch.arange(lowest, highest + 1, device=self.query.index.device)
        of_query, of_key = difference.clamp(min=0), (-difference).clamp(min=0)
        seen = pad(visible(Positions(of_query, of_query), Positions(of_key, of_key)).cumsum(0), (1, 0))
        # Only steady tiles hold every difference between the least and the most; the others stay undecided.
        least = query.first[:, None] - key.last
        most = torch.maximum(query.last[:, None] - key.first, least)
        states = _counted(seen[most + 1 - lowest] - seen[least - lowest], most + 1 - least)
        return self._where_steady(states)

    def by_same_block(self, block: int) -> Int[Tensor, "Qt Kt"]:
        """The states of floor(i / block) = floor(j / block)."""
        query, key = self._ranges()
        first, last = query.first[:, None] // block, query.last[:, None] // block
        key_first, key_last = key.first // block, key.last // block
        some = (first <= key_last) & (key_first <= last)
        every = (first == key_last) & (last == key_first)
        return self._where_steady(_states(some, every))

    def by_blocks(self, visible: Predicate, block: int) -> Int[Tensor, "Qt Kt"]:
        """The states of a predicate that depends on floor(i / block) and floor(j / block) alone."""
        some, every = self.query.index.new_zeros((2, *self.shape), dtype=torch.bool)
        every = ~every
        query, key = self._ranges()
        for position in query.of_each_block(block):
            of_query = Positions(position[:, None], position[:, None])
            for other in key.of_each_block(block):
                seen = visible(of_query, Positions(other[None, :], other[None, :]))
                some, every = some | seen, every & seen
        return self._where_steady(_states(some, every))

    def by_document(self) -> Int[Tensor, "Qt Kt"]:
        """The states of `both are of one document`; every tile wholly visible where no documents are told apart."""
        if self.query.document is None or self.key.document is None:
            return torch.full_like(self.undecided(), TileState.WHOLLY)
        (least, most), (key_least, key_most) = (
            _extremes(documents, size)
            for documents, size in ((self.query.document, self.tile[0]), (self.key.document, self.tile[1]))
        )
        least, most = least[:, None], most[:, None]
        apart = (most < key_least) | (key_most < least)
        one = (least == most) & (key_least == key_most) & (least == key_least)
        return self.undecided().masked_fill(apart, TileState.HIDDEN).masked_fill(one, TileState.WHOLLY)

    def _ranges(self) -> tuple[_Ranges, _Ranges]:
        return _ranges(self.query.position, self.tile[0]), _ranges(self.key.position, self.tile[1])

    def _where_steady(self, states: Int[Tensor, "Qt Kt"]) -> Int[Tensor, "Qt Kt"]:
        query, key = self._ranges()
        return states.masked_fill(~(query.steady[:, None] & key.steady), TileState.UNDECIDED)


@dataclass(frozen=True)
class _Ranges:
    """Positions of the first and the last token of each of T tiles, and whether those between go up by one."""

    first: Int[Tensor, "T"]
    last: Int[Tensor, "T"]
    steady: Bool[Tensor, "T"]

    def of_each_block(self, block: int) -> list[Int[Tensor, "T"]]:
        """For each tile a position in each block that it touches; tiles that touch fewer repeat their last."""
        touched = int((self.last // block - self.first // block).max().clamp(min=0)) + 1
        starts = (self.first // block + turn for turn in range(touched))
        return [torch.minimum(torch.maximum(start * block, self.first), self.last) for start in starts]


def _edges(length: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    first = torch.arange(0, length, size, device=like.device)
    return first, (first + size).clamp(max=length) - 1


def _ranges(position: Int[Tensor, "N"], size: int) -> _Ranges:
    first, last = _edges(len(position), size, position)
    step = pad((position[1:] - position[:-1] != 1).cumsum(0), (1, 0))  # breaks up to each token
    return _Ranges(position[first], position[last], step[last] == step[first])


def _extremes(numbers: Int[Tensor, "N"], size: int) -> tuple[Int[Tensor, "T"], Int[Tensor, "T"]]:
    filled = pad(numbers, (0, -len(numbers) % size), value=int(numbers[-1])).view(-1, size)
    return filled.amin(1), filled.amax(1)


def _within(seen: Bool[Tensor, "N"], size: int) -> tuple[Int[Tensor, "T"], Int[Tensor, "T"]]:
    """How many of each tile's tokens are True, and how many there are."""
    first, last = _edges(len(seen), size, seen)
    upto = pad(seen.cumsum(0), (1, 0))
    return upto[last + 1] - upto[first], last + 1 - first


def _counted(count: Int[Tensor, "..."], of: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    return _states(count > 0, count == of)


def _states(some: Bool[Tensor, "..."], every: Bool[Tensor, "..."]) -> Int[Tensor, "..."]:
    """int8: hidden is 0, partly visible is 1, wholly visible is 2."""
    return some.to(torch.int8) + every.to(torch.int8)
