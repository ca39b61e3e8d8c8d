"""Attention with one head of the model's width.

    q = W_q x,   k = W_k x,   v = W_v x,   y = W_o o         `projected=true`
    q = k = v = x,            y_i = sum_j w_ij x_j           `projected=false`

Unprojected it is attention in its barest form: similarity alone decides the weights, and nothing is
learned. In cross-attention its keys and values are the context, which must be as wide as the model.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import model_validator

from attentune.errors import SpecError
from attentune.mechanisms._projected import ProjectedHeads
from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params


@final
class Single(ProjectedHeads):
    """One head that compares all columns at once, with or without projections."""

    kind: Literal["single"] = "single"
    heads: Literal[1] = 1
    projected: bool = True

    @model_validator(mode="after")
    def _width_is_projected(self) -> Single:
        if self.head_width is not None and not self.projected:
            raise ValueError(f"head_width={self.head_width} needs projections to it, got projected=false")
        return self

    @property
    def key_value_heads(self) -> int:
        return 1

    def dims(self, *, width: int, source_width: int, depth: int, bias: bool, cross: bool) -> Dims:
        if not self.projected and source_width != width:
            raise SpecError(
                "single(projected=false) compares queries and keys as they are: the context must be as wide as the "
                f"model, got {source_width} and {width}"
            )
        return super().dims(width=width, source_width=source_width, depth=depth, bias=bias, cross=cross)

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return super().parameters(dims) if self.projected else {}

    def project(
        self, params: Params, dims: Dims, x: Float[Tensor, "B Q E"], source: Float[Tensor, "B K F"] | None
    ) -> tuple[Float[Tensor, "B H Q D"], dict[str, Tensor]]:
        if self.projected:
            return super().project(params, dims, x, source)
        seen = (x if source is None else source)[:, None]
        return x[:, None], {"k": seen, "v": seen}

    def output(self, params: Params, dims: Dims, o: Float[Tensor, "B H Q V"]) -> Float[Tensor, "B Q E"]:
        return super().output(params, dims, o) if self.projected else o[:, 0]
