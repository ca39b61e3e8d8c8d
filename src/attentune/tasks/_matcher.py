"""Texts as directions: one encoder for what is asked and for what may be the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import nn
from torch.nn.functional import normalize

from attentune.kernels.layout import Layout
from attentune.layers.dropout import dropout
from attentune.models.transformer import Transformer
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.model import ModelSpec
from attentune.tasks.heads import with_hidden_words

SAME = -1e4  # the logit of a right answer of another row
START_SCALE, START_BIAS = 5.0, -2.5  # of labelled pairs: probability .5 at cosine .5


@dataclass
class Compared:
    """Logits of texts held against each other, and losses to add: [2 B B] from questions to answers and back, or of
    pairs with labels [B 1]."""

    logits: Float[Tensor, "..."]
    losses: dict[str, Tensor]


@final
class Matcher(nn.Module):
    """A text is the weighted mean of its tokens' vectors, made as long as 1; texts are compared by the cosine.

    `weights` [V] of the tokens and `index` [N E], the vectors of the collection, are buffers: what data and training
    decide beside the parameters. Where pairs have labels the logit of a pair is a cosine + b, with a and b learned.
    """

    has_memory = False
    weights: Tensor
    index: Tensor
    special: Tensor

    def __init__(
        self,
        spec: ModelSpec,
        *,
        weights: Float[Tensor, " V"],
        collection: int,
        temperature: float,
        labelled: bool,
        dropout: float,
        hidden_share: float,
        unknown: int,
        special: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = Transformer(spec)
        self.halting = self.trunk.halting
        self.register_buffer("weights", weights.clone())
        self.register_buffer("index", torch.zeros(collection, spec.width))
        self.temperature, self.dropout, self.hidden_share = temperature, dropout, hidden_share
        self.unknown = unknown
        self.register_buffer("special", torch.tensor(special), persistent=False)
        self.scale: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if labelled:
            self.scale, self.bias = (nn.Parameter(torch.tensor(x)) for x in (START_SCALE, START_BIAS))

    def bind(self, **choice: object) -> None:
        """Choose the kernels of every attention, as `Transformer.bind`."""
        self.trunk.bind(**choice)  # type: ignore[arg-type]

    def embed(
        self, ids: Int[Tensor, "B T"], layout: Layout | None = None
    ) -> tuple[Float[Tensor, "B E"], dict[str, Tensor]]:
        """The vectors of texts, of length 1, and losses to add; in training some tokens are read as unknown ones."""
        weight = self.weights[ids]
        if layout is not None and layout.query.valid is not None:
            weight = weight * layout.query.valid
        if self.training and self.hidden_share:
            ids = with_hidden_words(ids, self.hidden_share, unknown=self.unknown, special=self.special)
        given = self.trunk.hidden_states(ids, layout)
        kept = given.x if layout is None else given.x.masked_fill((weight == 0)[..., None], 0.0)
        pooled = torch.einsum("bt,bte->be", weight.to(kept.dtype), kept)
        if self.training and self.dropout:
            pooled = dropout(pooled, self.dropout)
        return normalize(pooled.float(), dim=-1), given.losses

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        layout: Layout | None = None,
        *,
        source: Int[Tensor, "B S"],
        source_layout: Layout | None = None,
        same: Bool[Tensor, "B B"] | None = None,
    ) -> Compared:
        """Each row of `ids` against the `source` of its own row, or, without labels, of every row.

        `same` is True where the answer of another row is as right as a row's own one: it is no wrong answer then.
        """
        asked, losses = self.embed(ids, layout)
        other, more = self.embed(source, source_layout)
        together = {name: losses[name] + more[name] for name in losses}
        if self.scale is not None and self.bias is not None:
            cosine = (asked * other).sum(-1, keepdim=True)
            return Compared(self.scale * cosine + self.bias, together)
        logits = asked @ other.T / self.temperature
        if same is not None:
            logits = logits.masked_fill(same, SAME)
        return Compared(torch.stack([logits, logits.T]), together)
