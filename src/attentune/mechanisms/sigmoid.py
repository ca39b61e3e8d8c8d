"""Sigmoid attention (arXiv:2409.04431).

    p_ij = sigmoid(s_ij + b)

Keys do not compete for weight. b is -log n as in the paper, with n the keys that the query sees, so
that the weights of equal scores of 0 sum to nearly 1 at first; or a number of the user's. `learned` adds to it
one number of each head, 0 at first.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field

from attentune.mechanisms._visible import visible_count
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.slots import Normalizer


@final
class Sigmoid(Normalizer):
    """Weights between 0 and 1, each from its own score alone; they need not sum to 1."""

    kind: Literal["sigmoid"] = "sigmoid"
    fused: ClassVar[Literal["sigmoid"]] = "sigmoid"
    online: ClassVar[bool] = True  # n comes from the mask alone, before any score is known
    bias: Annotated[float, Field(allow_inf_nan=False)] | None = None  # None: -log of the number of visible keys
    learned: bool = False

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return {"bias": Parameter((dims.heads,), constant(0.0))} if self.learned else {}

    def query_term(self, params: Params, count: Float[Tensor, "rows 1 Q"]) -> Float[Tensor, "rows heads Q"] | None:
        term = -count.log() if self.bias is None else torch.full_like(count, self.bias)
        if not self.learned:
            return term
        return term + params["bias"].to(term.dtype)[:, None]

    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        s = s - visible_count(s, visible).log() if self.bias is None else s + self.bias
        if self.learned:
            s = s + params["bias"].to(s.dtype)[:, None, None]
        p = torch.sigmoid(s)
        return p if visible is None else p.masked_fill(~visible, 0.0)
