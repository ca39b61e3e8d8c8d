"""Squared ReLU in place of softmax (arXiv:2309.08586).

    p_ij = max(s_ij, 0)^2 / n_i

The paper divides by the length of the row; n_i is the number of keys that query i sees, which is the same
where every key is visible, and keeps the size of the output from growing along a causal row.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch

from attentune.mechanisms._visible import visible_count
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Params
from attentune.spec.slots import Normalizer


@final
class Relu2(Normalizer):
    """Weights that grow with the square of positive scores, and are exactly 0 for the others."""

    kind: Literal["relu2"] = "relu2"
    online: ClassVar[bool] = True
    fused: ClassVar[Literal["relu2"]] = "relu2"

    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        p = torch.relu(s).square() / visible_count(s, visible)
        return p if visible is None else p.masked_fill(~visible, 0.0)
