"""Normalisation layers, called with the tokens that are real."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import nn
from torch.nn.functional import batch_norm, layer_norm, rms_norm

from attentune.shapes import Bool, Float, Tensor


@final
class LayerNorm(nn.Module):
    """y = gain (x - mean) / sqrt(var + eps) + bias over the model width (arXiv:1607.06450)."""

    def __init__(self, width: int, *, bias: bool, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        _exempt(self)

    def forward(self, x: Float[Tensor, "B T E"], valid: Bool[Tensor, "..."] | None = None) -> Float[Tensor, "B T E"]:
        return layer_norm(x, self.gain.shape, self.gain, self.bias, self.epsilon)


@final
class RMSNorm(nn.Module):
    """y = gain x / sqrt(mean of x^2 + eps) over the model width (arXiv:1910.07467)."""

    def __init__(self, width: int, *, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.gain = nn.Parameter(torch.ones(width))
        _exempt(self)

    def forward(self, x: Float[Tensor, "B T E"], valid: Bool[Tensor, "..."] | None = None) -> Float[Tensor, "B T E"]:
        return rms_norm(x, self.gain.shape, self.gain, self.epsilon)


@final
class BatchNorm(nn.Module):
    """Each column normalised over all real tokens of the batch (arXiv:1502.03167).

    While training, the statistics of a batch hold its later tokens too: the training loss of a causal
    model is then a little too good. Evaluation uses running statistics and is exact.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, *, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        _exempt(self)

    def forward(self, x: Float[Tensor, "B T E"], valid: Bool[Tensor, "..."] | None = None) -> Float[Tensor, "B T E"]:
        if not self.training:
            scale = self.gain * torch.rsqrt(self.var + self.epsilon)
            return (x - self.mean) * scale + self.bias
        if x.dtype.itemsize < 4:  # sums over a whole batch need float32
            return self._by_batch(x.float(), valid).to(x.dtype)
        return self._by_batch(x, valid)

    def _by_batch(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None and x.dtype is self.mean.dtype:
            running = (self.mean, self.var, self.gain, self.bias)
            flat = batch_norm(x.flatten(0, 1), *running, True, self.momentum, self.epsilon)
            return flat.view_as(x)
        real = x.new_ones(*x.shape[:2], 1) if valid is None else valid.expand(x.shape[:2])[..., None].to(x.dtype)
        count = real.sum().clamp(min=1)
        clean = torch.where(real > 0, x, 0)
        mean = clean.sum((0, 1)) / count
        var = ((clean - mean) ** 2 * real).sum((0, 1)) / count
        with torch.no_grad():
            self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
            self.var.lerp_((var * count / (count - 1).clamp(min=1)).to(self.var.dtype), self.momentum)
        return (x - mean) * torch.rsqrt(var + self.epsilon) * self.gain + self.bias


def make_norm(
    name: Literal["layer", "rms", "batch"], width: int, *, bias: bool, epsilon: float | None = None
) -> nn.Module:
    """The normalisation called `name` in a `ModelSpec`; without an `epsilon`, the usual one of its kind."""
    own = {} if epsilon is None else {"epsilon": epsilon}
    if name == "layer":
        return LayerNorm(width, bias=bias, **own)
    return RMSNorm(width, **own) if name == "rms" else BatchNorm(width, **own)


def _exempt(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.weight_decay = False  # type: ignore[attr-defined]
