"""Vectors of hashed n-grams of tokens."""

from __future__ import annotations

from typing import final

import torch
from torch import nn
from torch.nn.functional import embedding

from attentune.kernels.layout import Layout
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.ngrams import NgramSpec

_FACTOR, _MIX, _SHIFT = 1_000_003, -7046029254386353131, 29  # 2^64 / golden ratio, as a signed number


@final
class NgramEmbedding(nn.Module):
    """The sum of the vectors of the n-grams that end at a token, see `attentune.spec.ngrams`.

    Tokens of one n-gram stand side by side in one document: none reaches over padding.
    """

    def __init__(self, spec: NgramSpec, *, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.tables = nn.ParameterList(torch.zeros(spec.buckets, width) for _ in range(2, spec.longest + 1))
        for table in self.tables:
            table.role = "embedding"

    def forward(self, ids: Int[Tensor, "B T"], layout: Layout) -> Float[Tensor, "B T E"]:
        place, valid = layout.query.position.expand(ids.shape), layout.query.valid
        there = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid.expand(ids.shape)
        total = torch.zeros(*ids.shape, self.tables[0].shape[1], dtype=self.tables[0].dtype, device=ids.device)
        code = ids.long()
        for before, table in enumerate(self.tables, start=1):
            code = code * _FACTOR + _shifted(ids.long(), before)
            there = there & _follows(place, layout, before)
            kept = there
            if self.training and self.spec.dropout:
                kept = there & (torch.rand(ids.shape, device=ids.device) >= self.spec.dropout)
            mixed = code * _MIX
            bucket = torch.remainder(mixed ^ (mixed >> _SHIFT), self.spec.buckets)
            total = total + embedding(bucket, table) * kept[..., None].to(table.dtype)
        return total


def _shifted(x: Int[Tensor, "B T"], by: int) -> Int[Tensor, "B T"]:
    """x_{t - by} at place t; zeros where the row has not begun."""
    return nn.functional.pad(x, (by, 0))[:, : x.shape[1]]


def _follows(place: Int[Tensor, "B T"], layout: Layout, by: int) -> Bool[Tensor, "B T"]:
    """Whether the token `by` slots before is the one `by` places before, of the same document."""
    follows = (place - _shifted(place, by) == by) & (place >= by)
    valid, document = layout.query.valid, layout.query.document
    if valid is not None:
        follows = follows & _shifted(valid.expand(place.shape).long(), by).bool()
    if document is not None:
        follows = follows & (document == _shifted(document, by))
    return follows
