"""Grouped-query attention (arXiv:2305.13245).

    query head h reads key/value head h // (H / G),    G key/value heads for H query heads

G = H is multi-head attention, G = 1 is multi-query attention.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import PositiveInt, model_validator

from attentune.mechanisms._projected import ProjectedHeads


@final
class Grouped(ProjectedHeads):
    """Query heads share key/value heads in groups; in text `heads=8/2`."""

    kind: Literal["grouped"] = "grouped"
    groups: PositiveInt

    @model_validator(mode="after")
    def _groups_divide(self) -> Grouped:
        if self.heads % self.groups:
            raise ValueError(f"groups must divide heads, got heads={self.heads}, groups={self.groups}")
        return self

    @property
    def key_value_heads(self) -> int:
        return self.groups
