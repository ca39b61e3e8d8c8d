"""Differential attention (arXiv:2410.05258).

    o = (softmax(q1 k1) - lambda softmax(q2 k2)) v,    lambda = exp(lq1 . lk1) - exp(lq2 . lk2) + init
    o -> (1 - init) RMSNorm(o)

Noise that both maps hold cancels. Heads h and h + H/2 are a pair, (q1, k1) and (q2, k2); their v is twice as wide as
a head: the values of key/value heads g and g + G/2 side by side. Where init is not given it is the paper's, which
grows with the layer, counted from 0: 0.8 - 0.6 exp(-0.3 layer).
"""

from __future__ import annotations

from math import exp
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch.nn.functional import rms_norm

from attentune.errors import SpecError
from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant, normal
from attentune.spec.slots import OutputCombine


@final
class Differential(OutputCombine):
    """The difference of two attention maps, normalised for each pair of heads."""

    kind: Literal["differential"] = "differential"
    init: Annotated[float, Field(ge=0, lt=1)] | None = None  # lambda begins about there; None is by layer
    gain: bool = False  # whether the norm has a learned gain for each column of a pair

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        for what, count in (("query heads", dims.heads), ("key/value heads", dims.groups)):
            if count % 2:
                raise SpecError(f"differential pairs heads: it needs an even number of {what}, got {count}")
        names = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
        declared = {name: Parameter((dims.head_width,), normal(0.1)) for name in names}
        if self.gain:
            declared["gain"] = Parameter((2 * dims.value_width,), constant(1.0))
        return declared

    def values(self, dims: Dims, v: Float[Tensor, "B G K V"]) -> Float[Tensor, "B G K W"]:
        pairs = torch.cat(v.chunk(2, 1), -1)
        return pairs.repeat(1, 2, 1, 1)

    def wide(self, dims: Dims) -> int:
        return 2 * dims.value_width

    def combine(
        self,
        params: Params,
        dims: Dims,
        o: Float[Tensor, "B H Q W"],
        x: Float[Tensor, "B Q E"],
        q: Float[Tensor, "B H Q D"],
    ) -> Float[Tensor, "B H Q V"]:
        first, second = o.chunk(2, 1)
        difference = first - self.factor(params, dims).to(o.dtype) * second
        gain = params["gain"].to(o.dtype) if self.gain else None
        normed = (1 - self.first_factor(dims)) * rms_norm(difference, difference.shape[-1:], gain, 1e-5)  # [B H/2 Q 2V]
        halves: Tensor = normed.unflatten(-1, (2, -1)).movedim(-2, 2)  # [B H/2 2 Q V]
        return halves.flatten(1, 2)

    def factor(self, params: Params, dims: Dims) -> Float[Tensor, ""]:
        """lambda, in float32 or wider."""
        q1, k1, q2, k2 = (
            params[name] if params[name].dtype.itemsize >= 4 else params[name].float()
            for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
        )
        return (q1 * k1).sum().exp() - (q2 * k2).sum().exp() + self.first_factor(dims)

    def first_factor(self, dims: Dims) -> float:
        """What lambda is at first, but for its random part."""
        return 0.8 - 0.6 * exp(-0.3 * dims.layer) if self.init is None else self.init
