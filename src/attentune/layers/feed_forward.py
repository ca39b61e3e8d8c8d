"""The position-wise network of a layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import final

import torch
from torch import nn
from torch.nn.functional import gelu, linear, relu, silu

from attentune.shapes import Float, Tensor
from attentune.spec.model import FeedForwardSpec

Activation = Callable[[Tensor], Tensor]
gelu_tanh: Activation = partial(gelu, approximate="tanh")


def relu2(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """relu(x)^2 (arXiv:2109.08668)."""
    return relu(x).square()


PLAIN: dict[str, Activation] = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": relu, "relu2": relu2, "silu": silu}
GATED: dict[str, Activation] = {"swiglu": silu, "geglu": gelu, "geglu_tanh": gelu_tanh}


@final
class FeedForward(nn.Module):
    """W2 f(W1 x), or W2 (f(W1 x) * W3 x) where the name is that of a gated network; W1 and W3 are one matrix."""

    def __init__(self, spec: FeedForwardSpec, *, width: int, depth: int, bias: bool) -> None:
        super().__init__()
        self.gated = spec.gated
        self.activation = (GATED if self.gated else PLAIN)[spec.name]
        hidden = spec.hidden_width(width)
        rows = 2 * hidden if self.gated else hidden
        self.up = nn.Parameter(torch.empty(rows, width).normal_(0.0, 0.02))
        self.down = nn.Parameter(torch.empty(width, hidden).normal_(0.0, 0.02 / sqrt(2 * depth)))
        self.up_bias = nn.Parameter(torch.zeros(rows)) if bias else None
        self.down_bias = nn.Parameter(torch.zeros(width)) if bias else None
        for parameter in (self.up_bias, self.down_bias):
            if parameter is not None:
                parameter.weight_decay = False  # type: ignore[attr-defined]

    def forward(self, x: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        hidden = linear(x, self.up, self.up_bias)
        if self.gated:
            gate, value = hidden.chunk(2, -1)
            hidden = self.activation(gate) * value
        else:
            hidden = self.activation(hidden)
        return linear(hidden, self.down, self.down_bias)
