"""Sparsemax (arXiv:1602.02068).

    p_j = max(s_j - tau, 0),    tau such that the p_j sum to 1

It is the point of the simplex nearest to s, found exactly by sorting: of the scores in descending
order, the first n with 1 + n s_(n) > s_(1) + ... + s_(n) are the support, and
tau = (s_(1) + ... + s_(n) - 1) / n. The gradient is that of the paper, over the support S alone:
ds_j = dp_j - mean over S of dp.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch

from attentune.mechanisms._visible import over_visible
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Params
from attentune.spec.slots import Normalizer


@final
class Sparsemax(Normalizer):
    """Weights that sum to 1, of which a distance of 1 between scores already makes some exactly 0."""

    kind: Literal["sparsemax"] = "sparsemax"
    online: ClassVar[bool] = False

    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        return over_visible(sparsemax, s, visible)


class _Sparsemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Tensor:
        x = s - s.amax(-1, keepdim=True)
        ordered = x.sort(-1, descending=True).values.clamp(min=-1.0)  # -1 is never in the support: x_1 = 0, tau >= -1
        count = torch.arange(1, s.shape[-1] + 1, device=s.device, dtype=s.dtype)
        total = ordered.cumsum(-1)
        support = (1 + count * ordered > total).sum(-1, keepdim=True)
        tau = (total.gather(-1, support - 1) - 1) / support
        p = (x - tau).clamp(min=0)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        support = ctx.saved_tensors[0] > 0
        held = gradients[0].masked_fill(~support, 0.0)
        mean = held.sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
        return torch.where(support, held - mean, 0.0)


def sparsemax(s: Tensor) -> Tensor:
    """Sparsemax over the last axis; entries at -inf get exactly 0."""
    result: Tensor = _Sparsemax.apply(s)  # type: ignore[no-untyped-call]
    return result
