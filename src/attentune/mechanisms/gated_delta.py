"""The gated delta rule (arXiv:2412.06464); without its gate the delta rule (arXiv:2406.06484).

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,    o_t = S_t^T q_t,    |q_t| = |k_t| = 1
    b_t = sigmoid(W_b x_t),    a_t = exp(-exp(rate) softplus(W_a x_t + step))
    y_t = W_o (rms_norm(o_t) * silu(W_g x_t))

What the state holds under a key is replaced, by the share b, before a new value is written; a forgets all.
q, k and v pass a short convolution and SiLU before.
"""

from __future__ import annotations

from math import log
from typing import Literal, final

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.nn.functional import linear, normalize, rms_norm, silu, softplus

from attentune.mechanisms._linear_mixer import LinearMixer
from attentune.mechanisms._matrix_state import Tokens
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant, normal


@final
class GatedDelta(LinearMixer):
    """A state that is corrected by what it would have answered.

    As published the delta rule is `gate=false, output_gate=false`, and values are twice as wide as keys with
    `expand=2`.
    """

    kind: Literal["gated_delta"] = "gated_delta"
    heads: PositiveInt = 1
    gate: bool = True  # a_t; without it nothing is forgotten but what is replaced
    output_gate: bool = True
    conv: NonNegativeInt = 4  # tokens that the convolution over q, k and v sees; 0 for none
    expand: PositiveInt = 1  # V / D

    @property
    def value_factor(self) -> int:
        return self.expand

    def state_shape(self, head_width: int) -> tuple[int, int]:
        return head_width, head_width * self.expand

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        declared = super().parameters(dims)
        value_width = self.head_width(dims.width) * self.expand
        declared["beta"] = Parameter((self.heads, dims.width), normal(0.02), weight_decay=True)
        if self.gate:
            declared["decay"] = Parameter((self.heads, dims.width), normal(0.02), weight_decay=True)
            declared["rate"] = Parameter((self.heads,), _draw_rate)
            declared["step"] = Parameter((self.heads,), _draw_step)
        if self.output_gate:
            declared["gate"] = Parameter((self.heads * value_width, dims.width), normal(0.02), weight_decay=True)
        declared["norm"] = Parameter((value_width,), constant(1.0))
        return declared

    def read(
        self,
        params: Params,
        x: Float[Tensor, "B T E"],
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B H T D"],
        v: Float[Tensor, "B H T V"],
        state: dict[str, Tensor],
        valid: Bool[Tensor, "B T"] | None,
        starts: Bool[Tensor, "B T"] | None,
    ) -> tuple[Tokens, dict[str, Tensor]]:
        if not self.conv:
            q, k, v = silu(q), silu(k), silu(v)
        q, k = normalize(q, dim=-1, eps=1e-6), normalize(k, dim=-1, eps=1e-6)
        side = x.to(q.dtype)
        beta = torch.sigmoid(linear(side, params["beta"].to(q.dtype)).transpose(1, 2).contiguous())  # [B H T]
        decay = None
        if self.gate:
            speed = linear(side, params["decay"].to(q.dtype), params["step"].to(q.dtype))
            speed = softplus(speed.transpose(1, 2).contiguous())  # [B H T]
            decay = -params["rate"].to(q.dtype).exp()[:, None] * speed
        if valid is not None:
            k = k.masked_fill(~valid[:, None, :, None], 0.0)
            decay = None if decay is None else decay.masked_fill(~valid[:, None], 0.0)
        return Tokens(q, k, v, decay, beta, starts), {}

    def write(self, params: Params, x: Float[Tensor, "B T E"], o: Float[Tensor, "B H T W"]) -> Float[Tensor, "B T HV"]:
        o = rms_norm(o, (o.shape[-1],), params["norm"].to(o.dtype), 1e-5).transpose(1, 2).flatten(2)
        return o * silu(linear(x, params["gate"])).to(o.dtype) if self.output_gate else o


def _draw_rate(tensor: Tensor) -> None:
    """exp(rate) even between 1 and 16."""
    tensor.uniform_(1.0, 16.0).log_()


def _draw_step(tensor: Tensor) -> None:
    """softplus(step) between 0.001 and 0.1, even in its logarithm, so that heads forget at different speeds."""
    wanted = tensor.uniform_(log(0.001), log(0.1)).exp_()
    tensor.add_(torch.log(-torch.expm1(-wanted)))
