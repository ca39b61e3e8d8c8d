"""Where tokens stand: what masks, rotations and biases read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch

from attentune.shapes import Bool, Int, Tensor


@dataclass(frozen=True)
class Positions:
    """The places of `N` tokens in each of `B` rows (`B` may be 1 and stand for all rows).

    `index` counts tokens as they arrived (the slot in a cache), `position` counts inside the
    document, `document` tells documents of a packed row apart, `prefix` is the length of the part
    that a prefix mask shows to everyone, `valid` is False on padding. None means: one document,
    no prefix, no padding.
    """

    index: Int[Tensor, "*shape"]
    position: Int[Tensor, "*shape"]
    document: Int[Tensor, "*shape"] | None = None
    prefix: Int[Tensor, "*prefix"] | None = None
    valid: Bool[Tensor, "*shape"] | None = None

    @staticmethod
    def arange(length: int, *, start: int = 0, device: torch.device | str | None = None) -> Positions:
        """`length` consecutive positions of one unpadded document, as [1 N]."""
        index = torch.arange(start, start + length, device=device)[None]
        return Positions(index=index, position=index)

    def map(self, function: Callable[[Tensor], Tensor]) -> Positions:
        """The same places with `function` applied to every tensor that is there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})

    def row(self, number: int) -> Positions:
        """The tokens of one row: tensors [N]."""
        return self.map(lambda tensor: tensor[number if tensor.shape[0] > 1 else 0])

    def as_queries(self) -> Positions:
        """Shaped [B 1 Q 1], to be compared with `as_keys()`."""
        return self.map(lambda tensor: tensor[:, None, :, None])

    def as_keys(self) -> Positions:
        """Shaped [B 1 1 K], to be compared with `as_queries()`."""
        return self.map(lambda tensor: tensor[:, None, None, :])
