"""Additive attention (Bahdanau, arXiv:1409.0473).

    s = a . tanh(W q + U k)    one a, W, U for each head

The network sees one query and one key at a time, so nothing fused can compute it.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal, final

import torch

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, normal
from attentune.spec.slots import Similarity


@final
class Additive(Similarity):
    """A one-layer network of query and key; memory grows with Q x K x D."""

    kind: Literal["additive"] = "additive"

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        square, std = (dims.heads, dims.head_width, dims.head_width), 1 / sqrt(dims.head_width)
        return {
            "w": Parameter(square, normal(std), weight_decay=True),
            "u": Parameter(square, normal(std), weight_decay=True),
            "a": Parameter((dims.heads, dims.head_width), normal(std), weight_decay=True),
        }

    def scores(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D2"], k: Float[Tensor, "B H K D2"]
    ) -> Float[Tensor, "B H Q K"]:
        w, u, a = (params[name].to(q.dtype) for name in ("w", "u", "a"))
        wq, uk = q @ w.transpose(-1, -2), k @ u.transpose(-1, -2)
        # A sum, not a matrix product: the gradient of `a` adds up every pair, which products do less exactly.
        return (torch.tanh(wq[:, :, :, None] + uk[:, :, None]) * a[:, None, None]).sum(-1)
