"""Talking heads (arXiv:2003.02436).

    s'_h = sum_g s_g P[g, h]        before the normaliser
    p'_h = sum_g p_g Q[g, h]        after it

A key that is hidden stays hidden in every mixture.
"""

from __future__ import annotations

from typing import Literal, final

import torch

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params
from attentune.spec.slots import HeadMix


@final
class TalkingHeads(HeadMix):
    """Learned linear mixtures across heads; both begin as the identity."""

    kind: Literal["talking_heads"] = "talking_heads"

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        square = (dims.heads, dims.heads)
        return {name: Parameter(square, torch.nn.init.eye_) for name in ("pre", "post")}

    def pre(self, params: Params, s: Float[Tensor, "B H Q K"]) -> Float[Tensor, "B H Q K"]:
        return torch.einsum("bgqk,gh->bhqk", s, params["pre"].to(s.dtype))

    def post(self, params: Params, p: Float[Tensor, "B H Q K"]) -> Float[Tensor, "B H Q K"]:
        return torch.einsum("bgqk,gh->bhqk", p, params["post"].to(p.dtype))
