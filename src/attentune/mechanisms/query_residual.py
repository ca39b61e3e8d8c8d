"""Attention with the residual of its query.

    o_i -> o_i + q_i        q_i = W_q x_i, before anything normalises or turns it

Each head keeps what it asked beside what it found. A query that sees no key gives its q_i alone. The blocks of the
Set Transformer (arXiv:1810.00825) sum queries and attention in this way.
"""

from __future__ import annotations

from typing import Literal, final

from attentune.errors import SpecError
from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params
from attentune.spec.slots import OutputCombine


@final
class QueryResidual(OutputCombine):
    """The projected query added to the attention's output, head by head; heads must be as wide as their values."""

    kind: Literal["query_residual"] = "query_residual"

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        if dims.head_width != dims.value_width:
            raise SpecError(
                f"query_residual adds queries to values of the same width, "
                f"got queries of {dims.head_width} columns and values of {dims.value_width}"
            )
        return {}

    def combine(
        self,
        params: Params,
        dims: Dims,
        o: Float[Tensor, "B H Q V"],
        x: Float[Tensor, "B Q E"],
        q: Float[Tensor, "B H Q V"],
    ) -> Float[Tensor, "B H Q V"]:
        return o + q
