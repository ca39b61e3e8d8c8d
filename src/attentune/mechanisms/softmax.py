"""Softmax (arXiv:1706.03762).

    p_ij = exp(s_ij) / sum over visible k of exp(s_ik)

A query that sees nothing has weights of 0 everywhere.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Params
from attentune.spec.slots import Normalizer


@final
class Softmax(Normalizer):
    """Weights that are positive and sum to 1."""

    kind: Literal["softmax"] = "softmax"
    online: ClassVar[bool] = True
    fused: ClassVar[Literal["softmax"]] = "softmax"

    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        if visible is None:
            return s.softmax(-1)
        seen = visible.any(-1, keepdim=True)
        # A row that sees nothing keeps finite scores, so that neither it nor its gradient is ever NaN.
        return s.masked_fill(~visible & seen, float("-inf")).softmax(-1).masked_fill(~seen, 0.0)
