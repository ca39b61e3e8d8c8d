"""Softmax with a learned sink (gpt-oss, arXiv:2508.10925; StreamingLLM, arXiv:2309.17453).

    p_ij = exp(s_ij) / (exp(b_h) + sum over visible k of exp(s_ik))

b_h is one learned logit of each head: a key that is always there and whose value is zero. The
output equals that of softmax times sigmoid(lse_i - b_h), where lse_i = log(sum of exp(s_ik)).
It begins as softmax-off-by-one, which is b = 0.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch

from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.slots import Normalizer


@final
class LearnedSink(Normalizer):
    """Weights that are positive and sum to less than 1; each head learns how easily it attends to nothing."""

    kind: Literal["learned_sink"] = "learned_sink"
    online: ClassVar[bool] = True
    fused: ClassVar[Literal["softmax"]] = "softmax"
    has_extra_logit: ClassVar[bool] = True

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return {"sink": Parameter((dims.heads,), constant(0.0))}

    def extra_logit(self, params: Params, like: Float[Tensor, "H"]) -> Float[Tensor, "H"]:
        return params["sink"].to(like.dtype)

    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        if visible is not None:
            s = s.masked_fill(~visible, float("-inf"))
        sink = params["sink"].to(s.dtype)[:, None, None].expand(*s.shape[:-1], 1)
        return torch.cat([s, sink], -1).softmax(-1)[..., :-1]
