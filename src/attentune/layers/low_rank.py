"""Low-rank adapters (LoRA, arXiv:2106.09685).

    W' = W + alpha / r B A        A [r columns] drawn, B [rows r] zero at first

W stays as it is; A and B learn. `merge_adapters` makes W' the weight again, a plain one.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal, final

import torch
from torch import nn
from torch.nn.utils import parametrize

from attentune.layers.attention import Attention
from attentune.layers.feed_forward import FeedForward
from attentune.shapes import Float, Tensor


@final
class LowRank(nn.Module):
    """What is added to a matrix [rows columns]: alpha / r B A."""

    def __init__(self, matrix: Float[Tensor, "rows columns"], *, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = matrix.shape
        bound = 1 / sqrt(columns)
        self.a = nn.Parameter(matrix.new_empty(rank, columns).detach().uniform_(-bound, bound))
        self.b = nn.Parameter(matrix.new_zeros(rows, rank).detach())
        self.factor = alpha / rank

    def forward(self, matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return torch.addmm(matrix, self.b, self.a, alpha=self.factor)


def add_adapters(model: nn.Module, *, rank: int, alpha: float, where: Literal["attention", "all"]) -> int:
    """Puts an adapter on every matrix of the attentions, with `all` also of the feed-forward networks.

    Gives the number of adapters. A matrix of fewer than `rank` rows or columns gets one of that rank all the same.
    """
    places: list[tuple[nn.Module, str]] = []
    for module in model.modules():
        if isinstance(module, Attention):
            held = module.held["heads"]
            places += [(values, name) for values in held for name, own in values.params.items() if own.ndim == 2]
        elif isinstance(module, FeedForward) and where == "all":
            places += [(module, "up"), (module, "down")]
    for part, name in places:
        adapter = LowRank(getattr(part, name), rank=rank, alpha=alpha)
        parametrize.register_parametrization(part, name, adapter)
    return len(places)


def merge_adapters(model: nn.Module) -> None:
    """Makes what every adapter gives a plain weight under its own name; without adapters nothing happens."""
    for module in list(model.modules()):
        if isinstance(module, LowRank | parametrize.ParametrizationList) or not parametrize.is_parametrized(module):
            continue
        assert isinstance(module.parametrizations, nn.ModuleDict)
        for name in list(module.parametrizations):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
