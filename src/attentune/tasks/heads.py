"""What stands on an encoder: pooling and a linear layer for whole texts, a linear layer for each token."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal, final

import torch
from torch import nn
from torch.nn.functional import dropout, linear, softmax

from attentune.kernels.layout import Layout
from attentune.models.transformer import Transformer
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.model import ModelSpec

PoolingName = Literal["mean", "first", "attention", "max"]


@dataclass
class HeadOutput:
    """Logits of `P` places (one for a whole row, or all tokens), losses to add, the trunk's vectors of the tokens.

    In training an ensemble gives those of each member, along an axis before the others.
    """

    logits: Float[Tensor, "*members B P C"]
    losses: dict[str, Tensor]
    hidden: Float[Tensor, "B T E"]
    depths: Int[Tensor, "B T"] | None = None


@final
class Pooling(nn.Module):
    """The vectors of a row's real tokens as one.

    `mean` of all; `max` of each column; `first` takes the first token's, which stands for the class; `attention` weighs
    each by softmax(x . w), w learned (arXiv:1703.03130, with one hop and no hidden layer).
    """

    def __init__(self, name: PoolingName, *, width: int) -> None:
        super().__init__()
        self.name = name
        self.query: nn.Parameter | None = None
        if name == "attention":
            self.query = nn.Parameter(torch.zeros(width))  # the mean, to begin with

    def forward(self, x: Float[Tensor, "B T E"], valid: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B E"]:
        if self.name == "first":
            return x[:, 0]
        if self.query is not None:
            scores = x @ self.query
            if valid is not None:
                scores = scores.masked_fill(~valid, float("-inf"))
            weights: Tensor = softmax(scores.float(), -1).to(x.dtype)
            return torch.einsum("bt,bte->be", weights, x)
        if valid is None:
            return x.mean(1) if self.name == "mean" else x.amax(1)
        if self.name == "max":
            return x.masked_fill(~valid[..., None], float("-inf")).amax(1)
        kept = x.masked_fill(~valid[..., None], 0.0)
        return kept.sum(1) / valid.sum(1, keepdim=True).to(x.dtype)


@final
class Output(nn.Module):
    """W x + b: a logit for each of `classes`."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        bound = 1 / sqrt(width)
        self.weight = nn.Parameter(torch.empty(classes, width).uniform_(-bound, bound))
        self.weight.role = "head"  # type: ignore[attr-defined]
        self.bias = nn.Parameter(torch.zeros(classes))
        self.bias.weight_decay = False  # type: ignore[attr-defined]

    def forward(self, x: Float[Tensor, "... E"]) -> Float[Tensor, "... C"]:
        y: Tensor = linear(x, self.weight, self.bias)
        return y


def with_hidden_words(
    ids: Int[Tensor, "B T"], share: float, *, unknown: int, special: Int[Tensor, " S"]
) -> Int[Tensor, "B T"]:
    """`ids` with a share of them, drawn anew, read as `unknown`; those that are `special` stay."""
    drawn = torch.rand(ids.shape, device=ids.device) < share
    return ids.masked_fill(drawn & ~torch.isin(ids, special), unknown)


class Headed(nn.Module):
    """An encoder's trunk, tokens of which may be hidden from it in training, and an output layer.

    `hidden_share` of the tokens that stand for text are read as `unknown` in training (word dropout,
    arXiv:1511.06349): the model learns not to hang on single words, and what an unknown word looks like. Tokens whose
    numbers are `special` stay.
    """

    has_memory = False
    special: Tensor

    def __init__(
        self,
        spec: ModelSpec,
        *,
        classes: int,
        dropout: float,
        hidden_share: float,
        unknown: int,
        special: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = Transformer(spec)
        self.halting = self.trunk.halting
        self.output = Output(spec.width, classes)
        self.dropout, self.hidden_share, self.unknown = dropout, hidden_share, unknown
        self.register_buffer("special", torch.tensor(special), persistent=False)

    def bind(self, **choice: object) -> None:
        """Choose the kernels of every attention, as `Transformer.bind`."""
        self.trunk.bind(**choice)  # type: ignore[arg-type]

    def shown(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """`ids`, in training with some of them hidden."""
        if not self.training or not self.hidden_share:
            return ids
        return with_hidden_words(ids, self.hidden_share, unknown=self.unknown, special=self.special)

    def thinned(self, x: Float[Tensor, "... E"]) -> Float[Tensor, "... E"]:
        """Dropout in training."""
        return dropout(x, self.dropout) if self.training and self.dropout else x


@final
class Classifier(Headed):
    """Logits of a whole row: output(dropout(pool(trunk(ids))))."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        classes: int,
        pooling: PoolingName,
        dropout: float,
        hidden_share: float,
        unknown: int,
        special: tuple[int, ...],
    ) -> None:
        super().__init__(
            spec, classes=classes, dropout=dropout, hidden_share=hidden_share, unknown=unknown, special=special
        )
        self.pooling = Pooling(pooling, width=spec.width)

    def forward(self, ids: Int[Tensor, "B T"], layout: Layout | None = None) -> HeadOutput:
        """Logits [B 1 C]."""
        given = self.trunk.hidden_states(self.shown(ids), layout)
        pooled = self.pooling(given.x, None if layout is None else layout.query.valid)
        logits = self.output(self.thinned(pooled))[:, None]
        return HeadOutput(logits, given.losses, hidden=given.x, depths=given.depths)


@final
class Tagger(Headed):
    """Logits of every token: output(dropout(trunk(ids)))."""

    def forward(self, ids: Int[Tensor, "B T"], layout: Layout | None = None) -> HeadOutput:
        """Logits [B T C]."""
        given = self.trunk.hidden_states(self.shown(ids), layout)
        return HeadOutput(self.output(self.thinned(given.x)), given.losses, hidden=given.x, depths=given.depths)
