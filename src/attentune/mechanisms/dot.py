"""Dot product (Luong, Pham, Manning, arXiv:1508.04025).

    s = q . k

Nothing divides it: with wide heads its softmax is sharp from the start, which is why the Transformer
scales it (`scaled_dot`).
"""

from __future__ import annotations

from typing import Literal, final

import torch

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Params
from attentune.spec.slots import Similarity


@final
class Dot(Similarity):
    """Inner product as it is."""

    kind: Literal["dot"] = "dot"

    def scores(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D2"], k: Float[Tensor, "B H K D2"]
    ) -> Float[Tensor, "B H Q K"]:
        return torch.matmul(q, k.transpose(-1, -2))

    def inner_product_scale(self, dims: Dims) -> float:
        return 1.0
