"""Entmax with alpha = 1.5 (arXiv:1905.05702).

    p_j = max(s_j / 2 - tau, 0)^2,    tau such that the p_j sum to 1

tau is found exactly by sorting; the gradient is that of the paper: with g_j = sqrt(p_j),
ds = g (dp - (g . dp) / sum g).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch

from attentune.mechanisms._visible import over_visible
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Params
from attentune.spec.slots import Normalizer


@final
class Entmax15(Normalizer):
    """Weights that sum to 1, many of them exactly 0."""

    kind: Literal["entmax15"] = "entmax15"
    online: ClassVar[bool] = False

    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        return over_visible(entmax15, s, visible)


class _Entmax15(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Tensor:
        x = (s - s.amax(-1, keepdim=True)) / 2
        ordered = x.sort(-1, descending=True).values.clamp(min=-2.0)  # -2 is never in the support: x_1 = 0, tau >= -1
        count = torch.arange(1, s.shape[-1] + 1, device=s.device, dtype=s.dtype)
        mean = ordered.cumsum(-1) / count
        spread = (ordered**2).cumsum(-1) - count * mean**2
        taus = mean - ((1 - spread) / count).clamp(min=0).sqrt()
        support = (taus <= ordered).sum(-1, keepdim=True).clamp(min=1)
        tau = taus.gather(-1, support - 1)
        p = (x - tau).clamp(min=0) ** 2
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        p: Tensor = ctx.saved_tensors[0]
        support = p > 0
        g = torch.where(support, torch.where(support, p, 1.0).sqrt(), 0.0)  # its own gradient is finite where p = 0
        weighted = gradients[0] * g
        return weighted - g * weighted.sum(-1, keepdim=True) / g.sum(-1, keepdim=True)


def entmax15(s: Tensor) -> Tensor:
    """Entmax-1.5 over the last axis; entries at -inf get exactly 0."""
    result: Tensor = _Entmax15.apply(s)  # type: ignore[no-untyped-call]
    return result
