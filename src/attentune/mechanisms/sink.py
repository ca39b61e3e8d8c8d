"""Attention sinks: the first keys of a document stay visible (StreamingLLM, arXiv:2309.17453).

    visible(i, j) = j < keys        as in  causal & (window(256) | sink(4))

It is a mask on positions in the document: a cache that re-indexes positions is another matter.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt

from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Depends, Mask
from attentune.spec.positions import Positions


@final
class Sink(Mask):
    """Every query sees the first `keys` keys."""

    kind: Literal["sink"] = "sink"
    needs_order: ClassVar[bool] = True
    keys: PositiveInt

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return (key.position < self.keys) & (query.position >= 0)

    @property
    def lookahead(self) -> int | None:
        return self.keys

    @property
    def depends(self) -> Depends:
        return Depends.KEY
