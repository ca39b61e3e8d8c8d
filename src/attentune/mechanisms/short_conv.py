"""Short convolution: a causal convolution of a few tokens for each column of the model width (arXiv:2302.10866).

    y_t = sum over s < size of w_s * x_{t - s} + b

It lets a layer compare a token with its neighbours, which one layer of attention cannot (arXiv:2312.04927).
"""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, Literal, final

import torch
from pydantic import PositiveInt
from torch.nn.functional import silu

from attentune.mechanisms._convolution import convolve
from attentune.mechanisms._matrix_state import CHUNK, accumulating
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant, normal
from attentune.spec.slots import Mixer


@final
class ShortConv(Mixer):
    """Each column of a token mixed with the same column of the `size` - 1 tokens before it; its state are these."""

    kind: Literal["short_conv"] = "short_conv"
    size: PositiveInt = 3  # tokens, the token's own included
    activation: Literal["none", "silu"] = "none"
    forms: ClassVar[tuple[str, ...]] = ("parallel", "chunked", "recurrent")

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        declared = {"weight": Parameter((dims.width, self.size), normal(1 / sqrt(3 * self.size)))}
        if dims.bias:
            declared["bias"] = Parameter((dims.width,), constant(0.0))
        return declared

    def init(self, dims: Dims, batch: int, like: Tensor) -> dict[str, Tensor]:
        return {"past": like.new_zeros(batch, self.size - 1, dims.width, dtype=accumulating(like.dtype))}

    def preferred(self, tokens: int) -> str:
        return "parallel"  # it costs no more than the others

    def mix(
        self,
        params: Params,
        x: Float[Tensor, "B T E"],
        state: dict[str, Tensor],
        valid: Bool[Tensor, "B T"] | None,
        starts: Bool[Tensor, "B T"] | None,
        form: str = "auto",
    ) -> tuple[Float[Tensor, "B T E"], dict[str, Tensor]]:
        form, given = self.chosen(form, x.shape[1]), x.dtype
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        x = x.to(accumulating(given))
        weight, past = params["weight"].to(x.dtype), state["past"].to(x.dtype)
        size = {"parallel": x.shape[1], "chunked": CHUNK, "recurrent": 1}[form]
        pieces = []
        for begin in range(0, x.shape[1], size):
            there, new = (None if side is None else side[:, begin : begin + size] for side in (valid, starts))
            y, past = convolve(x[:, begin : begin + size], weight, past, there, new)
            pieces.append(y)
        y = torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]
        if "bias" in params:
            y = y + params["bias"].to(y.dtype)
        if self.activation == "silu":
            y = silu(y)
        if valid is not None:
            y = y.masked_fill(~valid[..., None], 0.0)
        return y.to(given), {"past": past}
