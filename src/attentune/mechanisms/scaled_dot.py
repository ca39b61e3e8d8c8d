"""Scaled dot product (arXiv:1706.03762).

    s = q . k / sqrt(D)

The factor is constant, so that fused kernels may apply it.
"""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Literal, final

import torch
from pydantic import Field

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Params
from attentune.spec.slots import Similarity


@final
class ScaledDot(Similarity):
    """Inner product, divided by the root of the head width unless `scale` says by what to multiply."""

    kind: Literal["scaled_dot"] = "scaled_dot"
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def scores(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D2"], k: Float[Tensor, "B H K D2"]
    ) -> Float[Tensor, "B H Q K"]:
        return torch.matmul(q * self.inner_product_scale(dims), k.transpose(-1, -2))

    def inner_product_scale(self, dims: Dims) -> float:
        return 1 / sqrt(dims.head_width) if self.scale is None else self.scale
