"""Bilinear attention, "general" in its paper (Luong, Pham, Manning, arXiv:1508.04025).

    s = q^T W_h k        one D x D matrix for each head

W starts random, so that scores of unit normal queries and keys have variance 1.
"""

from __future__ import annotations

from typing import Literal, final

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, normal
from attentune.spec.slots import Similarity


@final
class Bilinear(Similarity):
    """An inner product that is learned, and need not be symmetric or positive."""

    kind: Literal["bilinear"] = "bilinear"

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        square = (dims.heads, dims.head_width, dims.head_width)
        return {"w": Parameter(square, normal(1 / dims.head_width), weight_decay=True)}

    def scores(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D2"], k: Float[Tensor, "B H K D2"]
    ) -> Float[Tensor, "B H Q K"]:
        return q @ params["w"].to(q.dtype) @ k.transpose(-1, -2)
