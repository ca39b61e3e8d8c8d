"""Gated attention output (arXiv:2505.06708).

    o -> o * sigmoid(W x)        one gate a head, or one for each of its columns

A gate that is closed lets a head say nothing, without a sink among the keys.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch.nn.functional import linear

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, normal
from attentune.spec.slots import OutputCombine


@final
class Gate(OutputCombine):
    """A gate that the query's own token computes."""

    kind: Literal["gate"] = "gate"
    per: Literal["head", "element"] = "head"

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        rows = dims.heads * (dims.value_width if self.per == "element" else 1)
        return {"weight": Parameter((rows, dims.width), normal(0.02), weight_decay=True)}

    def combine(
        self,
        params: Params,
        dims: Dims,
        o: Float[Tensor, "B H Q V"],
        x: Float[Tensor, "B Q E"],
        q: Float[Tensor, "B H Q D"],
    ) -> Float[Tensor, "B H Q V"]:
        gate = torch.sigmoid(linear(x, params["weight"]))
        gated: Tensor = o * gate.unflatten(-1, (o.shape[1], -1)).transpose(1, 2)
        return gated
