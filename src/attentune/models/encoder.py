"""Tokens to vectors that know of each other: an encoder from a `ModelSpec`."""

from __future__ import annotations

from typing import final

from attentune.kernels.layout import Layout
from attentune.layers.attention import OUTPUT
from attentune.models.transformer import Hidden, Transformer
from attentune.shapes import Int, Tensor


@final
class Encoder(Transformer):
    """The layers alone, without a head: what classifiers, taggers and the encoder of a translator are made of."""

    def forward(
        self, ids: Int[Tensor, "B T"], layout: Layout | None = None, *, wanted: frozenset[str] = OUTPUT
    ) -> Hidden:
        """The vectors of every token; the arguments are those of `hidden_states`."""
        return self.hidden_states(ids, layout, wanted=wanted)
