"""Adaptive weight: a learned weight beside the one that content gives, normalised with it.

    p_ij = (exp(s_ij) + A_ij) / sum over visible k of (exp(s_ik) + A_ik)

A is positive: one number of each head, or one for each distance |i - j| of each head. It is computed as softmax
over the scores log(exp(s) + A), which any other normaliser is given all the same. With one A for all, n visible
keys and Z = sum of exp(s_ik), it mixes softmax with the mean, and most of it where no key fits:

    p = (1 - l) softmax(s) + l / n,    l = n A / (Z + n A)
"""

from __future__ import annotations

from math import log
from typing import Annotated, Literal, final

import torch
from pydantic import Field, PositiveInt, model_validator

from attentune.shapes import Float, Int, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.positions import Positions
from attentune.spec.score_steps import StepForm
from attentune.spec.slots import ElementwiseScore


@final
class AdaptiveWeight(ElementwiseScore):
    """Gives every visible key some weight, as much as each head learns."""

    kind: Literal["adaptive_weight"] = "adaptive_weight"
    per: Literal["head", "distance"] = "head"
    length: PositiveInt | None = None  # distances with a number of their own; all beyond share the last
    initial: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1  # A at first, beside the 1 of a score of 0

    @model_validator(mode="after")
    def _fields_fit(self) -> AdaptiveWeight:
        if self.per == "distance" and self.length is None:
            raise ValueError("per=distance needs length, the number of distances, such as length=64")
        if self.per == "head" and self.length is not None:
            raise ValueError(f"length={self.length} counts distances: say per=distance, or leave it out")
        return self

    @property
    def needs_order(self) -> bool:  # type: ignore[override]
        """One number of a head has a meaning without order; distances have none."""
        return self.per == "distance"

    @property
    def step(self) -> StepForm:
        by_head = self.per == "head"
        return StepForm.LOG_ADD_EXP_BY_HEAD if by_head else StepForm.LOG_ADD_EXP_BY_DISTANCE

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        shape = (dims.heads,) if self.length is None else (dims.heads, self.length)
        return {"log_a": Parameter(shape, constant(log(self.initial)))}

    def modify(
        self, params: Params, s: Float[Tensor, "..."], query: Positions, key: Positions, head: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        if self.length is None:
            log_a = params["log_a"][head]
        else:
            log_a = params["log_a"][head, (query.position - key.position).abs().clamp(max=self.length - 1)]
        return torch.logaddexp(s, log_a.to(s.dtype))
