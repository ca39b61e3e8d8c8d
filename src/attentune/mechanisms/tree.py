"""Tree attention: continuations that share their beginnings, scored in one pass (SpecInfer, arXiv:2305.09781).

    visible(i, j) = j <= i and (j < start, or node j is node i or one of its ancestors)

Node n stands at position start + n and follows node parents[n], or the text before where that is -1. The `start`
positions before the tree are ordinary causal text that every node sees. Positions beyond the last node see nothing and
are seen by none.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import NonNegativeInt, field_validator

from attentune.shapes import Bool, Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileGrid, both, either


@final
class Tree(Mask):
    """A node of the tree that `parents` tells sees itself, its ancestors, and the text before the tree."""

    kind: Literal["tree"] = "tree"
    needs_order: ClassVar[bool] = True
    parents: tuple[int, ...]
    start: NonNegativeInt = 0

    @field_validator("parents")
    @classmethod
    def _parents_come_first(cls, parents: tuple[int, ...]) -> tuple[int, ...]:
        if not parents:
            raise ValueError("name the parent of each node, -1 where it has none, as in (-1, 0, 0, 1)")
        for node, parent in enumerate(parents):
            if not -1 <= parent < node:
                raise ValueError(f"a parent stands before its child, or is -1 for none; node {node} has {parent}")
        return parents

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        # Numbered depth first, a node's descendants are the numbers from its own to the last of its subtree.
        first, last = self._numbered()
        of_query = _look_up(first, query.position - self.start)
        of_key, until = _look_up(first, key.position - self.start), _look_up(last, key.position - self.start)
        ancestor_or_self = (of_key <= of_query) & (of_query <= until)
        return self._inside(query, key) & (self._is_text(query, key) | ancestor_or_self)

    def _numbered(self) -> tuple[list[int], list[int]]:
        nodes = len(self.parents)
        size = [1] * nodes
        for node in reversed(range(nodes)):
            if (parent := self.parents[node]) >= 0:
                size[parent] += size[node]
        first, free = [0] * nodes, {-1: 0}
        for node, parent in enumerate(self.parents):
            first[node] = free[parent]
            free[parent] += size[node]
            free[node] = first[node] + 1
        return first, [number + several - 1 for number, several in zip(first, size, strict=True)]

    def _inside(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return (key.position <= query.position) & (query.position < self.start + len(self.parents))

    def _is_text(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return (key.position < self.start) & (query.position >= 0)

    @property
    def lookahead(self) -> int | None:
        return 0

    def tiles(self, grid: TileGrid) -> Int[Tensor, "..."]:
        end = self.start + len(self.parents)
        inside = both(
            grid.by_query(lambda query, key: (query.position < end) & (key.position >= 0)),
            grid.by_difference(lambda query, key: key.position <= query.position),
        )
        return both(inside, either(grid.by_key(self._is_text), grid.undecided()))


def _look_up(numbers: list[int], place: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The number at each place, 0 outside; comparisons alone, so that a compiler can put them into a kernel."""
    found = torch.zeros_like(place)
    for node, number in enumerate(numbers):
        found = torch.where(place == node, number, found)
    return found
