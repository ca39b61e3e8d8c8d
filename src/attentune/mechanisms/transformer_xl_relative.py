"""Relative positions of Transformer-XL (arXiv:1901.02860, section 3.3).

    s_ij = ((q_i + u) . k_j + (q_i + v) . W r_{i-j}) scale         u, v, W learned, u and v for each head
    r_d  = [sin(d f_0) ... sin(d f_n) ; cos(d f_0) ... cos(d f_n)],    f_m = 10000^(-2m / E)

Of (q_i + u) . k_j the similarity gives q_i . k_j. As sin and cos of i f - j f are sums of products,
(q_i + v) . W r_{i-j} is an inner product of what q_i + v becomes at i with r_j; nothing is shifted,
and positions may be any. The recurrence of the paper is a value of its own: `memory=transformer_xl(...)`.
"""

from __future__ import annotations

from typing import Literal, final

import torch

from attentune.errors import SpecError
from attentune.mechanisms._rotation import powers
from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, normal
from attentune.spec.positions import Positions
from attentune.spec.slots import RelativePosition


@final
class TransformerXLRelative(RelativePosition):
    """Scores by content and by distance, each with a bias that does not depend on the query."""

    kind: Literal["transformer_xl_relative"] = "transformer_xl_relative"

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        if dims.width % 2:
            raise SpecError(
                f"transformer_xl_relative pairs a sine with a cosine: the width must be even, got {dims.width}"
            )
        vector = (dims.heads, dims.head_width)
        return {
            "u": Parameter(vector, normal(0.02)),
            "v": Parameter(vector, normal(0.02)),
            "w": Parameter((dims.heads * dims.head_width, dims.width), normal(0.02), weight_decay=True),
        }

    def scores(
        self,
        params: Params,
        dims: Dims,
        q: Float[Tensor, "B H Q D"],
        k: Float[Tensor, "B H K D"],
        query: Positions,
        key: Positions,
        scale: float,
    ) -> Float[Tensor, "B H Q K"]:
        u, v = (params[name].to(q.dtype)[:, None] for name in ("u", "v"))  # [H 1 D]
        w = params["w"].to(q.dtype).unflatten(0, (dims.heads, dims.head_width))  # [H D E]
        by_content = u @ k.transpose(-1, -2)  # [B H 1 K]
        on_sin, on_cos = ((q + v) @ w).chunk(2, -1)  # (q_i + v) W meets r_{i-j} here
        frequency = powers(10000.0, dims.width, query.position)
        i = query.position[:, :, :, 0, None] * frequency  # [B 1 Q E/2]
        j = key.position[:, :, 0, :, None] * frequency  # [B 1 K E/2]
        sin_i, cos_i, sin_j, cos_j = (wave.to(q.dtype) for wave in (i.sin(), i.cos(), j.sin(), j.cos()))
        # sin(i - j) = sin i cos j - cos i sin j,    cos(i - j) = cos i cos j + sin i sin j
        with_cos_j = on_sin * sin_i + on_cos * cos_i
        with_sin_j = on_cos * sin_i - on_sin * cos_i
        by_distance = torch.cat([with_sin_j, with_cos_j], -1) @ torch.cat([sin_j, cos_j], -1).transpose(-1, -2)
        return (by_content + by_distance) * scale
