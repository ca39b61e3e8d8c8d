"""Where training starts from: weights drawn as PyTorch's own modules draw them."""

from __future__ import annotations

import warnings
from math import sqrt

import torch
from torch import nn

from attentune.layers.embedding import Embedding
from attentune.training.optimizers import decays, role

DROWNED = 0.1  # size of embeddings beside sinusoids of size 1


class StartWarning(UserWarning):
    """Weights that training will hardly get away from."""


@torch.no_grad()
def warn_of_drowned_tokens(model: nn.Module) -> None:
    """Warns where sinusoids, whose size is 1, are added to embeddings that are much smaller: a model learns nothing.

    The paper that adds them (arXiv:1706.03762, section 3.4) multiplies embeddings by sqrt(width) for that reason.
    """
    for module in model.modules():
        if isinstance(module, Embedding) and module.position == "sinusoidal":
            size = float(module.table.std()) * module.factor
            if size < DROWNED:
                warnings.warn(
                    f"position=sinusoidal adds numbers of size 1 to embeddings of size {size:.2g}, which are hardly "
                    "seen beside them: set scale_embeddings=true, or use another position such as rotary",
                    StartWarning,
                    stacklevel=3,
                )
                return


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
