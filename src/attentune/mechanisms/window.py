"""Causal attention to the last keys (Longformer, arXiv:2004.05150).

    visible(i, j) = 0 <= i - j < window

A window as long as the row is the causal mask.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt

from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions


@final
class Window(Mask):
    """A query sees the last `window` keys, its own included."""

    kind: Literal["window"] = "window"
    needs_order: ClassVar[bool] = True
    window: PositiveInt

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        return (key.position <= query.position) & (query.position - key.position < self.window)

    @property
    def lookahead(self) -> int | None:
        return 0
