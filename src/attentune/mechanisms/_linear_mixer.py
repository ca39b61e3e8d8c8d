"""What the mixers with a matrix for a state share: projections, their short convolution, and the way of their data."""

from __future__ import annotations

from abc import abstractmethod
from math import sqrt
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.nn.functional import linear, silu

from attentune.errors import SpecError
from attentune.mechanisms._convolution import convolve
from attentune.mechanisms._matrix_state import Tokens, accumulating, recurrence
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant, normal
from attentune.spec.slots import Mixer


class LinearMixer(Mixer):
    """q, k, v = W x, passed through a short convolution where there is one; a recurrence; y = W_o o."""

    heads: PositiveInt
    conv: NonNegativeInt  # tokens that a convolution over q, k and v sees, with SiLU after it; 0 for none
    forms: ClassVar[tuple[str, ...]] = ("parallel", "chunked", "recurrent")

    @property
    def value_factor(self) -> int:
        """V / D."""
        return 1

    @abstractmethod
    def state_shape(self, head_width: int) -> tuple[int, int]:
        """Rows and columns of a head's state."""

    @abstractmethod
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
        """What the recurrence shall read, and what of the state is not its matrix; `x`, q, k, v are finite."""

    @abstractmethod
    def write(self, params: Params, x: Float[Tensor, "B T E"], o: Float[Tensor, "B H T W"]) -> Float[Tensor, "B T HV"]:
        """What to project back to the model width."""

    def head_width(self, width: int) -> int:
        """D; `SpecError` where the heads do not divide the width."""
        if width % self.heads:
            raise SpecError(f"{self.kind}: heads must divide the width, got heads={self.heads}, width={width}")
        return width // self.heads

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        inner = self.heads * self.head_width(dims.width)
        rows = inner * (2 + self.value_factor)
        declared = {"qkv": Parameter((rows, dims.width), normal(0.02), weight_decay=True)}
        if self.conv:
            declared["conv"] = Parameter((rows, self.conv), normal(1 / sqrt(3 * self.conv)))
        shape, std = (dims.width, inner * self.value_factor), 0.02 / sqrt(2 * dims.depth)
        declared["out"] = Parameter(shape, normal(std), weight_decay=True)
        if dims.bias:
            declared["qkv_bias"] = Parameter((rows,), constant(0.0))
            declared["out_bias"] = Parameter((dims.width,), constant(0.0))
        return declared

    def init(self, dims: Dims, batch: int, like: Tensor) -> dict[str, Tensor]:
        width, dtype = self.head_width(dims.width), accumulating(like.dtype)
        state = {"s": like.new_zeros(batch, self.heads, *self.state_shape(width), dtype=dtype)}
        if self.conv > 1:
            rows = self.heads * width * (2 + self.value_factor)
            state["conv"] = like.new_zeros(batch, self.conv - 1, rows, dtype=dtype)
        return state

    def mix(
        self,
        params: Params,
        x: Float[Tensor, "B T E"],
        state: dict[str, Tensor],
        valid: Bool[Tensor, "B T"] | None,
        starts: Bool[Tensor, "B T"] | None,
        form: str = "auto",
    ) -> tuple[Float[Tensor, "B T E"], dict[str, Tensor]]:
        form = self.chosen(form, x.shape[1])
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        qkv = linear(x, params["qkv"], params.get("qkv_bias"))
        dtype = accumulating(x.dtype)
        qkv, after = qkv.to(dtype), {}
        with torch.autocast(x.device.type, enabled=False):
            if self.conv:
                before = state["conv"].to(dtype) if self.conv > 1 else qkv[:, :0]
                qkv, last = convolve(qkv, params["conv"].to(dtype), before, valid, starts)
                qkv = silu(qkv)
                if self.conv > 1:
                    after["conv"] = last
            width = self.head_width(x.shape[-1])
            parts = qkv.split([self.heads * width, self.heads * width, self.heads * width * self.value_factor], -1)
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
            tokens, kept = self.read(params, x, q, k, v, state, valid, starts)
            o, after["s"] = recurrence(tokens, state["s"].to(dtype), form)
        y = linear(self.write(params, x, o).to(x.dtype), params["out"], params.get("out_bias"))
        if valid is not None:
            y = y.masked_fill(~valid[..., None], 0.0)
        return y, after | kept
