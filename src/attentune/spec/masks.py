"""The slot `mask`: predicates on positions, and how `&`, `|` and `~` compose them."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, final

from pydantic import SerializeAsAny, field_validator

from attentune.shapes import Bool, Tensor
from attentune.spec.mechanism import Mechanism, Stage
from attentune.spec.positions import Positions

__all__ = ["And", "Mask", "Not", "Or"]


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
        return None


def _parts(composite: type[_Several], mask: Mask) -> tuple[Mask, ...]:
    return mask.masks if isinstance(mask, composite) else (mask,)
