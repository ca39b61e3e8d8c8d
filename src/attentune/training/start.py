"""Where training starts from: weights drawn as PyTorch's own modules draw them."""

from __future__ import annotations

from math import sqrt

import torch
from torch import nn

from attentune.training.optimizers import decays, role


@torch.no_grad()
def start_wide(model: nn.Module, *, seed: int) -> None:
    """Draws embeddings from N(0, 1), and matrices and the head uniformly from +-1 / sqrt(columns).

    That is how `nn.Embedding` and `nn.Linear` begin (biases stay 0). Narrow models learn to compare tokens much later
    from the small weights (standard deviation .02) that suit wide ones: at width 64 the scores of attention start 13
    times smaller.
    What a value fills with a constant, and what does not decay, stays as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.empty(parameter.shape)
        if role(parameter) == "embedding":
            parameter.copy_(drawn.normal_(0.0, 1.0, generator=generator))
        elif decays(parameter) and parameter.ndim == 2 and parameter.std() > 0:
            bound = 1 / sqrt(parameter.shape[1])
            parameter.copy_(drawn.uniform_(-bound, bound, generator=generator))
