"""Entmax with a learned alpha (arXiv:1905.05702; alpha learned as in arXiv:1909.00015).

    p_j = max((alpha - 1) s_j - tau, 0)^(1 / (alpha - 1)),    tau such that the p_j sum to 1

Each head learns its alpha = 1 + sigmoid(a). Toward 1 the weights become those of softmax; 2 is sparsemax,
and 1.5 is entmax15, which compute them exactly and faster. Here tau is found by bisection, which takes some 24
passes over the scores. Written with tau = (alpha - 1)(max s + t) - 1 the weights keep their precision where
alpha - 1 is small, and their gradients to scores and alpha are exact:

    y_j = s_j - max s - t,    u_j = 1 + (alpha - 1) y_j,    p_j = exp(log(u_j) / (alpha - 1)),    g_j = p_j^(2 - alpha)
    dp = P (ds + c dalpha),    P = diag(g) - g g^T / sum g,    c_j = ((alpha - 1) y_j - u_j log u_j) / (alpha - 1)^2
"""

from __future__ import annotations

from math import log
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field, model_validator

from attentune.mechanisms._visible import over_visible
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.slots import Normalizer

LEAST = 1e-6  # of alpha - 1: where the sigmoid underflows, the weights are softmax's to within rounding


@final
class Entmax(Normalizer):
    """Weights that sum to 1, sparse as far as each head has learned."""

    kind: Literal["entmax"] = "entmax"
    online: ClassVar[bool] = False
    alpha: Annotated[float, Field(gt=1, le=2)] = 1.5  # where learning begins
    learned: bool = True

    @model_validator(mode="after")
    def _has_room_to_learn(self) -> Entmax:
        if self.learned and not LEAST <= self.alpha - 1 <= 1 - LEAST:
            raise ValueError(f"a learned alpha begins between 1 and 2, got {self.alpha}; or say learned=false")
        return self

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        if not self.learned:
            return {}
        return {"a": Parameter((dims.heads,), constant(log((self.alpha - 1) / (2 - self.alpha))))}

    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        if self.learned:
            beyond_one = torch.sigmoid(params["a"].to(s.dtype))[:, None, None]
        else:
            beyond_one = s.new_tensor(self.alpha - 1)
        return over_visible(lambda scores: entmax(scores, beyond_one), s, visible)


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, e: Tensor) -> Tensor:
        x = s - s.amax(-1, keepdim=True)

        def power(t: Tensor) -> Tensor:
            return (e * x - e * t).clamp_(min=-1.0).log1p_().div_(e).exp_()

        # The largest of n weights is between 1 and 1 / n.
        high = (-torch.expm1(-e * log(s.shape[-1])) / e).expand_as(x[..., :1])
        low = torch.zeros_like(high)
        for _ in range(54 if s.dtype is torch.float64 else 24):
            t = (low + high) / 2
            too_much = power(t).sum(-1, keepdim=True) > 1
            low, high = torch.where(too_much, t, low), torch.where(too_much, high, t)
        p = power(low)
        p = p / p.sum(-1, keepdim=True)
        ctx.save_for_backward(p, e)
        return p

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        p, e = ctx.saved_tensors
        support = p > 0
        log_p = torch.where(support, p, 1.0).log()
        g = torch.where(support, torch.exp((1 - e) * log_p), 0.0)
        weighted = g * gradients[0]
        ds = weighted - g * weighted.sum(-1, keepdim=True) / g.sum(-1, keepdim=True)
        if not ctx.needs_input_grad[1]:
            return ds, None
        w = torch.expm1(e * log_p)  # (alpha - 1) y
        series = (w / e) ** 2 * (-1 / 2 + w * (1 / 6 + w * (-1 / 12 + w * (1 / 20 + w * (-1 / 30 + w / 42)))))
        c = torch.where(w.abs() < 0.01, series, (w - (1 + w) * e * log_p) / e**2)  # the difference cancels near w = 0
        return ds, (ds * c).sum_to_size(e.shape)


def entmax(s: Tensor, beyond_one: Tensor) -> Tensor:
    """Entmax over the last axis with alpha = 1 + `beyond_one`, which broadcasts; entries at -inf get exactly 0."""
    result: Tensor = _Entmax.apply(s, beyond_one.clamp(LEAST, 1.0))  # type: ignore[no-untyped-call]
    return result
