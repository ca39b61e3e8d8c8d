"""What stands between the last layer and the logits."""

from __future__ import annotations

from typing import final

import torch
from torch import nn
from torch.nn.functional import linear

from attentune.layers.feed_forward import GATED, PLAIN
from attentune.shapes import Float, Tensor
from attentune.spec.model import FeedForwardSpec


@final
class HeadTransform(nn.Module):
    """h -> norm(f(W h + b)), before the hidden states meet the vocabulary (BERT, arXiv:1810.04805).

    f is the activation of the model's feed-forward networks.
    """

    def __init__(self, feed_forward: FeedForwardSpec, *, width: int, norm: nn.Module) -> None:
        super().__init__()
        self.activation = {**PLAIN, **GATED}[feed_forward.name]
        self.weight = nn.Parameter(torch.empty(width, width).normal_(0.0, 0.02))
        self.bias = nn.Parameter(torch.zeros(width))
        self.bias.weight_decay = False  # type: ignore[attr-defined]
        self.norm = norm

    def forward(self, h: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        y: Tensor = self.norm(self.activation(linear(h, self.weight, self.bias)))
        return y
