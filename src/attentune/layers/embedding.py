"""Tokens to vectors, and what is added to tell their places."""

from __future__ import annotations

from math import sqrt
from typing import Literal, final

import torch
from torch import nn
from torch.nn.functional import embedding

from attentune.errors import SpecError
from attentune.kernels.layout import Layout
from attentune.layers.ngrams import NgramEmbedding
from attentune.shapes import Float, Int, Tensor
from attentune.spec.ngrams import NgramSpec


@final
class Embedding(nn.Module):
    """x = norm(table[token] (x sqrt(E), where `scale`) + n-grams + position); most models have no `norm` or n-grams.

    `sinusoidal` (arXiv:1706.03762): sin(p / 10000^(2i/E)) in even columns, cos of the same in odd ones.
    `learned` (arXiv:1705.03122): one vector for each of `context` positions.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        width: int,
        context: int,
        position: Literal["none", "sinusoidal", "learned"],
        scale: bool,
        norm: nn.Module | None = None,
        ngrams: NgramSpec | None = None,
    ) -> None:
        super().__init__()
        self.position, self.factor = position, sqrt(width) if scale else 1.0
        std = 1 / sqrt(width) if scale else 0.02  # so that what enters the first layer has one size
        self.table = nn.Parameter(torch.empty(vocab_size, width).normal_(0.0, std))
        self.places = nn.Parameter(torch.empty(context, width).normal_(0.0, 0.02)) if position == "learned" else None
        self.norm = norm
        self.ngrams = None if ngrams is None else NgramEmbedding(ngrams, width=width)
        for parameter in (self.table, self.places):
            if parameter is not None:
                parameter.role = "embedding"  # type: ignore[attr-defined]

    def forward(self, ids: Int[Tensor, "B T"], layout: Layout, *, last: int = 0) -> Float[Tensor, "B T E"]:
        """`last` is the largest position that may occur, checked where positions are learned."""
        x: Tensor = embedding(ids, self.table)
        if self.factor != 1.0:
            x = x * self.factor
        if self.ngrams is not None:
            x = x + self.ngrams(ids, layout)
        if self.position != "none":
            x = x + self._position(layout, last).to(x.dtype)
        return x if self.norm is None else self.norm(x, layout.query.valid)

    def _position(self, layout: Layout, last: int) -> Float[Tensor, "B T E"]:
        place, width = layout.query.position, self.table.shape[1]
        if self.places is None:
            added: Tensor = layout.once(("sinusoid", width), lambda: sinusoid(place, width))
            return added
        if last >= self.places.shape[0]:
            raise SpecError(
                f"position {last} has no learned vector: the model knows {self.places.shape[0]} positions (its context)"
            )
        learned: Tensor = embedding(place, self.places)
        return learned


def sinusoid(place: Int[Tensor, "B T"], width: int) -> Float[Tensor, "B T E"]:
    """sin(p / 10000^(2i/E)) at column 2i, cos(p / 10000^(2i/E)) at column 2i + 1."""
    pairs = torch.arange(0, width, 2, device=place.device, dtype=torch.float64) / width
    angle = place[..., None] * 10000.0**-pairs
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :width]
