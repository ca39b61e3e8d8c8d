"""Retention (RetNet, arXiv:2307.08621).

    S_t = g_h S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t / sqrt(D),    g_h = 1 - 2^(-5 - h),    h = 0 .. H - 1
    y = W_o (group_norm(o) * silu(W_g x))

q and k are turned by their positions (rotary), which with the decay is the relative position of xPos. Each head
forgets at a speed of its own, that no token can change. The paper's scaling of rows by sums of decays and of
absolute scores falls out, because the norm over each head takes any scale away.
"""

from __future__ import annotations

from math import log1p
from typing import Literal, final

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.nn.functional import layer_norm, linear, silu

from attentune.errors import SpecError
from attentune.mechanisms._linear_mixer import LinearMixer
from attentune.mechanisms._matrix_state import Tokens
from attentune.mechanisms.rotary import Rotary
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant, normal
from attentune.spec.positions import Positions

ROTARY = Rotary()


@final
class Retention(LinearMixer):
    """A state that decays at one speed a head. As published `expand=2`, and heads are 256 wide."""

    kind: Literal["retention"] = "retention"
    heads: PositiveInt = 4
    expand: PositiveInt = 1  # V / D
    conv: NonNegativeInt = 0  # tokens that a convolution over q, k and v sees, with SiLU after it; 0 for none

    @property
    def value_factor(self) -> int:
        return self.expand

    def head_width(self, width: int) -> int:
        if (found := super().head_width(width)) % 2:
            raise SpecError(
                f"retention turns pairs of columns: width / heads must be even, got {width} / {self.heads} = {found}"
            )
        return found

    def state_shape(self, head_width: int) -> tuple[int, int]:
        return head_width, head_width * self.expand

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        declared = super().parameters(dims)
        inner = self.heads * self.head_width(dims.width) * self.expand
        declared["gate"] = Parameter((inner, dims.width), normal(0.02), weight_decay=True)
        declared["norm"] = Parameter((inner,), constant(1.0))
        if dims.bias:
            declared["norm_bias"] = Parameter((inner,), constant(0.0))
        return declared

    def init(self, dims: Dims, batch: int, like: Tensor) -> dict[str, Tensor]:
        return super().init(dims, batch, like) | {"position": like.new_zeros(batch, 1, dtype=torch.int64)}

    def log_decays(self) -> list[float]:
        """log g of each head."""
        return [log1p(-(2.0 ** (-5 - h))) for h in range(self.heads)]

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
        real = torch.ones_like(x[..., 0], dtype=torch.int64) if valid is None else valid.to(torch.int64)
        seen, origin = real.cumsum(1), -state["position"]
        if starts is not None:
            origin = torch.where(starts, seen - real, origin).cummax(1).values  # the last start counts
        after = seen - origin  # [B T], real tokens of the document so far
        place = after - 1
        table = ROTARY.table(q.shape[-1], Positions(index=place, position=place), q.dtype)
        q, k = ROTARY.rotate(q, table) * q.shape[-1] ** -0.5, ROTARY.rotate(k, table)
        decay = torch.tensor(self.log_decays(), dtype=q.dtype, device=q.device)[:, None]  # [H 1]
        if valid is None:
            decay = decay.expand(1, -1, x.shape[1])
        else:
            k, decay = k.masked_fill(~valid[:, None, :, None], 0.0), decay * real[:, None]
        return Tokens(q, k, v, decay, starts=starts), {"position": after[:, -1:]}

    def write(self, params: Params, x: Float[Tensor, "B T E"], o: Float[Tensor, "B H T W"]) -> Float[Tensor, "B T HV"]:
        normed = (
            layer_norm(o, o.shape[-1:], eps=1e-5).transpose(1, 2).flatten(2) * params["norm"]
        )  # each head's columns
        if "norm_bias" in params:
            normed = normed + params["norm_bias"]
        return normed * silu(linear(x, params["gate"])).to(o.dtype)
