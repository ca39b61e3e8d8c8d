"""A learned number for each distance or pair of positions (as in Swin, arXiv:2103.14030, in one dimension).

    s_ij += table[h, i - j]      per distance
    s_ij += table[h, i, j]       per position

All numbers are 0 at first. Distances or positions beyond the table use its last entry. Per distance, keys after
the query share the entry of distance 0, unless `bidirectional` gives them entries of their own.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import PositiveInt, model_validator

from attentune.shapes import Float, Int, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.positions import Positions
from attentune.spec.score_steps import StepForm
from attentune.spec.slots import ElementwiseScore


@final
class LearnedBias(ElementwiseScore):
    """Adds to each score a number of its head and its distance, or its two positions."""

    kind: Literal["learned_bias"] = "learned_bias"
    length: PositiveInt  # distances (0 ... length - 1), or positions on each side, that have entries of their own
    per: Literal["distance", "position"] = "distance"
    bidirectional: bool = False

    @model_validator(mode="after")
    def _fields_fit(self) -> LearnedBias:
        if self.bidirectional and self.per == "position":
            raise ValueError("bidirectional concerns distances; a table per position has later keys anyway")
        return self

    @property
    def needs_order(self) -> bool:  # type: ignore[override]
        """A table of two positions asks for no common order; distances do."""
        return self.per == "distance"

    @property
    def step(self) -> StepForm | None:
        return StepForm.ADD_BY_DISTANCE if self.per == "distance" else None

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        places = 2 * self.length - 1 if self.bidirectional else self.length
        shape = (dims.heads, places) if self.per == "distance" else (dims.heads, self.length, self.length)
        return {"table": Parameter(shape, constant(0.0))}

    def modify(
        self, params: Params, s: Float[Tensor, "..."], query: Positions, key: Positions, head: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        last = self.length - 1
        if self.per == "position":
            bias = params["table"][head, query.position.clamp(0, last), key.position.clamp(0, last)]
        else:
            first = -last if self.bidirectional else 0
            bias = params["table"][head, (query.position - key.position).clamp(first, last) - first]
        return s + bias.to(s.dtype)
