"""The position-wise network of a layer."""

from __future__ import annotations

from math import sqrt
from typing import final

import torch
from torch import nn
from torch.nn.functional import gelu, linear, relu, silu

from attentune.shapes import Float, Tensor
from attentune.spec.model import FeedForwardSpec


@final
class FeedForward(nn.Module):
    """`gelu`: W2 gelu(W1 x); `relu2`: W2 relu(W1 x)^2; `swiglu`: W2 (silu(W1 x) * W3 x)."""

    def __init__(self, spec: FeedForwardSpec, *, width: int, depth: int, bias: bool) -> None:
        super().__init__()
        self.name = spec.name
        hidden = spec.hidden_width(width)
        rows = 2 * hidden if spec.name == "swiglu" else hidden
        self.up = nn.Parameter(torch.empty(rows, width).normal_(0.0, 0.02))
        self.down = nn.Parameter(torch.empty(width, hidden).normal_(0.0, 0.02 / sqrt(2 * depth)))
        self.up_bias = nn.Parameter(torch.zeros(rows)) if bias else None
        self.down_bias = nn.Parameter(torch.zeros(width)) if bias else None
        for parameter in (self.up_bias, self.down_bias):
            if parameter is not None:
                parameter.weight_decay = False  # type: ignore[attr-defined]

    def forward(self, x: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        hidden = linear(x, self.up, self.up_bias)
        if self.name == "gelu":
            hidden = gelu(hidden)
        elif self.name == "relu2":
            hidden = relu(hidden).square()
        else:
            gate, value = hidden.chunk(2, -1)
            hidden = silu(gate) * value
        return linear(hidden, self.down, self.down_bias)
