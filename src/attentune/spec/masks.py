"""The slot `mask`: predicates on positions, and how `&`, `|` and `~` compose them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from enum import StrEnum
from functools import reduce
from operator import and_, or_
from typing import ClassVar, Literal, final

from pydantic import SerializeAsAny, field_validator

from attentune.shapes import Bool, Int, Tensor
from attentune.spec.mechanism import Mechanism, Stage
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileGrid, both, either, opposite

__all__ = ["And", "Depends", "Mask", "Not", "Or"]


class Depends(StrEnum):
    """What a predicate looks at, which decides how its tiles can be bounded."""

    DIFFERENCE = "the difference of the two positions"
    KEY = "the key"
    BOTH = "query and key"


class Mask(Mechanism):
    """A predicate on positions. `&`, `|` and `~` compose; documents and padding are not its business."""

    slot: ClassVar[str] = "mask"
    stage: ClassVar[Stage] = Stage.VISIBLE

    @abstractmethod
    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        """True where `query` may see `key`; the arguments broadcast against each other."""

    @property
    @abstractmethod
    def lookahead(self) -> int | None:
        """How far a query may see keys later than itself: 0 never, n only keys at positions below n, None anywhere."""

    @property
    def depends(self) -> Depends:
        """What `visible` looks at. Whoever says less than both must look at nothing else."""
        return Depends.BOTH

    def joins(self, query: Positions, key: Positions, *, documents: bool = True) -> Bool[Tensor, "..."]:
        """`visible`, where moreover neither token is padding and both are of one document.

        Without `documents` those of query and key are numbers of different texts, as in cross-attention.
        """
        seen = self.visible(query, key)
        if documents and query.document is not None and key.document is not None:
            seen = seen & (query.document == key.document)
        for side in (query, key):
            seen = seen if side.valid is None else seen & side.valid
        return seen

    def tiles(self, grid: TileGrid) -> Int[Tensor, "..."]:
        """The state of each tile where it is known without looking at its pairs, else `UNDECIDED`; int8 [Qt, Kt].

        `attentune.spec.tiles` decides the rest. What is said here must be exact.
        """
        if self.depends is Depends.DIFFERENCE:
            return grid.by_difference(self.visible)
        if self.depends is Depends.KEY:
            return grid.by_key(self.visible)
        return grid.undecided()

    def __and__(self, other: Mask) -> Mask:
        return And(masks=_parts(And, self) + _parts(And, other))

    def __or__(self, other: Mask) -> Mask:
        return Or(masks=_parts(Or, self) + _parts(Or, other))

    def __invert__(self) -> Mask:
        return self.mask if isinstance(self, Not) else Not(mask=self)


class _Several(Mask):
    masks: tuple[SerializeAsAny[Mask], ...]

    @field_validator("masks")
    @classmethod
    def _at_least_two(cls, masks: tuple[Mask, ...]) -> tuple[Mask, ...]:
        if len(masks) < 2:
            raise ValueError(f"needs at least 2 masks, got {len(masks)}")
        return tuple(part for mask in masks for part in _parts(cls, mask))  # a & (b & c) is a & b & c

    @property
    def depends(self) -> Depends:
        found = {mask.depends for mask in self.masks}
        return found.pop() if len(found) == 1 else Depends.BOTH

    def _states(self, grid: TileGrid, combine: Callable[..., Tensor], join: Callable[[Mask, Mask], Mask]) -> Tensor:
        """What parts of one kind show together is known exactly; only then are the kinds combined."""
        if self.depends is not Depends.BOTH:
            return super().tiles(grid)
        alike: dict[Depends, list[Mask]] = {}
        for mask in self.masks:
            alike.setdefault(mask.depends, []).append(mask)
        apart = alike.pop(Depends.BOTH, [])
        apart.extend(reduce(join, masks) for masks in alike.values())
        return combine(*(mask.tiles(grid) for mask in apart))


@final
class And(_Several):
    """Visible where all of `masks` agree."""

    kind: Literal["and"] = "and"

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        seen = self.masks[0].visible(query, key)
        for mask in self.masks[1:]:
            seen = seen & mask.visible(query, key)
        return seen

    @property
    def lookahead(self) -> int | None:
        return min((n for mask in self.masks if (n := mask.lookahead) is not None), default=None)

    def tiles(self, grid: TileGrid) -> Int[Tensor, "..."]:
        return self._states(grid, both, and_)


@final
class Or(_Several):
    """Visible where any of `masks` says so."""

    kind: Literal["or"] = "or"

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        seen = self.masks[0].visible(query, key)
        for mask in self.masks[1:]:
            seen = seen | mask.visible(query, key)
        return seen

    @property
    def lookahead(self) -> int | None:
        bounds = [mask.lookahead for mask in self.masks]
        return None if None in bounds else max(n for n in bounds if n is not None)

    def tiles(self, grid: TileGrid) -> Int[Tensor, "..."]:
        return self._states(grid, either, or_)


@final
class Not(Mask):
    """Visible where `mask` hides."""

    kind: Literal["not"] = "not"
    mask: SerializeAsAny[Mask]

    @field_validator("mask")
    @classmethod
    def _once(cls, mask: Mask) -> Mask:
        if isinstance(mask, Not):
            raise ValueError("a mask hidden twice is the mask itself")
        return mask

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return ~self.mask.visible(query, key)

    @property
    def lookahead(self) -> int | None:
        if isinstance(self.mask, And):  # ~(a & b) is ~a | ~b
            return Or(masks=tuple(~mask for mask in self.mask.masks)).lookahead
        if isinstance(self.mask, Or):
            return And(masks=tuple(~mask for mask in self.mask.masks)).lookahead
        return None

    @property
    def depends(self) -> Depends:
        return self.mask.depends

    def tiles(self, grid: TileGrid) -> Int[Tensor, "..."]:
        return opposite(self.mask.tiles(grid))


def _parts(composite: type[_Several], mask: Mask) -> tuple[Mask, ...]:
    return mask.masks if isinstance(mask, composite) else (mask,)
