"""Adaptive attention span (arXiv:1905.07799).

    p_ij ~ m(i - j) exp(s_ij),    m(x) = clamp((ramp + z_h - x) / ramp, 0, 1)
    loss = penalty * mean over heads of z_h

Each head learns z_h, between 0 and `span` tokens: nearer keys count in full, and over the next `ramp`
tokens they fade out. It is computed as s_ij + log m, so that it should stand last among the scores. The paper
clamps z; here z = span * sigmoid(a), which never gets stuck at an end. Where m = 0 a key has weight 0 and no gradient.
A query that sees nothing but keys beyond its span weighs them equally; a mask that shows it its own key prevents that.
"""

from __future__ import annotations

from math import log
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field, PositiveInt

from attentune.shapes import Float, Int, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.positions import Positions
from attentune.spec.score_steps import StepForm
from attentune.spec.slots import ElementwiseScore

LOG_ZERO = -1e18  # finite, so that what multiplies the score later does not turn its gradient of 0 into NaN


@final
class AdaptiveSpan(ElementwiseScore):
    """Each head learns how far back it looks, and pays for the distance."""

    kind: Literal["adaptive_span"] = "adaptive_span"
    needs_order: ClassVar[bool] = True
    hides: ClassVar[bool] = True
    span: PositiveInt  # the largest z, in tokens
    ramp: PositiveInt = 32  # tokens over which keys fade out
    penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2e-6  # of the training loss, for each token of z
    initial: Annotated[float, Field(gt=0, lt=1)] = 0.5  # z at first, as a share of span

    @property
    def step(self) -> StepForm:
        return StepForm.ADD_BY_DISTANCE

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return {"a": Parameter((dims.heads,), constant(log(self.initial / (1 - self.initial))))}

    def reach(self, params: Params) -> Float[Tensor, "..."]:
        """z of each head, in tokens."""
        return self.span * torch.sigmoid(params["a"])

    def modify(
        self, params: Params, s: Float[Tensor, "..."], query: Positions, key: Positions, head: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        distance = (query.position - key.position).abs()
        reach = (self.span * torch.sigmoid(params["a"][head])).to(s.dtype)
        m = ((self.ramp + reach - distance) / self.ramp).clamp(0, 1)
        return torch.where(m > 0, s + torch.where(m > 0, m, 1.0).log(), LOG_ZERO)

    def losses(self, params: Params, dims: Dims) -> dict[str, Tensor]:
        return {"span": self.penalty * self.reach(params).mean()} if self.penalty else {}
