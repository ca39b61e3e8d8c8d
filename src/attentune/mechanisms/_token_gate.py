"""What gates of the attention's output share: numbers in (0, 1) that the query's own token computes."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import linear

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, normal
from attentune.spec.slots import OutputCombine


class TokenGate(OutputCombine):
    """sigmoid(W x), one number a head, or one for each of its columns."""

    per: Literal["head", "element"] = "head"

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        rows = dims.heads * (dims.value_width if self.per == "element" else 1)
        return {"weight": Parameter((rows, dims.width), normal(0.02), weight_decay=True)}

    def gate(self, params: Params, dims: Dims, x: Float[Tensor, "B Q E"]) -> Float[Tensor, "B H Q C"]:
        """The gates: C is 1, or V where each column has its own."""
        gates: Tensor = torch.sigmoid(linear(x, params["weight"])).unflatten(-1, (dims.heads, -1))
        return gates.transpose(1, 2)
