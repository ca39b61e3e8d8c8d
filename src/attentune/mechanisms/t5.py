"""Relative position buckets (T5, arXiv:1910.10683).

    s_ij += table[bucket(i - j), h]

Small distances have a bucket each, larger ones share buckets that widen logarithmically up to
`max_distance`; all beyond share the last. Causal attention spends every bucket on the past.
"""

from __future__ import annotations

from math import log
from typing import Literal, final

import torch
from pydantic import Field, model_validator

from attentune.shapes import Int, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, normal
from attentune.spec.positions import Positions
from attentune.spec.score_steps import StepForm
from attentune.spec.slots import Bias


@final
class T5(Bias):
    """A learned number for each bucket of distance and each head."""

    kind: Literal["t5"] = "t5"
    buckets: int = Field(default=32, ge=2)
    max_distance: int = Field(default=128, ge=2)
    bidirectional: bool = False  # half of the buckets for keys after the query

    @model_validator(mode="after")
    def _distances_fit(self) -> T5:
        exact = (self.buckets // 2 if self.bidirectional else self.buckets) // 2
        if exact < 1 or self.max_distance <= exact:
            raise ValueError(
                f"max_distance must exceed the {max(exact, 1)} distances with a bucket of their own, "
                f"got max_distance={self.max_distance}, buckets={self.buckets}"
            )
        return self

    @property
    def step(self) -> StepForm:
        return StepForm.ADD_BY_DISTANCE

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return {"table": Parameter((self.buckets, dims.heads), normal(0.02))}

    def bias(self, params: Params, dims: Dims, query: Positions, key: Positions, head: Int[Tensor, "..."]) -> Tensor:
        return params["table"][self.bucket(query.position - key.position), head]

    def bucket(self, distance: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The bucket of query position minus key position."""
        buckets, offset = self.buckets, torch.zeros_like(distance)
        if self.bidirectional:
            buckets //= 2
            offset = torch.where(distance < 0, buckets, 0)
            distance = distance.abs()
        distance = distance.clamp(min=0)
        exact = buckets // 2
        ratio = torch.log(distance.clamp(min=1) / exact) / log(self.max_distance / exact)
        wide = (exact + (ratio * (buckets - exact)).to(distance.dtype)).clamp(max=buckets - 1)
        return offset + torch.where(distance < exact, distance, wide)
