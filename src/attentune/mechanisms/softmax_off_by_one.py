"""Softmax with one in the denominator ("Attention is off by one", E. Miller 2023).

    p_ij = exp(s_ij) / (1 + sum over visible k of exp(s_ik))

It equals softmax with one extra key whose score and value are zero, so a head may attend to nothing.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch

from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Params
from attentune.spec.slots import Normalizer


@final
class SoftmaxOffByOne(Normalizer):
    """Weights that are positive and sum to less than 1."""

    kind: Literal["softmax_off_by_one"] = "softmax_off_by_one"
    online: ClassVar[bool] = True
    fused: ClassVar[Literal["softmax"]] = "softmax"
    has_extra_logit: ClassVar[bool] = True

    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        if visible is not None:
            s = s.masked_fill(~visible, float("-inf"))
        zero = s.new_zeros(()).expand(*s.shape[:-1], 1)
        return torch.cat([s, zero], -1).softmax(-1)[..., :-1]
